"""The leases of connections: one for each connection of a user, on all nodes together.

A lease expires by itself if its node dies. A user's leases are a zset on the server, from ``<node>:<connection>`` to
the end of the lease in ms of the server's clock. Each node keeps a copy of its own leases. It renews them periodically,
and writes all of them again when a server returns that may have lost them.

The zset also has the times of the user's online status (see ``lua/leases.lua``). So an admission stays one round trip,
and the end of the leases of a node that died shows when its users were last seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from ...errors import Unavailable
from .. import connection_set
from ..base import UserId, UserStatus
from ..connection_set import ConnectionSet
from .keys import Keys
from .scripts import BATCH, Script, ScriptRunner, in_batches

_ADMIT: Final = Script("server_time", "leases", "leases_admit")
_RENEW: Final = Script("server_time", "leases", "leases_renew")
_READ: Final = Script("server_time", "leases_read")

#: How long ``close`` may take, in seconds. Leases that are not released by then expire.
_CLOSE_TIMEOUT: Final = 2.0


class Leases:
    """The leases of ``node``, an id that no other node has. Each lasts ``lease`` seconds unless it is renewed.

    ``UserStatus.last_seen`` is stored for ``keep`` seconds; with 0, no times are stored. ``since`` of a user who
    returns within ``grace`` seconds does not change.
    """

    def __init__(self, runner: ScriptRunner, keys: Keys, node: str, lease: float, keep: float, grace: float) -> None:
        self._runner: Final = runner
        self._keys: Final = keys
        self._node: Final = node
        self._lease_ms: Final = round(lease * 1000)
        self._args: Final = (self._lease_ms, round(keep * 1000), round(grace * 1000))
        self._active: dict[UserId, ConnectionSet] = {}
        #: Leases that have ended here but may still be on the server.
        self._unreleased: dict[UserId, ConnectionSet] = {}

    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """Take a lease for ``connection``; return False if ``user_id`` has ``limit`` leases on all nodes.

        Raises ``Unavailable`` at once if the server cannot be reached; then there is no lease.
        """
        active = self._active.get(user_id)
        if active is not None and connection_set.contains(active, connection):
            return True
        args = (*self._args, limit, f"{self._node}:{connection}")
        reply = self._runner.run(_ADMIT, (self._keys.leases(user_id),), args)  # if this raises, nothing was sent
        _remove(self._unreleased, user_id, connection)
        try:
            is_admitted = await reply
        except BaseException:
            _add(self._unreleased, user_id, connection)  # the server may have executed it, or may do so later
            self._release_unconfirmed(user_id, connection)
            raise
        if is_admitted:
            _add(self._active, user_id, connection)
        return bool(is_admitted)

    async def release(self, user_id: UserId, connection: int) -> None:
        """Give the lease of ``connection`` back; without a lease this has no effect.

        Never raises ``Unavailable``: if the server cannot be reached, ``renew`` or ``restore`` releases the lease.
        """
        if _remove(self._active, user_id, connection):
            _add(self._unreleased, user_id, connection)
            await self._release(user_id, (connection,))

    async def status(self, user_id: UserId) -> UserStatus:
        """Return the status of ``user_id``. Raises ``Unavailable``."""
        now, members = await self._runner.run(_READ, (self._keys.leases(user_id),), ())
        scores = dict(zip(members[::2], map(float, members[1::2]), strict=True))
        since, seen = (-scores.pop(name) / 1000 if name in scores else None for name in (b"since", b"seen"))
        nodes = [name.partition(b":")[0].decode() for name, end in scores.items() if end > now]
        if nodes:
            return UserStatus(len(nodes), since, None, tuple(dict.fromkeys(nodes)))
        if scores:  # the node that had them died, and renewed them for the last time a lease before their end
            seen = (max(scores.values()) - self._lease_ms) / 1000
        return UserStatus(last_seen=seen)

    async def statuses(self, user_ids: Sequence[UserId]) -> list[UserStatus]:
        """Return the status of each of ``user_ids``. Raises ``Unavailable``."""
        found: list[UserStatus] = []
        for i in range(0, len(user_ids), BATCH):
            found += await asyncio.gather(*[self.status(user_id) for user_id in user_ids[i : i + BATCH]])
        return found

    async def renew(self) -> None:
        """Renew all leases of this node; call it every third of a lease. Never raises ``Unavailable``.

        Leases that expired while the node or the server was suspended are taken again, even above the limit. Their
        connections exist, and new ones are refused until the user is below the limit.
        """
        await in_batches(self._renew_user, {**self._active, **self._unreleased})

    async def restore(self) -> None:
        """Write all leases after the server returned and may have lost any of them. Never raises ``Unavailable``."""
        await self.renew()

    async def close(self) -> None:
        """Release all leases of this node, within two seconds."""
        for user_id, active in self._active.items():
            for connection in connection_set.to_tuple(active):
                _add(self._unreleased, user_id, connection)
        self._active = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self.renew()

    async def _renew_user(self, user_id: UserId) -> None:
        """Renew the active leases of ``user_id``, and release the others."""
        active = self._active.get(user_id)
        unreleased = self._unreleased.get(user_id)
        if unreleased is not None:
            await self._release(
                user_id, connection_set.to_tuple(unreleased), () if active is None else connection_set.to_tuple(active)
            )
        elif active is not None:
            with contextlib.suppress(Unavailable):
                await self._write(user_id, connection_set.to_tuple(active), ())

    async def _release(self, user_id: UserId, released: tuple[int, ...], active: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(Unavailable):
            await self._write(user_id, active, released)
            for connection in released:
                _remove(self._unreleased, user_id, connection)

    def _release_unconfirmed(self, user_id: UserId, connection: int) -> None:
        """Release a lease that the server may have given. Sent at once, so that a later admission comes after it."""

        def on_reply(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                _remove(self._unreleased, user_id, connection)

        with contextlib.suppress(Unavailable):  # the next renewal releases it
            asyncio.ensure_future(self._write(user_id, (), (connection,))).add_done_callback(on_reply)

    def _write(self, user_id: UserId, active: tuple[int, ...], released: tuple[int, ...]) -> Awaitable[Any]:
        members = [f"{self._node}:{connection}" for connection in active + released]
        return self._runner.run(_RENEW, (self._keys.leases(user_id),), (*self._args, len(active), *members))


def _add(leases: dict[UserId, ConnectionSet], user_id: UserId, connection: int) -> None:
    connections = leases.get(user_id)
    leases[user_id] = connection if connections is None else connection_set.add(connections, connection)


def _remove(leases: dict[UserId, ConnectionSet], user_id: UserId, connection: int) -> bool:
    """Remove ``connection``; return False if it was not there."""
    connections = leases.get(user_id)
    if connections is None or not connection_set.contains(connections, connection):
        return False
    rest = connection_set.remove(connections, connection)
    if rest is None:
        del leases[user_id]
    else:
        leases[user_id] = rest
    return True
