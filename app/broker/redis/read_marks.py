"""Marks in Redis: a hash for each user, and a count of messages in the meta of each room.

A user's marks and a room may be on different servers of a Cluster, so no script uses both. A room's count of messages
never decreases, unless the server has lost events: then the marks of earlier epochs are compared with the count at the
beginning of the next epoch (see ``lua/room.lua``).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple

from ...errors import Unavailable
from ..base import UserId
from ..read_marks import MAX_MARKS, Mark, ReadMarks
from .history import split_id
from .keys import Keys
from .options import RedisOptions
from .router import Router
from .scripts import Script
from .subscriptions import Subscriptions

log = logging.getLogger("roomcast.redis")

_COUNT_UNTIL: Final = Script("room", "positions", "count_until", stamped=True)
_UNREAD_COUNTS: Final = Script("room", "positions", "unread_counts", stamped=True)
_MARK_READ: Final = Script("mark_read")

#: At most one message of a user in a room within this time moves the mark in Redis at once; the last one does it at the
#: end. In seconds.
_OWN_INTERVAL: Final = 1.0
#: How long ``close`` waits for the marks of messages, in seconds.
_CLOSE_TIMEOUT: Final = 1.0


class _Position(NamedTuple):
    """A mark in Redis."""

    epoch: int
    offset: int
    messages: int

    @classmethod
    def parse(cls, value: bytes) -> _Position:
        id, messages, _ = value.split(b" ")
        epoch, _, offset = id.partition(b"-")
        return cls(int(epoch), int(offset), int(messages))

    @property
    def id(self) -> str:
        return f"{self.epoch}-{self.offset}"

    def messages_read(self, counts: list[int]) -> int:
        """Return the number of messages up to this mark. ``counts`` is the reply of ``unread_counts.lua``.

        If the server that began the next epoch has lost events before the mark, all its events are unread.
        """
        for i in range(1, len(counts), 3):
            epoch, offset, messages = counts[i : i + 3]
            if epoch > self.epoch:
                return messages if self.offset > offset else min(self.messages, messages)
        return self.messages


class RedisMarks(ReadMarks):
    """The marks of all users. ``subscriptions`` know how many messages the listener has received."""

    def __init__(self, router: Router, keys: Keys, options: RedisOptions, subscriptions: Subscriptions) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._subscriptions: Final = subscriptions
        self._loop: Final = asyncio.get_running_loop()
        self._ttl_ms: Final = options.read_ttl_ms
        self._limits: Final = options.limits
        #: By room: the reply of ``unread_counts.lua`` that is awaited.
        self._counts: Final[dict[str, asyncio.Future[list[int]]]] = {}
        #: The users who have published a message in a room within ``_OWN_INTERVAL``, with their newest message that is
        #: not written yet.
        self._own: Final[dict[tuple[UserId, str], tuple[str, int] | None]] = {}
        self._writing: Final[set[asyncio.Future[bytes]]] = set()

    # Reading.

    async def move(self, room: str, user_id: UserId, event_id: str) -> Mark | None:
        """See ``ReadMarks``."""
        self._write_own((user_id, room))
        epoch, offset = split_id(event_id)
        if offset == "0":
            return None
        subscription = self._subscriptions.get(room)
        if subscription is not None and (subscription.epoch, str(subscription.last_offset)) == (epoch, offset):
            messages = subscription.messages
        else:
            keys = (self._keys.meta(room), self._keys.stream(room))
            messages = await self._router.run(_COUNT_UNTIL, keys, (epoch, offset))
            if messages is None:
                return None
        value = await self._write(user_id, room, f"{epoch}-{offset}", messages)
        mark = _Position.parse(value)
        if mark.id != event_id:  # the user had a newer one
            is_comparable = mark.epoch == int(epoch)
            counts = [] if is_comparable else await asyncio.shield(self._read_counts(room))
            messages = mark.messages_read(counts)
        return Mark(mark.id, messages)

    async def count_read(self, room: str, user_id: UserId) -> int:
        """See ``ReadMarks``. Takes one round trip."""
        self._write_own((user_id, room))
        key = self._keys.marks(user_id)
        counts_reply = asyncio.shield(self._read_counts(room))
        value, counts = await asyncio.gather(self._router.call(key, "HGET", key, room), counts_reply)
        return counts[0] if value is None else _Position.parse(value).messages_read(counts)

    def count_all(self, room: str) -> int:
        """See ``ReadMarks``."""
        subscription = self._subscriptions.get(room)
        return 0 if subscription is None else subscription.messages

    def _read_counts(self, room: str) -> asyncio.Future[list[int]]:
        """Return the reply of ``unread_counts.lua``. Users who join a room at the same time share it."""
        reply = self._counts.get(room)
        if reply is None:
            keys = (self._keys.meta(room), self._keys.stream(room))
            limits = self._limits.of(room)
            args = (limits.history_size, limits.ttl_ms)
            reply = self._counts[room] = self._router.run(_UNREAD_COUNTS, keys, args)
            reply.add_done_callback(lambda _: self._counts.pop(room))
        return reply

    # Writing.

    def _write(self, user_id: UserId, room: str, event_id: str, messages: int) -> asyncio.Future[bytes]:
        epoch, _, offset = event_id.partition("-")
        args = (room, epoch, offset, messages, self._ttl_ms, MAX_MARKS)
        return self._router.run(_MARK_READ, (self._keys.marks(user_id),), args)

    def on_message(self, author: UserId, room: str, event_id: str, messages: int) -> None:
        """Move the mark of the author of a message to it: the first one within ``_OWN_INTERVAL`` at once."""
        key = (author, room)
        if key in self._own:
            self._own[key] = (event_id, messages)
            return
        self._own[key] = (event_id, messages)
        self._write_own(key)
        self._loop.call_later(_OWN_INTERVAL, self._end_interval, key)

    def _end_interval(self, key: tuple[UserId, str]) -> None:
        if self._own[key] is None:
            del self._own[key]
        else:
            self._write_own(key)
            self._loop.call_later(_OWN_INTERVAL, self._end_interval, key)

    def _write_own(self, key: tuple[UserId, str]) -> None:
        """Write the mark of an own message that is not written yet, before what is sent to Redis next."""
        if (mark := self._own.get(key)) is None:
            return
        self._own[key] = None
        try:
            reply = self._write(*key, *mark)
        except Unavailable as error:
            log.debug("The mark of a message could not be written: %s", error.detail)
        else:
            self._writing.add(reply)
            reply.add_done_callback(self._on_written)

    def _on_written(self, reply: asyncio.Future[bytes]) -> None:
        self._writing.discard(reply)
        if not reply.cancelled() and (error := reply.exception()) is not None:
            log.debug("The mark of a message could not be written: %s", error)

    async def close(self) -> None:
        """Write the marks that are not written yet, within ``_CLOSE_TIMEOUT``."""
        for key in list(self._own):
            self._write_own(key)
        if self._writing:
            await asyncio.wait(self._writing, timeout=_CLOSE_TIMEOUT)
