"""Probes: find out which connections of a user are dead, when the user's limit of connections is reached.

A connection whose other end has vanished, for example with a device that changed networks, counts until two heartbeats
have passed, which is 60 s by default. Without probes, five of them would lock a user out for that long.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from ..broker.base import UserId
from ..protocol.user_id import personal_room
from .client import Client
from .node import Node

#: How long a connection may take to answer a probe, in seconds.
PROBE_TIMEOUT: Final = 4.0
#: How much longer a new connection waits for a slot, in seconds: signals to other nodes, and their releases, take time.
_MARGIN: Final = 2.0
#: How often a probe looks for answers, and a waiting connection tries to get a slot, in seconds.
_INTERVAL: Final = 0.25


class _Wait:
    """The new connections of one user that wait for a slot: their number, and how many live connections nodes have."""

    __slots__ = ("alive", "count")

    def __init__(self) -> None:
        self.count = 0
        self.alive: dict[str, int] = {}


class Probes:
    """Pings the connections of users on this node, drops those that do not answer, and waits for their slots.

    Two signals coordinate the nodes (``gateway.signals`` receives them): ``probe`` starts a probe on every node, and
    ``probed`` has the number of the user's live connections on one node.
    """

    def __init__(self, node: Node) -> None:
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._keepalive: Final = node.keepalive
        self._tasks: Final = node.tasks
        self._limit: Final = node.settings.max_connections_per_user
        self._node_id: Final = node.id
        #: The users whose connections on this node are being probed.
        self._probed: Final[set[UserId]] = set()
        self._waits: Final[dict[UserId, _Wait]] = {}

    async def wait_for_slot(self, user_id: UserId, connection: int) -> bool:
        """Probe the user's connections on all nodes; return True as soon as ``connection`` has a slot.

        Return False if the live connections reach the limit, at the latest after ``PROBE_TIMEOUT`` and a margin. Return
        False at once if as many new connections of the user wait as may be open. Raises ``Unavailable`` if the broker
        cannot be reached.
        """
        wait = self._waits.setdefault(user_id, _Wait())
        if wait.count >= self._limit:
            return False
        wait.count += 1
        try:
            await self._signal("probe", user_id)
            for _ in range(round((PROBE_TIMEOUT + _MARGIN) / _INTERVAL)):
                await asyncio.sleep(_INTERVAL)
                if await self._broker.admit(user_id, connection, self._limit):
                    return True
                if sum(wait.alive.values()) >= self._limit:
                    return False
            return False
        finally:
            wait.count -= 1
            if not wait.count:
                del self._waits[user_id]

    def received(self, signal: dict[str, Any]) -> None:
        """Handle a signal that any node sent, this one included."""
        user_id = signal["user_id"]
        if signal["do"] == "probed":
            if (wait := self._waits.get(user_id)) is not None:
                wait.alive[signal["node"]] = signal["alive"]
        elif user_id not in self._probed and (clients := self._clients_of(user_id)):
            self._probed.add(user_id)
            self._tasks.spawn(self._probe(user_id, clients))

    async def _probe(self, user_id: UserId, clients: list[Client]) -> None:
        """Ping the ``clients`` of a user, drop those that do not answer in time, and signal how many are left."""
        try:
            begun = self._keepalive.refresh()
            for client in clients:
                client.probe()
            # Several short sleeps: if the event loop stalls in one of them, the answers are read in the next.
            for _ in range(round(PROBE_TIMEOUT / _INTERVAL)):
                await asyncio.sleep(_INTERVAL)
                if all(client.last_read >= begun for client in clients):
                    break
            for client in clients:
                client.drop_if_silent_since(begun)
            await self._signal("probed", user_id, node=self._node_id, alive=sum(one.end is None for one in clients))
        finally:
            self._probed.discard(user_id)

    async def _signal(self, kind: str, user_id: UserId, **more: str | int) -> None:
        await self._broker.signal(orjson.dumps({"do": kind, "user_id": user_id, **more}))

    def _clients_of(self, user_id: UserId) -> list[Client]:
        return [one for one in self._delivery.personal.get(personal_room(user_id), ()) if isinstance(one, Client)]
