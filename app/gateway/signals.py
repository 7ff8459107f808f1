"""Signals, which reach all nodes: change the rooms of users, disconnect users, revoke tokens, probe connections."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import orjson

from ..auth.identity import Identity
from ..auth.revocation import Revocations
from ..broker.base import UserId
from ..connection_id import ConnectionId
from ..errors import AUTHENTICATION_FAILED, DISCONNECTED, AuthenticationFailed, Unavailable
from ..protocol.user_id import personal_room
from .audit_log import log_user_event
from .client import Client
from .node import Node
from .probes import Probes
from .rooms import Rooms

#: The pause between two attempts to read revocations from an unavailable broker, in seconds.
_RETRY_PAUSE: Final = 1.0


class Signals:
    """Sends signals through the broker, and carries out those that concern clients of this node.

    ``auth.revocation`` sends the signals that revoke tokens, ``probes`` those that probe connections.
    """

    def __init__(self, node: Node, rooms: Rooms, revocations: Revocations, probes: Probes) -> None:
        self._node_id: Final = node.id
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._tasks: Final = node.tasks
        self._rooms: Final = rooms
        self._revocations: Final = revocations
        self._probes: Final = probes

    async def kick(self, room: str, user_id: UserId) -> None:
        """Remove all connections of a user from ``room``, on every node. The user may join again."""
        await self._send("kick", user_id, room)

    async def disconnect(self, user_id: UserId, connection: ConnectionId | None = None) -> None:
        """Close all connections of a user, or only ``connection``, on every node."""
        await self._send("disconnect", user_id, None, connection)

    async def join(self, room: str, user_id: UserId, connection: ConnectionId | None = None) -> None:
        """Add all connections of a user, or only ``connection``, to ``room`` on every node, without asking its rule."""
        await self._send("join", user_id, room, connection)

    async def leave(self, room: str, user_id: UserId, connection: ConnectionId | None = None) -> None:
        """Remove all connections of a user, or only ``connection``, from ``room`` on every node."""
        await self._send("leave", user_id, room, connection)

    async def _send(
        self, action: str, user_id: UserId, room: str | None, connection: ConnectionId | None = None
    ) -> None:
        signal: dict[str, Any] = {"do": action, "user_id": user_id}
        if room is not None:
            signal["room"] = room
        if connection is not None:
            signal["connection"] = [connection.node, connection.number]
        await self._broker.signal(orjson.dumps(signal))

    def received(self, message: bytes) -> None:
        """Carry out a signal that any node sent, this one included."""
        signal: dict[str, Any] = orjson.loads(message)
        action = signal["do"]
        if action in ("probe", "probed"):
            self._probes.received(signal)
        elif action == "revoke":
            self._revoke(signal)
        else:
            node, number = signal.get("connection", (self._node_id, None))
            for client in self._clients_of(signal["user_id"]):
                if node == self._node_id and number in (None, client.id):
                    self._carry_out(action, client, signal.get("room"))

    def _carry_out(self, action: str, client: Client, room: str | None) -> None:
        """Carry out a signal for one client. Signals of later versions are ignored."""
        if action == "disconnect":
            client.close(DISCONNECTED)
        elif action == "join" and room is not None:
            self._tasks.spawn(self._rooms.add(client, room))
        elif action == "kick" and room in client.rooms:
            log_user_event("removed from a room", client, room)
            self._tasks.start_departure(self._rooms.remove(client, room, f"Removed from room {room}"))
        elif action == "leave" and room in client.rooms:
            self._tasks.start_departure(self._rooms.remove(client, room, f"Left room {room}"))

    def _revoke(self, signal: dict[str, Any]) -> None:
        """Close the clients whose token the signal revokes.

        If such a token has a later ``iat`` than the revocation, its issuer's clock is ahead. The revocation is extended
        to that time, so that the token cannot be used again.
        """
        self._revocations.invalidate_checks()
        latest = before = signal.get("before", math.inf)
        for client in self._clients_of(signal["user_id"]):
            if self._revocations.revokes(signal, client.identity):
                latest = max(latest, client.identity.issued or 0.0)
                self._close_revoked(client)
        if latest > before:
            self._tasks.spawn(self._revocations.extend(signal["user_id"], latest))

    def lost(self) -> None:
        """Check all tokens again, because signals may have been lost. Lost kicks and disconnects are not repeated."""
        self._revocations.invalidate_checks()
        self._tasks.spawn(self._review_tokens())

    def _clients_of(self, user_id: UserId) -> list[Client]:
        return [one for one in self._delivery.personal.get(personal_room(user_id), ()) if isinstance(one, Client)]

    @staticmethod
    def _close_revoked(client: Client) -> None:
        log_user_event("token revoked", client, "closed")
        client.close(AUTHENTICATION_FAILED)

    async def _review_tokens(self) -> None:
        """Close all clients whose token was revoked. Later clients are checked at admission."""
        present = [one for here in self._delivery.personal.values() for one in here if isinstance(one, Client)]
        for client in present:
            identity = client.identity
            # A newer token was checked when the client sent it.
            if not await self._is_valid(identity) and client.identity is identity:
                self._close_revoked(client)

    async def _is_valid(self, identity: Identity) -> bool:
        """Return True if the token of ``identity`` was not revoked; wait until the broker is available."""
        while True:
            try:
                await self._revocations.check(identity)
            except AuthenticationFailed:
                return False
            except Unavailable:
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                return True
