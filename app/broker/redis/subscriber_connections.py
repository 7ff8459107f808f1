"""The connections of one node for its subscriptions: one to each server, following the topology.

``subscriptions`` sends the SUBSCRIBE commands on them and processes what they receive.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from ...errors import BrokerUnavailable, Unavailable
from .connection import RedisConnection, ReplyError
from .reconnect import OnLost, OpenConnection, ReconnectingConnection, format_name
from .router import Router
from .topology import Address, ServerName

#: The code of the error that batches receive as their reply if the connection is lost before.
CONNECTION_LOST: Final = "LOST"


class ConnectionOwner(Protocol):
    """The owner of the connections. ``Subscriptions`` implements it."""

    def on_push(self, push: list[Any]) -> None:
        """Process a message or confirmation that a server pushed."""

    def on_server_up(self, name: ServerName, connection: RedisConnection) -> None:
        """A server is connected."""

    def on_slots_moved(self) -> None:
        """Slots have moved, perhaps between servers that are connected already."""


class _Subscriber:
    """The connection to one server for its subscriptions."""

    def __init__(
        self, name: ServerName, owner: ConnectionOwner, router: Router, open_connection: OpenConnection
    ) -> None:
        self._name: Final = name
        self._router: Final = router
        self._owner: Final = owner

        async def connect(address: Address | None, on_lost: OnLost) -> RedisConnection:
            return await open_connection(address, owner.on_push, on_lost)

        self.reconnecting: Final = ReconnectingConnection(
            name, "subscriptions", router.topology.address, connect, self._on_up, self._on_down
        )

    def problem(self) -> str:
        """Return a sentence with the reason for which there is no connection."""
        return _problem(self._name, self.reconnecting.reason)

    def _on_up(self, connection: RedisConnection) -> None:
        self._owner.on_server_up(self._name, connection)

    def _on_down(self, connection: RedisConnection, reason: str) -> None:
        for on_replies in connection.unanswered:
            on_replies(ReplyError(f"{CONNECTION_LOST} {reason}"))
        self._router.refresh_soon()


class SubscriberConnections:
    """One connection to each server for the subscriptions of ``owner``."""

    def __init__(self, router: Router, open_connection: OpenConnection, owner: ConnectionOwner) -> None:
        self._router: Final = router
        self._open_connection: Final = open_connection
        self._owner: Final = owner
        self._subscribers: Final[dict[ServerName, _Subscriber]] = {}
        self._topology_version = 0
        router.on_refresh.append(self._update)
        router.on_new_generation.append(self._drop_older)

    async def start(self, wait: float) -> None:
        """Connect to all servers; raise ``Unavailable`` if that takes longer than ``wait`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        self._update()
        while problems := self.problems():
            if loop.time() > deadline:
                raise BrokerUnavailable(problems[0])
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Close all connections."""
        for subscriber in list(self._subscribers.values()):
            await subscriber.reconnecting.close()
        self._subscribers.clear()

    def problems(self) -> list[str]:
        """Return a sentence for each server without a connection."""
        return [one.problem() for one in self._subscribers.values() if one.reconnecting.connection is None]

    def get(self, channel: bytes) -> RedisConnection:
        """Return the connection to the server of ``channel``; raise ``Unavailable``."""
        name = self._router.topology.name(channel)
        subscriber = self._subscribers.get(name)
        if subscriber is None:
            raise BrokerUnavailable(_problem(name, "not connected yet"))
        if subscriber.reconnecting.connection is None:
            raise BrokerUnavailable(subscriber.problem())
        return subscriber.reconnecting.connection

    def is_on(self, channel: bytes, name: ServerName) -> bool:
        """Return True if ``channel`` is on the server ``name`` now."""
        try:
            return self._router.topology.name(channel) == name
        except Unavailable:
            return False

    def _drop_older(self, name: ServerName, generation: bytes) -> None:
        """Drop a connection that has survived a promotion, so that the states of its rooms are read again."""
        subscriber = self._subscribers.get(name)
        connection = subscriber.reconnecting.connection if subscriber is not None else None
        if connection is not None and connection.generation != generation:
            connection.abort("it was promoted")

    def _update(self) -> None:
        """Connect to each new server, and close the connections to servers that left."""
        topology = self._router.topology
        names = topology.names()
        for name in names:
            if name not in self._subscribers:
                self._subscribers[name] = _Subscriber(name, self._owner, self._router, self._open_connection)
            else:
                self._subscribers[name].reconnecting.update_address(topology.address(name))
        if topology.version != self._topology_version:
            self._topology_version = topology.version
            self._owner.on_slots_moved()
        for name in [name for name in self._subscribers if name not in names]:
            asyncio.ensure_future(self._subscribers.pop(name).reconnecting.close())  # noqa: RUF006  # nothing depends on it


def _problem(name: ServerName, reason: str) -> str:
    return f"Redis at {format_name(name)} cannot be reached (subscriptions): {reason}."
