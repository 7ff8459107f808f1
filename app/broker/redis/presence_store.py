"""The presence of rooms on the server: runs the presence scripts for one node.

``lua/presence.lua`` describes the keys. All times are those of the server's clock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Container, Iterable, Sequence
from typing import Any, Final

from ...errors import Unavailable
from ..base import Announcements
from .followed import FollowedRooms
from .keys import Keys
from .scripts import Script, ScriptRunner

_WRITE: Final = Script("server_time", "presence", "presence_write", stamped=True)
_RENEW: Final = Script("server_time", "presence", "presence_renew", stamped=True)
_READ: Final = Script("server_time", "presence", "presence_read", stamped=True)
_PAGE: Final = Script("server_time", "presence", "presence_page", stamped=True)
_DUE: Final = Script("server_time", "presence", "presence_due", stamped=True)
_SWEEP: Final = Script("server_time", "presence", "presence_sweep", stamped=True)
_REGISTER: Final = Script("server_time", "rooms_register")
_LIST: Final = Script("server_time", "rooms_list")
#: Runs on the connections of subscriptions.
UPDATES: Final = Script("presence_updates")

#: The states of a node's lease in a room, as the scripts return them.
NO_LEASE: Final = 0
LEASE_EXPIRED: Final = 2


class PresenceStore:
    """Reads and writes the presence of ``node``, an id that no other node has.

    It has a lease of ``lease`` seconds in each of its rooms. The scripts also announce joins and leaves according to
    ``announcements`` in the room's channel (see ``Receiver.on_message``) with the command ``publish``, in the same
    atomic step that changes the presence. So all nodes receive them in one order. They remove dead nodes from a room,
    except within one lease after ``protect_nodes``.
    """

    def __init__(
        self,
        runner: ScriptRunner,
        keys: Keys,
        node: str,
        lease: float,
        announcements: Announcements,
        publish: str,
        followed: FollowedRooms,
    ) -> None:
        self.followed: Final = followed
        self._grace_ms: Final = round(announcements.grace * 1000)
        self._max_users: Final = announcements.limits
        self._publish: Final = publish
        self._runner: Final = runner
        self._keys: Final = keys
        self.node: Final = node
        self._lease: Final = lease
        self._lease_ms: Final = round(lease * 1000)
        self._remove_from = 0.0
        #: The rooms with users of this node; ``Presence`` sets it.
        self.local_rooms: Container[str] = ()
        self.protect_nodes()

    def protect_nodes(self) -> None:
        """Remove no dead nodes for one lease from now on.

        Called when the server could not be reached or was suspended: the other nodes must be able to renew first.
        """
        self._remove_from = time.monotonic() + self._lease

    def write(self, room: str, has_members: bool | None, users: Iterable[str | bytes | int]) -> Awaitable[Any]:
        """Run presence_write.lua, whose ``users`` are described there.

        ``has_members`` renews the node's lease if it is True, and removes it if it is False. None leaves the lease of a
        node that should not have one.
        """
        return self._run(_WRITE, room, "" if has_members is None else int(has_members), *users)

    def renew(self, room: str) -> Awaitable[Any]:
        """Run presence_renew.lua."""
        return self._run(_RENEW, room)

    def read(self, room: str, *, with_users: bool) -> Awaitable[Any]:
        """Run presence_read.lua."""
        return self._run(_READ, room, "1" if with_users else "", is_read=True)

    def read_page(self, room: str, after: int, limit: int, max_bytes: int, user: str) -> Awaitable[Any]:
        """Run presence_page.lua."""
        return self._run(_PAGE, room, after, limit, max_bytes, user, is_read=True)

    def _run(self, script: Script, room: str, *args: str | bytes | int, is_read: bool = False) -> Awaitable[Any]:
        may_remove = 0
        if time.monotonic() >= self._remove_from:
            may_remove = 2 if is_read and room not in self.local_rooms else 1
        policy = (self._grace_ms, self._max_users.of(room), self._publish)
        args = (self.node, self._lease_ms, may_remove, *policy, *args)
        if self.followed.has_changes(room):
            return self._run_and_report(script, room, args)
        return self._runner.run(script, self._keys.presence(room), args)

    async def _run_and_report(self, script: Script, room: str, args: Sequence[str | bytes | int]) -> list[Any]:
        """Run a script in a followed room, and report the changes at the end of its reply."""
        keys = (*self._keys.presence(room), *self._keys.changes(room))
        reply: list[Any]
        *reply, claimed = await self._runner.run(script, keys, args)
        self.followed.report_changes(room, claimed)
        return reply

    async def announce_due(self, room: str) -> int:
        """Run presence_due.lua."""
        due: int = (await self._run(_DUE, room))[0]
        return due

    def sweep(self, room: str) -> Awaitable[Any]:
        """Run presence_sweep.lua."""
        return self._run(_SWEEP, room, is_read=True)

    async def register(self, rooms: Iterable[str]) -> None:
        """Add ``rooms`` to the list of rooms with members, for two leases. Never raises ``Unavailable``.

        The list is not part of the rooms' presence, because in a Cluster it may be on another server.
        """
        with contextlib.suppress(Unavailable):
            await self._runner.run(_REGISTER, (self._keys.rooms,), (2 * self._lease_ms, *rooms))

    async def rooms(self) -> list[str]:
        """Return the registered rooms. Some may have no members any more."""
        return [room.decode() for room in await self._runner.run(_LIST, (self._keys.rooms,), ())]
