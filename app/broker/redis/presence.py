"""Who is in which room, on all nodes together.

Each node keeps a copy of its own users, writes their state to the server (see ``presence_writer``), and renews a lease
in each of its rooms. If a node dies, another node removes its users when the lease has expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from itertools import islice
from typing import Final

import orjson

from ...errors import Unavailable
from .. import connection_set
from ..base import Member, PresenceChange, UserId
from .keys import Keys
from .presence_store import LEASE_EXPIRED, NO_LEASE, PresenceStore
from .presence_writer import LocalRoom, OnMember, PresenceWriter
from .scripts import ScriptRunner, in_batches
from .topology import ServerName

#: How many rooms one call registers.
_MAX_ROOMS: Final = 500
#: How long ``close`` may take, in seconds. Users who are not removed by then go when the lease has expired.
_CLOSE_TIMEOUT: Final = 2.0


class Presence:
    """The presence of ``node``, an id that no other node has, with a lease of ``lease`` seconds in each of its rooms.

    ``on_member_lost`` receives users whose departure no call of ``leave`` reported: their node died, or they left while
    the server could not be reached. ``on_member_returned`` receives users whose arrival must be announced and no call
    of ``enter`` reported: they came while the server could not be reached, or were announced as gone while this node
    was suspended. Each call is made on one node only. Both callbacks run on the loop and must not block or raise.
    """

    def __init__(
        self,
        runner: ScriptRunner,
        keys: Keys,
        node: str,
        lease: float,
        on_member_lost: OnMember,
        on_member_returned: OnMember,
    ) -> None:
        self._rooms: Final[dict[str, LocalRoom]] = {}
        self._store: Final = PresenceStore(runner, keys, node, lease)
        self._writer: Final = PresenceWriter(self._store, self._rooms, on_member_lost, on_member_returned)
        self._node: Final = node
        self._is_state_older = False

    def on_new_generation(self, server: ServerName, generation: bytes) -> None:
        """The server may have an older state: let the next ``restore`` remove users who have left since."""
        self._is_state_older = True

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
        announced = None if known is None else known[0]
        return await self._writer.change(room, user_id, announced, entered=True, is_renamed=announced != username)

    async def leave(self, room: str, user_id: UserId, connection: int) -> PresenceChange:
        """See ``Broker.leave``. Never raises ``Unavailable``: the departure is announced when the server returns."""
        local = self._rooms.get(room)
        known = local.users.get(user_id) if local is not None else None
        if local is None or known is None or not connection_set.contains(known[1], connection):
            return PresenceChange(False, local.total if local is not None else 0)
        rest = connection_set.remove(known[1], connection)
        if rest is not None:
            local.users[user_id] = (known[0], rest)
        else:
            del local.users[user_id]
            if not local.users:
                del self._rooms[room]
        try:
            return await self._writer.change(room, user_id, known[0], entered=False)
        except Unavailable:
            return PresenceChange(False, local.total)

    # Reading.

    async def members(self, room: str) -> list[Member]:
        """See ``Broker.members``."""
        removed, total, found = await self._store.read(room, with_users=True)
        self._writer.on_removed(room, removed, total)
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
            removed, total, _ = await self._store.read(room, with_users=False)
            self._writer.on_removed(room, removed, total)
            if total:
                totals[room] = total

        await in_batches(count_users, await self._store.rooms())
        return totals

    # Leases.

    async def renew(self) -> None:
        """Renew this node's leases, write pending users, and remove the users of dead nodes.

        Call it every third of a lease. Never raises ``Unavailable``.
        """
        await self._register_all()
        await in_batches(self._renew_room, self._all_rooms())

    async def restore(self) -> None:
        """Write everything after the server returned and may have lost any of it. Never raises ``Unavailable``.

        Dead nodes are not removed for one lease from now on.
        """
        self._store.protect_nodes()
        await self._register_all()
        await in_batches(self._writer.write_again, self._all_rooms())
        if self._is_state_older:
            self._is_state_older = False
            await in_batches(self._remove_restored, list(self._rooms))

    async def _remove_restored(self, room: str) -> None:
        """Remove users of this node from ``room`` who are not in it any more, except on the server."""
        try:
            _, _, found = await self._store.read(room, with_users=True)
        except Unavailable:
            self._is_state_older = True
            return
        # Search before parsing, which is expensive: in a large room most users are on other nodes.
        name = orjson.dumps(self._node)
        users = [
            json.loads(user)
            for user, value in zip(found[::2], found[1::2], strict=True)
            if name in value and self._node in orjson.loads(value)["nodes"]
        ]
        local = self._rooms.get(room)
        restored = [user_id for user_id in users if local is None or user_id not in local.users]
        if restored:
            await self._writer.remove_restored(room, restored)

    def _all_rooms(self) -> list[str]:
        """Return the rooms of this node's users, and those with pending writes."""
        return [*{**self._rooms, **self._writer.writes}]

    async def _register_all(self) -> None:
        rooms = iter(list(self._rooms))
        while some := list(islice(rooms, _MAX_ROOMS)):
            await self._store.register(some)

    async def _renew_room(self, room: str) -> None:
        await self._writer.write_pending(room)
        if room not in self._rooms:
            return
        is_lease_expected = self._writer.is_written(room)
        try:
            lease_state, removed, total = await self._store.renew(room)
        except Unavailable:
            self._store.protect_nodes()
            return
        if lease_state != NO_LEASE:
            self._writer.on_removed(room, removed, total)
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
        await self._writer.close()
