"""Events to single connections, which are not stored.

They are broadcasts in the personal room of the connection's user, so that only nodes with connections of this user
receive them.
"""

from __future__ import annotations

from typing import Final

from ..connection_id import ConnectionId
from ..protocol import frames
from ..protocol.user_id import personal_room
from .client import Client
from .node import Node

#: The beginning of a broadcast to one connection. The node and the number of the connection follow, then the event.
DIRECT: Final = b"to "


class DirectEvents:
    """Sends events to connections of any node, and delivers those for connections of this one."""

    def __init__(self, node: Node) -> None:
        self._id: Final = node.id.encode()
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery

    def send(self, connection: ConnectionId, payload: bytes) -> None:
        """Send ``payload``, an event as JSON. Raises ``Unavailable`` if the broker cannot be reached now."""
        head = f"{connection.node} {connection.number}\n".encode()
        self._broker.broadcast(personal_room(connection.user_id), DIRECT + head + payload)

    def on_broadcast(self, room: str, message: bytes) -> None:
        """Deliver a message of ``send`` if its connection is on this node. ``room`` is the personal room."""
        head, _, payload = message.removeprefix(DIRECT).partition(b"\n")
        node, _, number = head.partition(b" ")
        if node != self._id:
            return
        for connection in self._delivery.personal.get(room, ()):
            if isinstance(connection, Client) and connection.id == int(number):
                self._delivery.send(connection, frames.text(payload))
