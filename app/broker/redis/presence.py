"""Who is in which room, on all nodes together.

Each node keeps a copy of its own users, writes their state to the server (see ``presence_writer``), and renews a lease
in each of its rooms. If a node dies, another node removes its users when the lease has expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from itertools import islice
from typing import Final

import orjson

from ...errors import Unavailable
from .. import connection_set
from ..base import ListedMember, Member, MemberPage, PresenceChange, UserId
from .presence_store import LEASE_EXPIRED, NO_LEASE, PresenceStore
from .presence_writer import LocalRoom, LocalStatus, PresenceWriter
from .scripts import in_batches
from .topology import ServerName

log = logging.getLogger("roomcast.redis")

#: How many rooms one call registers.
_MAX_ROOMS: Final = 500
#: How long ``close`` may take, in seconds. Users who are not removed by then go when the lease has expired.
_CLOSE_TIMEOUT: Final = 2.0
#: The most digits of a number of arrival. A double has every such number.
_MAX_DIGITS: Final = 16


def parse_cursor(after: str | None) -> int:
    """Return the number of arrival in the cursor ``after``, 0 for None. Raises ``ValueError``."""
    if after is None:
        return 0
    if not (after.isascii() and after.isdecimal() and len(after) <= _MAX_DIGITS):
        raise ValueError("not a cursor")
    return int(after)


class Presence:
    """The presence of the node of ``store``."""

    def __init__(self, store: PresenceStore) -> None:
        self._followed: Final = store.followed
        self._node: Final = store.node
        self._rooms: Final[dict[str, LocalRoom]] = {}
        self._store: Final = store
        store.local_rooms = self._rooms
        self._writer: Final = PresenceWriter(self._store, self._rooms)
        self._announcer: asyncio.Task[None] | None = None

    def on_new_generation(self, server: ServerName, generation: bytes) -> None:
        """The server may have an older state: let the next ``restore`` remove users who have left since.

        This node cannot list the rooms in which it has no users now. If the server has restored users there, another
        node removes them when the lease expires, or this node when it has written to the room again.
        """
        for room in self._all_rooms():
            self._writer.require_check(room)

    def on_server_return(self) -> None:
        """The server can be reached again: remove no dead nodes for one lease, so that the others can renew."""
        self._store.protect_nodes()

    # Arrivals and departures.

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker.enter``."""
        local = self._rooms.get(room)
        if local is None:
            local = self._rooms[room] = LocalRoom()
        known = local.users.get(user_id)
        if known is not None and known[0] == username and connection_set.contains(known[1], connection):
            return PresenceChange(False, local.total)
        local.users[user_id] = (username, connection if known is None else connection_set.add(known[1], connection))
        return await self._writer.entered(room, user_id, None if known is None else known[0], username)

    async def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool = False) -> PresenceChange:
        """See ``Broker.leave``. Never raises ``Unavailable``: the departure is written when the server returns."""
        local = self._rooms.get(room)
        known = local.users.get(user_id) if local is not None else None
        if local is None or known is None or not connection_set.contains(known[1], connection):
            return PresenceChange(False, local.total if local is not None else 0)
        rest = connection_set.remove(known[1], connection)
        if rest is not None:
            local.users[user_id] = (known[0], rest)
        else:
            del local.users[user_id]
            if local.statuses:
                local.statuses.pop(user_id, None)
            if not local.users:
                del self._rooms[room]
        try:
            return await self._writer.left(room, user_id, known[0], is_lost=is_lost)
        except Unavailable:
            return PresenceChange(False, local.total)

    async def set_status(self, room: str, user_id: UserId, status: str) -> None:
        """See ``Broker.set_status``."""
        local = self._rooms.get(room)
        known = local.users.get(user_id) if local is not None else None
        if local is None or known is None:
            return
        if local.statuses is None:
            local.statuses = {}
        local.statuses[user_id] = LocalStatus(status)
        await self._writer.status_set(room, user_id, known[0])

    def on_status(self, room: str, user_id: UserId, stamp: int, status: str) -> None:
        """Store a status that a node has announced, if the user is on this node, too."""
        local = self._rooms.get(room)
        if local is None or user_id not in local.users:
            return
        if local.statuses is None:
            local.statuses = {}
        known = local.statuses.get(user_id)
        if known is None or 0 < known.stamp <= stamp:  # a stamp of 0 is being written, and is later
            local.statuses[user_id] = LocalStatus(status, stamp, is_announced=True)

    # Reading.

    async def list_members(
        self, room: str, after: int, limit: int, max_bytes: int, user_id: UserId | None
    ) -> tuple[MemberPage, int]:
        """See ``Broker.list_members``. Return the page, and the time at which it was read, in ms of the server."""
        user = "" if user_id is None else json.dumps(user_id)
        due, total, listed, is_listed, end, now, found = await self._store.read_page(
            room, after, limit, max_bytes, user
        )
        self._writer.on_reply(room, due, total)
        members = []
        for key, number, value in zip(found[::3], found[1::3], found[2::3], strict=True):
            one = orjson.loads(value)
            members.append(ListedMember(json.loads(key), one["name"], int(number) / 1_000_000, one.get("s", "")))
        return MemberPage(members, listed, end.decode() or None, bool(is_listed)), int(now)

    async def members(self, room: str) -> list[Member]:
        """See ``Broker.members``."""
        due, total, found = await self._store.read(room, with_users=True)
        self._writer.on_reply(room, due, total)
        members = []
        for user, value in zip(found[::2], found[1::2], strict=True):
            one = orjson.loads(value)
            members.append((int(one["at"]), Member(json.loads(user), one["name"], sum(one["nodes"].values()))))
        members.sort(key=lambda pair: pair[0])
        return [member for _, member in members]

    async def rooms(self) -> dict[str, int]:
        """See ``Broker.rooms``."""
        totals: dict[str, int] = {}

        async def count_users(room: str) -> None:
            due, total, _ = await self._store.read(room, with_users=False)
            self._writer.on_reply(room, due, total)
            if total:
                totals[room] = total

        await in_batches(count_users, await self._store.rooms())
        return totals

    # Announcements.

    def announce_due(self) -> None:
        """Announce the joins and leaves that are due. The replies of the scripts contain the times."""
        now = time.monotonic()
        rooms = [room for room, due in self._writer.due.items() if due <= now]
        if rooms and self._announcer is None:
            self._announcer = asyncio.create_task(in_batches(self._announce_room, rooms), name="roomcast announcements")
            self._announcer.add_done_callback(self._announced)

    async def sweep(self, room: str) -> bool:
        """Do the work of dead nodes in a followed room; return True if it needs another sweep.

        Raises ``Unavailable``.
        """
        due, is_used = await self._store.sweep(room)
        self._writer.set_due(room, due)
        return bool(is_used)

    async def _announce_room(self, room: str) -> None:
        with contextlib.suppress(Unavailable):  # it is tried again, because the room is still due
            self._writer.set_due(room, await self._store.announce_due(room))

    def _announced(self, task: asyncio.Task[None]) -> None:
        self._announcer = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Joins and leaves could not be announced; it is tried again", exc_info=error)

    # Leases.

    async def renew(self) -> None:
        """Renew this node's leases, write pending users, and remove the users of dead nodes.

        Call it every third of a lease. Never raises ``Unavailable``.
        """
        await self._register_all()
        await in_batches(self._renew_room, self._all_rooms())
        await in_batches(self._remove_restored, list(self._writer.unchecked))

    async def restore(self) -> None:
        """Write everything after the server returned and may have lost any of it. Never raises ``Unavailable``.

        Dead nodes are not removed for one lease from now on.
        """
        self._store.protect_nodes()
        await self._register_all()
        await in_batches(self._writer.write_again, self._all_rooms())
        await in_batches(self._remove_restored, list(self._writer.unchecked))

    async def _remove_restored(self, room: str) -> None:
        """Remove users of this node from ``room`` who are not in it any more, except on the server."""
        required = self._writer.unchecked.get(room)
        try:
            _, _, found = await self._store.read(room, with_users=True)
        except Unavailable:
            return  # the next renewal tries it again
        # Search before parsing, which is expensive: in a large room most users are on other nodes.
        name = orjson.dumps(self._node)
        users = [
            json.loads(user)
            for user, value in zip(found[::2], found[1::2], strict=True)
            if name in value and self._node in orjson.loads(value)["nodes"]
        ]
        local = self._rooms.get(room)
        restored = [user_id for user_id in users if local is None or user_id not in local.users]
        if self._writer.unchecked.get(room) == required:  # otherwise the server may have another state now
            self._writer.unchecked.pop(room, None)
        if restored or local is None:
            await self._writer.remove_restored(room, restored)

    def _all_rooms(self) -> list[str]:
        """Return the rooms of this node's users, and those with pending writes."""
        return [*{**self._rooms, **self._writer.writes}]

    async def _register_all(self) -> None:
        rooms = iter(list(self._rooms))
        while some := list(islice(rooms, _MAX_ROOMS)):
            await self._store.register(some)
            with contextlib.suppress(Unavailable):
                if followed := [room for room in some if self._followed.has_changes(room)]:
                    await self._followed.register(followed)

    async def _renew_room(self, room: str) -> None:
        await self._writer.write_pending(room)
        if room not in self._rooms:
            return
        is_lease_expected = self._writer.is_written(room)
        try:
            lease_state, due, total = await self._store.renew(room)
        except Unavailable:
            self._store.protect_nodes()
            return
        if lease_state != NO_LEASE:
            self._writer.on_reply(room, due, total)
        elif is_lease_expected:  # this node was removed as dead, or the server lost its data
            await self._writer.write_again(room)
        if lease_state == LEASE_EXPIRED:
            self._store.protect_nodes()

    async def close(self) -> None:
        """Remove all users of this node from their rooms, within two seconds."""
        rooms = dict(self._rooms)
        self._rooms.clear()

        async def remove(room: str) -> None:
            await self._writer.remove_all(room, rooms[room].users if room in rooms else {})

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await in_batches(remove, [*{**rooms, **self._writer.writes}])
                await self._followed.close(rooms)
        await self._writer.close()
        if self._announcer is not None:
            self._announcer.cancel()
            await asyncio.wait([self._announcer])
