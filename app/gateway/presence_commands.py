"""The commands ``members`` and ``set_presence``."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..broker.base import MAX_PAGE_MEMBERS
from ..builtin_events import MAX_DATA, MAX_STATUS
from ..errors import Refused
from ..protocol import messages
from ..protocol.messages import Request
from .client import Client
from .command_data import invalid_field, parse_count
from .member_list import encode_status
from .node import Node
from .presence import Presence

#: How many bytes a status counts for each of its rooms in ``WS_BYTE_RATE``, in addition to its own. Setting it takes
#: Redis about as long as an event of this size.
STATUS_COST: Final = 512


class PresenceCommands:
    """Lists the members of rooms to clients, and sets the statuses of their users."""

    def __init__(self, node: Node, presence: Presence) -> None:
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._presence: Final = presence

    async def members(self, client: Client, request: Request) -> None:
        """Reply ``members`` with a page of the members of a room that the client is in."""
        room = request.room
        if room is None:
            raise messages.bad_room(None)
        messages.refuse_other_fields(request, "limit", "after")
        data = request.data or {}
        limit, after = parse_count(data, "limit", MAX_PAGE_MEMBERS, MAX_PAGE_MEMBERS), data.get("after")
        if after is not None and not isinstance(after, str):
            raise invalid_field("after", "Not a string", "give the next of the page before, or null for the first page")
        if room not in client.rooms:
            raise messages.not_joined(room)
        recording = self._presence.start_recording(room)
        try:
            page, _ = await self._presence.read_members(client, room, after, limit)
        finally:
            announced = self._presence.end_recording(room, recording)
        client.send_json(messages.reply("members", page, room=room, id=request.id))
        if announced and room in client.rooms:
            self._delivery.send(client, announced)

    async def set_presence(self, client: Client, request: Request) -> None:
        """Set the status of the client's user in one room, or without a room in all rooms that the client is in."""
        messages.refuse_other_fields(request, "status", "data")
        data = request.data or {}
        status, details = _parse_status(data.get("status")), _parse_details(data.get("data"))
        room = request.room
        if room is not None and room not in client.rooms:
            raise messages.not_joined(room)
        text = encode_status(status, details)
        types = self._delivery.types
        rooms = [one for one in (client.rooms if room is None else (room,)) if types.of(one).has_presence]
        if room is not None and not rooms:
            raise Refused("bad_room", f"{room} has no presence: the server does not record who is in such rooms.")
        for one in rooms:
            client.count_event(len(text) + STATUS_COST, is_first=one is rooms[0])
        user_id = client.identity.user_id
        await asyncio.gather(*[self._broker.set_status(one, user_id, text) for one in rooms])
        reply = {"status": status, "data": details}
        client.send_json(messages.reply("presence_set", reply, room=room, id=request.id))


def _parse_status(status: Any) -> str | None:
    if status is not None and (not isinstance(status, str) or len(status) > MAX_STATUS):
        raise invalid_field(
            "status", "Not a short text", f"give a text of at most {MAX_STATUS} characters, or null for none"
        )
    return status


def _parse_details(details: Any) -> dict[str, Any] | None:
    if details is None:
        return None
    if not isinstance(details, dict):
        raise invalid_field("data", "Not an object", "give an object, or null for none")
    size = len(messages.encode(details))
    if size > MAX_DATA:
        raise invalid_field("data", f"{size} bytes as JSON", f"give an object of at most {MAX_DATA} bytes as JSON")
    return details
