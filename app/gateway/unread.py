"""Unread messages: the command ``mark_read``, the count for ``joined_room``, and the user's other connections.

A count is the difference between the messages that this node has delivered in a room and those that the user has read
(see ``broker.read_marks``). So it fits the events that a client receives after it: each of them that is a message adds
one.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any, Final, NamedTuple

import orjson

from ..broker.read_marks import ReadMarks
from ..errors import Refused, Unavailable
from ..fastpath import WriteQueue
from ..protocol import frames, messages
from ..protocol.messages import Request
from .client import Client
from .command_data import invalid_field
from .node import Node

log = logging.getLogger("roomcast")

#: The beginning of a broadcast about a mark in the room of its user.
MARK: Final = b"read "


class UnreadCount(NamedTuple):
    """What is needed to count the unread messages of a room at any moment: ``read`` is the number of those read."""

    marks: ReadMarks
    room: str
    read: int

    def add_to(self, data: dict[str, Any]) -> None:
        """Add the number of messages that are unread now to the data of ``joined_room``."""
        data["unread"] = self.now

    @property
    def now(self) -> int:
        """The number of messages that are unread now. Never negative, also if the room has just lost events."""
        return max(self.marks.count_all(self.room) - self.read, 0)


class _DelayedMark(NamedTuple):
    """A mark that another connection of the user has set."""

    event_id: str
    unread: UnreadCount


class Unread:
    """The marks of the users on one node."""

    def __init__(self, node: Node) -> None:
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._message_rooms: Final = node.registry.message_rooms
        #: Identifies this node in its broadcasts.
        self._node: Final = secrets.token_hex(5)
        #: The connections that are sent the history of a room, with the last mark that was set meanwhile.
        self._delayed: Final[dict[tuple[WriteQueue, str], _DelayedMark | None]] = {}

    async def prepare(self, client: Client, room: str) -> UnreadCount | None:
        """Read how much of a subscribed room the client's user has read. The result is valid for a moment.

        Return None if the room has had no messages, or if the broker cannot be reached: a join does not fail because of
        that.
        """
        if room[: room.index(":")] not in self._message_rooms:
            return None
        marks = self._broker.marks
        if not marks.count_all(room):
            return None
        try:
            return UnreadCount(marks, room, await marks.count_read(room, client.identity.user_id))
        except Unavailable as error:
            log.debug("The unread messages of room %s could not be counted: %s", room, error.detail)
            return None

    async def mark_read(self, client: Client, request: Request) -> None:
        """Mark the room as read up to an event; reply ``marked_read``, and tell the user's other connections."""
        room = request.room
        if room is None or not self._delivery.has(room, client):
            raise messages.not_joined(room)
        messages.refuse_other_fields(request, "event_id")
        event_id = (request.data or {}).get("event_id")
        if not isinstance(event_id, str):
            raise invalid_field("event_id", "Not a string", "give the id of the last event that the user has read")
        marks = self._broker.marks
        mark = await marks.move(room, client.identity.user_id, event_id)
        if mark is None:
            sentence = f"{room} has no event {event_id[:60]!r}, or has lost it; mark an event that you have received."
            raise Refused("not_found", sentence)
        count = UnreadCount(marks, room, mark.messages)
        if client.end is None:
            self._send(client, room, mark.event_id, count.now, request.id)
        if mark.event_id == event_id:  # it was not older than the mark
            self._tell_others(client, room, event_id, count)

    def _tell_others(self, client: Client, room: str, event_id: str, count: UnreadCount) -> None:
        """Send ``marked_read`` to the user's other connections, on all nodes."""
        personal_room = client.personal_room
        self._deliver(personal_room, room, event_id, count, count.now, client)
        payload = MARK + orjson.dumps([self._node, room, event_id, count.read, count.now])
        try:
            self._broker.broadcast(personal_room, payload)
        except Unavailable as error:
            log.debug("A mark in room %s was not sent to other nodes: %s", room, error.detail)

    def on_broadcast(self, personal_room: str, payload: bytes) -> None:
        """Send a mark that was set on another node to the connections of its user."""
        node, room, event_id, read, unread = orjson.loads(payload[len(MARK) :])
        if node == self._node:
            return
        count = UnreadCount(self._broker.marks, room, read)
        if room in self._delivery.rooms:  # this node may have delivered other events than the other one
            unread = count.now
        self._deliver(personal_room, room, event_id, count, unread, None)

    def _deliver(
        self, personal_room: str, room: str, event_id: str, count: UnreadCount, unread: int, sender: Client | None
    ) -> None:
        for connection in self._delivery.personal.get(personal_room, ()):
            if (connection, room) in self._delayed:
                self._delayed[connection, room] = _DelayedMark(event_id, count)
            elif connection is not sender:
                self._send(connection, room, event_id, unread, None)

    def start_delay(self, client: Client, room: str) -> None:
        """Hold back the marks of other connections in ``room`` while the client is sent the history.

        Their counts include events that follow in the history. The client would count these again.
        """
        self._delayed[client, room] = None

    def end_delay(self, client: Client, room: str) -> bytes:
        """Return the frame of the last mark that was held back, to be sent after the history."""
        mark = self._delayed.pop((client, room))
        if mark is None:
            return b""
        data = {"event_id": mark.event_id, "unread": mark.unread.now}
        return frames.text(messages.reply("marked_read", data, room=room))

    def _send(self, connection: WriteQueue, room: str, event_id: str, unread: int, id: str | int | None) -> None:
        """Send ``marked_read`` after the events of the room that ``unread`` includes."""
        self._delivery.send_pending(room, connection)
        data = {"event_id": event_id, "unread": unread}
        self._delivery.send(connection, frames.text(messages.reply("marked_read", data, room=room, id=id)))
