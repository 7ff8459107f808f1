"""The presence of rooms on the server: runs the presence scripts for one node.

``lua/presence.lua`` describes the keys. All times are those of the server's clock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from ...errors import Unavailable
from ..base import Announcements
from .keys import Keys
from .scripts import Script, ScriptRunner

_WRITE: Final = Script("server_time", "presence", "presence_write", stamped=True)
_RENEW: Final = Script("server_time", "presence", "presence_renew", stamped=True)
_READ: Final = Script("server_time", "presence", "presence_read", stamped=True)
_DUE: Final = Script("server_time", "presence", "presence_due", stamped=True)
_REGISTER: Final = Script("server_time", "rooms_register")
_LIST: Final = Script("server_time", "rooms_list")

#: The states of a node's lease in a room, as the scripts return them.
NO_LEASE: Final = 0
LEASE_EXPIRED: Final = 2


class PresenceStore:
    """Reads and writes the presence of ``node``, which has a lease of ``lease`` seconds in each of its rooms.

    The scripts also announce joins and leaves according to ``announcements``, with the command ``publish``. They remove
    dead nodes from a room, except within one lease after ``protect_nodes``.
    """

    def __init__(
        self, runner: ScriptRunner, keys: Keys, node: str, lease: float, announcements: Announcements, publish: str
    ) -> None:
        self._announcements: Final = (round(announcements.grace * 1000), announcements.max_users, publish)
        self._runner: Final = runner
        self._keys: Final = keys
        self._node: Final = node
        self._lease: Final = lease
        self._lease_ms: Final = round(lease * 1000)
        self._remove_from = 0.0
        self.protect_nodes()

    def protect_nodes(self) -> None:
        """Remove no dead nodes for one lease from now on.

        Called when the server could not be reached or was suspended: the other nodes must be able to renew first.
        """
        self._remove_from = time.monotonic() + self._lease

    def write(self, room: str, has_members: bool, users: Iterable[str | bytes | int]) -> Awaitable[Any]:
        """Run presence_write.lua, whose ``users`` are described there. ``has_members`` keeps the node's lease."""
        return self._run(_WRITE, room, "1" if has_members else "0", *users)

    def renew(self, room: str) -> Awaitable[Any]:
        """Run presence_renew.lua."""
        return self._run(_RENEW, room)

    def read(self, room: str, *, with_users: bool) -> Awaitable[Any]:
        """Run presence_read.lua."""
        return self._run(_READ, room, "1" if with_users else "")

    def _run(self, script: Script, room: str, *args: str | bytes | int) -> Awaitable[Any]:
        may_remove = "1" if time.monotonic() >= self._remove_from else "0"
        args = (self._node, self._lease_ms, may_remove, *self._announcements, *args)
        return self._runner.run(script, self._keys.presence(room), args)

    def announce_due(self, room: str) -> Awaitable[Any]:
        """Run presence_due.lua."""
        return self._run(_DUE, room)

    async def register(self, rooms: Iterable[str]) -> None:
        """Add ``rooms`` to the list of rooms with members, for two leases. Never raises ``Unavailable``.

        The list is not part of the rooms' presence, because in a Cluster it may be on another server.
        """
        with contextlib.suppress(Unavailable):
            await self._runner.run(_REGISTER, (self._keys.rooms,), (2 * self._lease_ms, *rooms))

    async def rooms(self) -> list[str]:
        """Return the registered rooms. Some may have no members any more."""
        return [room.decode() for room in await self._runner.run(_LIST, (self._keys.rooms,), ())]
