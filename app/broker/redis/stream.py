"""Read rooms from Redis: the stream with a room's events, and the room's state."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial
from typing import Any, Final, NamedTuple

from ..base import MAX_PAGE_BYTES, PAGE_EVENT_OVERHEAD, Event
from .connection import Part
from .keys import Keys
from .options import RedisOptions
from .router import Router
from .scripts import Script
from .topology import ServerName

HISTORY: Final = Script("room", "positions", "history", stamped=True)
ROOM_STATE: Final = Script("room", "positions", "room_state", stamped=True)

#: How many pages are read for clients at once from one server. The server and this node process replies in order, so
#: the replies to others wait for them: at most 2 MB, which takes about 5 ms.
MAX_READING: Final = 8

#: A position before every event of a room that had no event yet: its epoch, which is lower than all others.
BEFORE_ALL: Final = "0"


class StreamPage(NamedTuple):
    """Events of a stream, and its state when they were read.

    ``last_offset`` is the newest offset of ``epoch``, or 0 for a room without events. ``is_complete`` is True if the
    stream still contains all events after the requested id, and none was lost; ``events`` are the oldest of them, and
    ``is_last`` is True if they are all of them. ``has_older`` is as in ``History``. If ``is_complete`` is False, a node
    continues after ``continues_at`` in ``epoch``. ``is_final`` is False if a node that has not reported its positions
    yet may have seen events that are lost. ``messages`` is the number of messages up to the last event, if a node reads
    the page.
    """

    epoch: str
    last_offset: int
    is_complete: bool
    events: list[Event]
    continues_at: int
    is_final: bool
    has_older: bool
    messages: int

    @property
    def is_last(self) -> bool:
        """True if the page has the room's newest event, or no events."""
        return not self.events or self.events[-1].id == f"{self.epoch}-{self.last_offset}"


class StreamReader:
    """Reads streams and states, with the TTLs of ``options``."""

    def __init__(self, router: Router, keys: Keys, options: RedisOptions) -> None:
        self._router: Final = router
        self._keys: Final = keys
        #: The limits of the rooms' streams.
        self.limits: Final = options.limits
        #: By server, the slots for pages that are read for clients.
        self._slots: Final[defaultdict[ServerName, asyncio.Semaphore]] = defaultdict(
            partial(asyncio.Semaphore, MAX_READING)
        )
        #: The arguments that are the same for all calls.
        self._fixed_args: Final[tuple[Part, ...]] = (
            options.room_ttl_ms,
            options.extension_ms,
            "SPUBLISH" if router.topology.is_cluster else "PUBLISH",
        )

    async def read_for_client(self, room: str, *args: Any, **options: Any) -> StreamPage:
        """Do the same as ``read``, but wait while ``MAX_READING`` pages are read from the server of ``room``."""
        server = self._router.topology.name(self._keys.stream(room).encode())
        async with self._slots[server]:
            return await self.read(room, *args, **options)

    async def read(
        self,
        room: str,
        epoch: str,
        offset: str,
        limit: int,
        size: int,
        *,
        before: str = "",
        max_bytes: int = MAX_PAGE_BYTES,
        is_node: bool = False,
    ) -> StreamPage:
        """Return the events after the id ``<epoch>-<offset>``.

        If both are empty, return the newest events, or those before the id ``before`` if that is not empty. Only the
        newest ``size`` events count as stored. ``limit`` and ``max_bytes`` are as in ``Broker.history``. With
        ``is_node``, the id is this node's position in the room; then every loss that it proves is recorded. Raises
        ``Unavailable``.
        """
        keys = (self._keys.meta(room), self._keys.stream(room))
        args = (
            *(*self._fixed_args, epoch, offset, "1" if is_node else "", size, self.limits.of(room).ttl_ms),
            *(limit, max_bytes, PAGE_EVENT_OVERHEAD, before),
        )
        reply = await self._router.run(HISTORY, keys, args)
        newest_epoch, newest, is_complete, found, continues_at, is_final, has_older, messages = reply
        events = [Event(found[i].decode(), found[i + 1]) for i in range(0, len(found), 2)]
        if not epoch:
            events.reverse()
        return StreamPage(
            newest_epoch.decode(),
            int(newest),
            is_complete == 1,
            events,
            int(continues_at),
            is_final == 1,
            has_older == 1,
            messages,
        )

    def read_state(self, room: str, epoch: str, offset: int, *, wait: float = 0.0) -> asyncio.Future[Any]:
        """Report this node's position in ``room``, and return the room's state; see ``state_args``.

        Raises ``Unavailable``, at once or from the future. ``wait`` is as in ``Router.run``.
        """
        keys = (self._keys.meta(room), self._keys.stream(room))
        return self._router.run(ROOM_STATE, keys, self.state_args(epoch, offset), wait=wait)

    def state_args(self, epoch: str, offset: int) -> tuple[Part, ...]:
        """Return the arguments of ROOM_STATE.

        The reply is the epoch, the newest offset and the number of messages, or None without events.

        ``epoch`` and ``offset`` are those of the newest event that the node has delivered or acknowledged. If the
        server lacks that event, it records that events were lost. The epoch is "" or BEFORE_ALL if the room has had no
        event.
        """
        return (*self._fixed_args, *(("", "") if epoch in ("", BEFORE_ALL) else (epoch, offset)))
