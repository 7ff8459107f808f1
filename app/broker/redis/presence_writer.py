"""Writes the presence of this node's users to the server.

Each write contains the current state of some users, not a change. Only one write per room is in flight. Users that
could not be written stay pending. So the server has the state of this node in the end, even if messages are lost, and
each arrival and departure is announced once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from ...errors import BrokerUnavailable, Unavailable
from .. import connection_set
from ..base import Member, PresenceChange, UserId
from ..connection_set import ConnectionSet
from .presence_store import LEASE_EXPIRED, NO_LEASE, PresenceStore

log = logging.getLogger("roomcast.redis")

#: The maximum number of users in one write. It takes about 0.3 ms of the server's time.
_MAX_USERS: Final = 100

#: Receives the room, the user, and the number of users in the room.
OnMember = Callable[[str, Member, int], None]
#: A caller of ``enter`` (True) or ``leave`` (False), and the future it waits for.
Waiter = tuple[bool, asyncio.Future[PresenceChange]]


class LocalRoom:
    """This node's users in a room: ``users`` maps each to the username and the connections.

    ``total`` is the number of users on all nodes in the server's last reply.
    """

    __slots__ = ("is_registered", "total", "users")

    def __init__(self) -> None:
        self.users: dict[UserId, tuple[str, ConnectionSet]] = {}
        self.total = 0
        self.is_registered = False


class PendingUser:
    """A user whose state on the server may differ from the one on this node.

    ``announced`` is the name with which this node announced the user to the others, or None if it did not. ``waiters``
    wait for the next write.
    """

    __slots__ = ("announced", "is_renamed", "waiters")

    def __init__(self, announced: str | None) -> None:
        self.announced = announced
        self.is_renamed = False
        self.waiters: list[Waiter] = []


class RoomWrites:
    """The writes that a room needs.

    ``pending`` contains all users whose state must be written, ``queue`` those of them to write next. ``rewrite`` lists
    users of this node to write again, the next one last. ``task`` is the running write.
    """

    __slots__ = ("pending", "queue", "rewrite", "task")

    def __init__(self) -> None:
        self.pending: dict[UserId, PendingUser] = {}
        self.queue: dict[UserId, None] = {}
        self.rewrite: list[UserId] = []
        self.task: asyncio.Task[None] | None = None


class PresenceWriter:
    """Writes the users in ``rooms``, which ``Presence`` modifies.

    ``on_member_lost`` and ``on_member_returned`` receive users whose departure or arrival must be announced, but that
    no call of ``leave`` or ``enter`` reports.
    """

    def __init__(
        self,
        store: PresenceStore,
        rooms: dict[str, LocalRoom],
        on_member_lost: OnMember,
        on_member_returned: OnMember,
    ) -> None:
        self._store: Final = store
        self._rooms: Final = rooms
        self._on_member_lost: Final = on_member_lost
        self._on_member_returned: Final = on_member_returned
        #: Only rooms with pending users or a running write.
        self.writes: Final[dict[str, RoomWrites]] = {}

    # Requests.

    def change(
        self, room: str, user_id: UserId, announced: str | None, *, entered: bool, is_renamed: bool = False
    ) -> asyncio.Future[PresenceChange]:
        """Write a user who entered or left; the result is what the caller must return.

        ``announced`` is the name with which the user was announced before this change, if no write is pending.
        """
        writes = self._writes_of(room)
        pending = writes.pending.get(user_id)
        if pending is None:
            pending = writes.pending[user_id] = PendingUser(announced)
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

    async def remove_restored(self, room: str, users: Iterable[UserId]) -> None:
        """Write that ``users`` are not in ``room`` on this node, which the server has restored from an older state.

        Their departure was announced before. A user who has returned meanwhile stays.
        """
        writes = self._writes_of(room)
        for user_id in users:
            if user_id not in writes.pending:
                writes.pending[user_id] = PendingUser(None)
                writes.queue[user_id] = None
        await asyncio.wait((self._start(room, writes),))

    async def remove_all(self, room: str, users: dict[UserId, tuple[str, ConnectionSet]]) -> None:
        """Write that ``users`` have left ``room``, in addition to pending users. They are no longer in ``rooms``."""
        writes = self._writes_of(room)
        for user_id, (name, _) in users.items():
            writes.pending.setdefault(user_id, PendingUser(name))
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

    def on_removed(self, room: str, removed: Sequence[bytes], total: int) -> None:
        """Store the number of users, and report the users of dead nodes that a script ``removed``.

        ``removed`` contains users and their names, alternating.
        """
        local = self._rooms.get(room)
        if local is not None:
            local.total = total
        for user, name in zip(removed[::2], removed[1::2], strict=True):
            self._on_member_lost(room, Member(json.loads(user), name.decode(errors="replace"), 0), total)

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
            while users := self._next_users(room, writes):
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
        """Write the current state of ``users``, and report the changes that must be announced."""
        local = self._rooms.get(room)
        is_lease_expected = self.is_written(room)
        # A node with users that must still be removed keeps its lease. Without it they would stay if the node died.
        has_members = local is not None or len(writes.pending) > len(users)
        args: list[str | bytes | int] = []
        written = []
        for user_id in users:
            pending = writes.pending[user_id]
            known = local.users.get(user_id) if local is not None else None
            name, connections = known or (pending.announced or "", None)
            count = 0 if connections is None else connection_set.size(connections)
            is_announced, is_renamed = pending.announced is not None, pending.is_renamed
            args += json.dumps(user_id), name.encode(errors="replace"), count, f"{is_announced:d}", f"{is_renamed:d}"
            written.append((pending, Member(user_id, name, count), is_renamed, pending.waiters))
            pending.waiters, pending.is_renamed = [], False
        try:
            lease_state, announce, removed, total = await self._write_and_register(room, local, has_members, args)
        except BaseException as error:
            for pending, _, is_renamed, waiters in written:
                pending.is_renamed |= is_renamed
                _fail_waiters(waiters, error)
            raise
        self.on_removed(room, removed, total)
        if lease_state == LEASE_EXPIRED:
            self._store.protect_nodes()
        elif lease_state == NO_LEASE and is_lease_expected and not writes.rewrite:
            self._queue_all(room, writes)
        for (pending, member, _, waiters), must_announce in zip(written, announce, strict=True):
            pending.announced = member.username if member.connections else None
            if member.user_id not in writes.queue:
                del writes.pending[member.user_id]
            self._report(room, member, bool(must_announce), total, waiters)

    async def _write_and_register(
        self, room: str, local: LocalRoom | None, has_members: bool, args: Iterable[str | bytes | int]
    ) -> Any:
        written = self._store.write(room, has_members, args)
        if local is None or local.is_registered:
            return await written
        local.is_registered = True  # if it fails, the next renewal registers the room
        reply, _ = await asyncio.gather(written, self._store.register((room,)))
        return reply

    def _report(self, room: str, member: Member, must_announce: bool, total: int, waiters: list[Waiter]) -> None:
        """Answer the waiters. A change that must be announced is reported by one of them, or by a callback."""
        is_in = member.connections > 0
        for entered, waiter in reversed(waiters):
            if not waiter.done():
                user_changed = must_announce and entered == is_in
                must_announce = must_announce and not user_changed
                waiter.set_result(PresenceChange(user_changed, total))
        if must_announce:
            (self._on_member_returned if is_in else self._on_member_lost)(room, member, total)


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
