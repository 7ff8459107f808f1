"""Writes the presence of this node's users to the server.

Each write contains the current state of some users, not a change. Only one write per room is in flight. Users that
could not be written stay pending. So the server has the state of this node in the end, even if messages are lost. The
scripts announce what changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from ...errors import BrokerUnavailable, Unavailable
from .. import connection_set
from ..base import PresenceChange, UserId
from ..connection_set import ConnectionSet
from .presence_store import LEASE_EXPIRED, NO_LEASE, PresenceStore

log = logging.getLogger("roomcast.redis")

#: The maximum number of users in one write. It takes about 0.3 ms of the server's time.
_MAX_USERS: Final = 100

#: How a user left, as presence_write.lua expects it.
_ON_REQUEST, _LOST, _RESTORED = range(3)
#: A caller of ``enter`` (True), ``leave`` (False) or ``set_status`` (None), and the future it waits for.
Waiter = tuple[bool | None, asyncio.Future[PresenceChange]]


class LocalStatus:
    """The status of a user in a room, as far as this node knows it.

    ``stamp`` is the one that the server gave it, or 0 until its reply. ``is_announced`` is True if the members were
    told, or need not be told.
    """

    __slots__ = ("_is_sent", "_set_at", "is_announced", "stamp", "text")

    def __init__(self, text: str, stamp: int = 0, *, is_announced: bool = False) -> None:
        self.text: Final = text
        self.stamp: Final = stamp
        self.is_announced: Final = is_announced
        self._set_at: Final = time.monotonic()
        self._is_sent = False

    def as_argument(self) -> str:
        """Return it as presence_write.lua expects it in the next call."""
        if self.stamp:
            return f"{'=' if self.is_announced else '!'}{self.stamp} {self.text}"
        if self._is_sent:
            return f"-{round((time.monotonic() - self._set_at) * 1000)} {self.text}"
        self._is_sent = True
        return f"+{self.text}"


class LocalRoom:
    """This node's users in a room: ``users`` maps each to the username and the connections.

    ``total`` is the number of users on all nodes in the server's last reply. ``statuses`` has the users with a status
    that this node knows; it is None if there are none.
    """

    __slots__ = ("is_registered", "statuses", "total", "users")

    def __init__(self) -> None:
        self.users: dict[UserId, tuple[str, ConnectionSet]] = {}
        self.statuses: dict[UserId, LocalStatus] | None = None
        self.total = 0
        self.is_registered = False


class PendingUser:
    """A user whose state on the server may differ from the one on this node.

    ``written`` is the name with which this node wrote the user, or None if it did not. ``departure`` is how the last
    connection on this node left. ``waiters`` wait for the next write.
    """

    __slots__ = ("departure", "is_renamed", "waiters", "written")

    def __init__(self, written: str | None, departure: int = _ON_REQUEST) -> None:
        self.written = written
        self.is_renamed = False
        self.departure = departure
        self.waiters: list[Waiter] = []


class RoomWrites:
    """The writes that a room needs.

    ``pending`` contains all users whose state must be written, ``queue`` those of them to write next. ``rewrite`` lists
    users of this node to write again, the next one last. ``is_lease_unused`` is True if the node has a lease to remove,
    unless it has members again. ``task`` is the running write.
    """

    __slots__ = ("is_lease_unused", "pending", "queue", "rewrite", "task")

    def __init__(self) -> None:
        self.pending: dict[UserId, PendingUser] = {}
        self.queue: dict[UserId, None] = {}
        self.rewrite: list[UserId] = []
        self.is_lease_unused = False
        self.task: asyncio.Task[None] | None = None


class PresenceWriter:
    """Writes the users in ``rooms``, which ``Presence`` modifies."""

    def __init__(self, store: PresenceStore, rooms: dict[str, LocalRoom]) -> None:
        self._store: Final = store
        self._rooms: Final = rooms
        #: The rooms with open announcements, and when the next one is due, by ``time.monotonic``.
        self.due: Final[dict[str, float]] = {}
        #: Only rooms with pending users or a running write.
        self.writes: Final[dict[str, RoomWrites]] = {}
        #: The rooms in which the server may have users of this node who are not in ``rooms``, each with the number of
        #: the ``require_check`` call. The node keeps its lease there: without it, no node would remove these users.
        self.unchecked: Final[dict[str, int]] = {}
        self._required_checks = 0

    # Requests.

    def entered(self, room: str, user_id: UserId, written: str | None, username: str) -> asyncio.Future[PresenceChange]:
        """Write a user who entered; the result is what the caller must return.

        ``written`` is the name with which the user was written before this change, if no write is pending.
        """
        return self._change(room, user_id, written, entered=True, is_renamed=written != username)

    def left(self, room: str, user_id: UserId, written: str, *, is_lost: bool) -> asyncio.Future[PresenceChange]:
        """Write a user who left; see ``entered`` and ``Broker.leave``."""
        waiter = self._change(room, user_id, written, entered=False)
        self.writes[room].pending[user_id].departure = _LOST if is_lost else _ON_REQUEST
        return waiter

    def status_set(self, room: str, user_id: UserId, written: str) -> asyncio.Future[PresenceChange]:
        """Write a user whose status on this node has changed; the result is of no use."""
        return self._change(room, user_id, written, entered=None)

    def _change(
        self, room: str, user_id: UserId, written: str | None, *, entered: bool | None, is_renamed: bool = False
    ) -> asyncio.Future[PresenceChange]:
        writes = self._writes_of(room)
        pending = writes.pending.get(user_id)
        if pending is None:
            pending = writes.pending[user_id] = PendingUser(written)
        pending.is_renamed |= is_renamed
        waiter: asyncio.Future[PresenceChange] = asyncio.get_running_loop().create_future()
        pending.waiters.append((entered, waiter))
        writes.queue[user_id] = None
        self._start(room, writes)
        return waiter

    async def write_pending(self, room: str) -> None:
        """Write the users of ``room`` that could not be written before, unless a write is running."""
        writes = self.writes.get(room)
        if writes is not None and writes.task is None:
            writes.queue.update(dict.fromkeys(writes.pending))
            await asyncio.wait((self._start(room, writes),))

    async def write_again(self, room: str) -> None:
        """Write all users of this node in ``room``, because the server may have lost them."""
        writes = self._writes_of(room)
        self._queue_all(room, writes)
        await asyncio.wait((self._start(room, writes),))

    def require_check(self, room: str) -> None:
        """Add ``room`` to ``unchecked``."""
        self._required_checks += 1
        self.unchecked[room] = self._required_checks

    async def remove_restored(self, room: str, users: Iterable[UserId]) -> None:
        """Write that ``users`` are not in ``room`` on this node, which the server has restored from an older state.

        The members were told of their departure before. A user who has returned meanwhile stays. The lease of this node
        is removed if it has no members.
        """
        writes = self._writes_of(room)
        writes.is_lease_unused = room not in self._rooms
        for user_id in users:
            if user_id not in writes.pending:
                writes.pending[user_id] = PendingUser(None, _RESTORED)
                writes.queue[user_id] = None
        await asyncio.wait((self._start(room, writes),))

    async def remove_all(self, room: str, users: dict[UserId, tuple[str, ConnectionSet]]) -> None:
        """Write that ``users`` were lost, in addition to pending users. They are no longer in ``rooms``."""
        writes = self._writes_of(room)
        for user_id, (name, _) in users.items():
            writes.pending.setdefault(user_id, PendingUser(name)).departure = _LOST
        await self.write_again(room)

    async def close(self) -> None:
        """Cancel the running writes."""
        if tasks := [writes.task for writes in self.writes.values() if writes.task is not None]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def is_written(self, room: str) -> bool:
        """Return True if the server should have this node in ``room``: some of its users there are not pending."""
        local, writes = self._rooms.get(room), self.writes.get(room)
        if local is None or writes is None:
            return local is not None
        return any(user_id not in writes.pending for user_id in local.users)

    def set_due(self, room: str, milliseconds: int) -> None:
        """Store when the room's next announcement is due: in some ``milliseconds``, or never if that is negative."""
        if milliseconds >= 0:
            self.due[room] = time.monotonic() + milliseconds / 1000
        else:
            self.due.pop(room, None)

    def on_reply(self, room: str, due: int, total: int) -> None:
        """Store when the next announcement is due, and the number of users, from a script's reply."""
        self.set_due(room, due)
        local = self._rooms.get(room)
        if local is not None:
            local.total = total

    # Writing.

    def _writes_of(self, room: str) -> RoomWrites:
        writes = self.writes.get(room)
        if writes is None:
            writes = self.writes[room] = RoomWrites()
        return writes

    def _queue_all(self, room: str, writes: RoomWrites) -> None:
        """Queue all users of this node in ``room`` in their order of arrival, after those who left."""
        local = self._rooms.get(room)
        users = local.users if local is not None else {}
        writes.rewrite = list(reversed(users))
        writes.queue.update((user_id, None) for user_id in writes.pending if user_id not in users)

    def _start(self, room: str, writes: RoomWrites) -> asyncio.Task[None]:
        if writes.task is None:
            writes.task = asyncio.create_task(self._write_all(room, writes), name=f"roomcast presence {room}")
        return writes.task

    async def _write_all(self, room: str, writes: RoomWrites) -> None:
        """Write until no user is queued, or the server cannot be reached."""
        users: list[UserId] = []
        try:
            while (users := self._next_users(room, writes)) or writes.is_lease_unused:
                await self._write(room, writes, users)
        except Unavailable as error:
            _fail(writes, [*users, *writes.queue], error)
        except BaseException as error:
            _fail(writes, [*users, *writes.queue], BrokerUnavailable("This node is closing its broker."))
            if isinstance(error, Exception):
                log.exception("The presence in %s could not be written", room)
            else:
                raise
        finally:
            writes.task = None
            if not writes.pending and not writes.rewrite:
                del self.writes[room]

    def _next_users(self, room: str, writes: RoomWrites) -> list[UserId]:
        """Take the users of the next write from the queues. No write is in flight."""
        users = dict.fromkeys(islice(writes.queue, _MAX_USERS))
        for user_id in users:
            del writes.queue[user_id]
        local = self._rooms.get(room)
        while writes.rewrite and len(users) < _MAX_USERS:
            user_id = writes.rewrite.pop()
            known = local.users.get(user_id) if local is not None else None
            if known is not None and user_id not in users:
                writes.queue.pop(user_id, None)
                if user_id not in writes.pending:
                    writes.pending[user_id] = PendingUser(known[0])
                users[user_id] = None
        return list(users)

    async def _write(self, room: str, writes: RoomWrites, users: list[UserId]) -> None:
        """Write the current state of ``users``, and answer the waiters."""
        local = self._rooms.get(room)
        is_lease_expected = self.is_written(room)
        is_known = (
            is_lease_expected
            or writes.is_lease_unused
            or any(one.written is not None or one.departure == _RESTORED for one in writes.pending.values())
        )
        writes.is_lease_unused = False
        # A node with users that must still be removed keeps its lease. Without it they would stay if the node died.
        has_members: bool | None = local is not None or len(writes.pending) > len(users) or room in self.unchecked
        if not has_members and not is_known:
            has_members = None
        args: list[str | bytes | int] = []
        written = []
        sent: list[LocalStatus | None] = []
        for user_id in users:
            pending = writes.pending[user_id]
            known = local.users.get(user_id) if local is not None else None
            name, connections = known or (pending.written or "", None)
            count = 0 if connections is None else connection_set.size(connections)
            is_written, is_renamed = pending.written is not None, pending.is_renamed
            flag = int(is_renamed) if count else pending.departure
            status = local.statuses.get(user_id) if count and local is not None and local.statuses else None
            text = "" if status is None else status.as_argument()
            args += json.dumps(user_id), name.encode(errors="replace"), count, int(is_written), flag, text
            sent.append(status)
            written.append((user_id, pending, name if count else None, is_renamed, pending.waiters))
            pending.waiters, pending.is_renamed = [], False
        try:
            lease_state, changes, due, total, statuses = await self._write_and_register(room, local, has_members, args)
        except BaseException as error:
            for _, pending, _, is_renamed, waiters in written:
                pending.is_renamed |= is_renamed
                _fail_waiters(waiters, error)
            raise
        self.on_reply(room, due, total)
        if lease_state != NO_LEASE and not is_known:  # the server has lost that this node removed its lease
            self.require_check(room)
        if lease_state == LEASE_EXPIRED:
            self._store.protect_nodes()
        elif lease_state == NO_LEASE and is_lease_expected and not writes.rewrite:
            self._queue_all(room, writes)
        for index, stamp, text, is_waiting in statuses:
            status = LocalStatus(text.decode(), int(stamp), is_announced=not is_waiting)
            self._learn(room, users[index], sent[index], status)
        for (user_id, pending, present, _, waiters), has_changed in zip(written, changes, strict=True):
            pending.written = present
            if user_id not in writes.queue:
                del writes.pending[user_id]
            _answer(waiters, present is not None, bool(has_changed), total)

    def _learn(self, room: str, user_id: UserId, sent: LocalStatus | None, status: LocalStatus) -> None:
        """Store the ``status`` that the server has, unless another one than ``sent`` was set meanwhile."""
        local = self._rooms.get(room)
        if local is not None and user_id in local.users:
            if local.statuses is None:
                local.statuses = {}
            if local.statuses.get(user_id) is sent:
                local.statuses[user_id] = status

    async def _write_and_register(
        self, room: str, local: LocalRoom | None, has_members: bool | None, args: Iterable[str | bytes | int]
    ) -> Any:
        followed = self._store.followed
        if local is not None and not local.is_registered and followed.has_changes(room):
            await followed.register((room,))  # before the write, so that other nodes find the room if this one dies
        written = self._store.write(room, has_members, args)
        if local is None or local.is_registered:
            return await written
        local.is_registered = True  # if it fails, the next renewal registers the room
        reply, _ = await asyncio.gather(written, self._store.register((room,)))
        return reply


def _answer(waiters: list[Waiter], is_in: bool, has_changed: bool, total: int) -> None:
    """Answer the ``waiters`` of a user who was written. The last one that fits the user's state reports the change."""
    for entered, waiter in reversed(waiters):
        if not waiter.done():
            user_changed = has_changed and entered == is_in
            has_changed = has_changed and not user_changed
            waiter.set_result(PresenceChange(user_changed, total))


def _fail(writes: RoomWrites, users: Iterable[UserId], error: Unavailable) -> None:
    """Fail the waiters of ``users``, who stay pending."""
    writes.queue.clear()
    for user_id in users:
        if (pending := writes.pending.get(user_id)) is not None:
            waiters, pending.waiters = pending.waiters, []
            _fail_waiters(waiters, error)


def _fail_waiters(waiters: list[Waiter], error: BaseException) -> None:
    for _, waiter in waiters:
        if not waiter.done():
            closing = BrokerUnavailable("This node is closing.")
            waiter.set_exception(error if isinstance(error, Unavailable) else closing)
