"""How many connections a user has, on all nodes together: one lease each, which ends by itself if its node dies.

The leases of a user are a zset on the server, ``{<prefix>:u:<user id as JSON>}:l``, from ``<node>:<connection>`` to the
end of the lease in ms of the server's own clock. Each node keeps a mirror of its own: it says them again and again, so
that they last, and all of them when a server comes back that may have lost them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final

from ...errors import Unavailable
from .. import connection_set
from ..base import UserId
from ..connection_set import ConnectionSet
from .calls import ScriptRunner, in_batches
from .scripts import Script

_ADMIT: Final = Script("now", "leases", "leases_admit")
_KEEP: Final = Script("now", "leases", "leases_keep")
_COUNT: Final = Script("now", "leases", "leases_count")

#: How long ``close`` may take to give everything back, in seconds; what is left then ends with its lease.
_CLOSING: Final = 2.0


class Leases:
    """The leases of ``node``, an id that no other node has, each for ``lease`` seconds unless renewed."""

    def __init__(self, router: ScriptRunner, prefix: str, node: str, lease: float) -> None:
        self._router: Final = router
        self._prefix: Final = prefix
        self._node: Final = node
        self._lease: Final = round(lease * 1000)
        self._held: dict[UserId, ConnectionSet] = {}
        #: Leases that may still be on the server, though nobody here holds them.
        self._owed: dict[UserId, ConnectionSet] = {}

    def _key(self, user_id: UserId) -> str:
        return f"{{{self._prefix}:u:{json.dumps(user_id)}}}:l"

    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """Take a lease for ``connection``, unless ``user_id`` has ``limit`` on all nodes; True if it is held now.

        Raises ``Unavailable`` at once when the server cannot be reached; nothing is held then.
        """
        held = self._held.get(user_id)
        if held is not None and connection_set.contains(held, connection):
            return True
        args = (self._lease, limit, f"{self._node}:{connection}")
        asked = self._router.run(_ADMIT, (self._key(user_id),), args)  # if this raises, nothing was sent
        _remove(self._owed, user_id, connection)
        try:
            admitted = await asked
        except BaseException:
            _add(self._owed, user_id, connection)  # it may have been taken
            raise
        if admitted:
            _add(self._held, user_id, connection)
        return bool(admitted)

    async def release(self, user_id: UserId, connection: int) -> None:
        """Give a lease back; one that is not held is no error.

        It never raises ``Unavailable``: what cannot be given back now is given back by ``renew`` or ``restore``.
        """
        if _remove(self._held, user_id, connection):
            _add(self._owed, user_id, connection)
            await self._give_back(user_id, (connection,))

    async def count(self, user_id: UserId) -> int:
        """How many connections ``user_id`` has on all nodes. Raises ``Unavailable``."""
        return int(await self._router.run(_COUNT, (self._key(user_id),), ()))

    async def renew(self) -> None:
        """Say again that all leases of this node are held; call it each third of a lease. Never raises ``Unavailable``.

        What lapsed while the node or the server stood still is taken again even above the limit: those connections
        are there, and new ones wait until they are fewer.
        """
        await in_batches(self._keep, {**self._held, **self._owed})

    async def restore(self) -> None:
        """The server is back and may have lost or kept anything: say all again. Never raises ``Unavailable``."""
        await self.renew()

    async def close(self) -> None:
        """Give back all leases of this node, as far as that is done within two seconds."""
        for user_id, held in self._held.items():
            for connection in connection_set.to_tuple(held):
                _add(self._owed, user_id, connection)
        self._held = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await self.renew()

    async def _keep(self, user_id: UserId) -> None:
        """Say what ``user_id`` holds here, and what no more."""
        held = self._held.get(user_id)
        owed = self._owed.get(user_id)
        if owed is not None:
            await self._give_back(
                user_id, connection_set.to_tuple(owed), () if held is None else connection_set.to_tuple(held)
            )
        elif held is not None:
            with contextlib.suppress(Unavailable):
                await self._say(user_id, connection_set.to_tuple(held), ())

    async def _give_back(self, user_id: UserId, owed: tuple[int, ...], held: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(Unavailable):
            await self._say(user_id, held, owed)
            for connection in owed:
                _remove(self._owed, user_id, connection)

    async def _say(self, user_id: UserId, held: tuple[int, ...], owed: tuple[int, ...]) -> None:
        members = [f"{self._node}:{connection}" for connection in held + owed]
        await self._router.run(_KEEP, (self._key(user_id),), (self._lease, len(held), *members))


def _add(leases: dict[UserId, ConnectionSet], user_id: UserId, connection: int) -> None:
    held = leases.get(user_id)
    leases[user_id] = connection if held is None else connection_set.add(held, connection)


def _remove(leases: dict[UserId, ConnectionSet], user_id: UserId, connection: int) -> bool:
    """Take ``connection`` out; False if it was not there."""
    held = leases.get(user_id)
    if held is None or not connection_set.contains(held, connection):
        return False
    rest = connection_set.remove(held, connection)
    if rest is None:
        del leases[user_id]
    else:
        leases[user_id] = rest
    return True
