"""Send a returning client the events that it missed.

``Rooms.join`` uses this for rooms, ``Sessions`` for personal rooms. The events of a history follow the reply in the
same write. If they exceed ``WS_MAX_BUFFER``, those of a room are sent in portions.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..broker.base import History
from ..errors import INTERNAL_ERROR, TOO_SLOW, Refused
from ..fastpath import encode_event_frame
from ..protocol import frames, messages
from ..protocol.messages import Request
from .client import Client
from .node import Node

#: The greatest size of a frame without the event's payload and id, in bytes.
_FRAME_OVERHEAD: Final = 20
#: How often to check whether a client has read its portion, in seconds.
_POLL_INTERVAL: Final = 0.01


class Resume:
    """Replays history to clients. A client never has more than ``WS_MAX_BUFFER`` unread bytes because of it."""

    def __init__(self, node: Node) -> None:
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._max_unread: Final = node.settings.ws_max_buffer

    async def respond(self, client: Client, request: Request, room: str, since: str) -> bytes:
        """Return the frames to send next: ``joined_room`` and the missed events.

        If the events exceed the limit, ``joined_room`` and all but the last portion are sent before this returns.
        """
        history = await self._broker.history(room, since)
        response = joined_response(request, recovered=history.recovered, last_id=history.last_id)
        if self._fits(client, history):
            return response + _event_frames(history)
        self._delivery.send(client, response)
        self._delivery.leave(room, client)  # live events would overtake the portions of a client that is a member
        try:
            history = await self._send_portions(client, room, history, since)
        except BaseException as error:  # the client has received joined_room and is not a member
            client.close(TOO_SLOW if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR)
            raise
        if not history.recovered:
            return frames.text(messages.resync(room, history.last_id))
        return _event_frames(history)

    def replay(self, client: Client, history: History) -> tuple[bytes, bool]:
        """Return the frames of the events missed in the user's personal room, and True if none is lost.

        Return no frames if they exceed the limit: they would close the client, again each time it returned.
        """
        if not self._fits(client, history):
            return b"", False
        return _event_frames(history), history.recovered

    async def _send_portions(self, client: Client, room: str, history: History, since: str) -> History:
        """Send the missed events in portions, each when the client has read the one before; return the last portion.

        Sent at once, they would close the client with 1013. It would return, ask for the same events, and never catch
        up. A client that reads too slowly even for portions is closed when the command times out, and may resume from
        the last event that it received.
        """
        while client.end is None and history.recovered and not self._fits(client, history):
            if client.unread_bytes:
                await self._wait_for_reads(client, history)
            else:
                portion, since = _first_portion(history, self._max_unread // 2)
                self._delivery.send(client, portion)
            # Read again after every wait: events published meanwhile are not delivered live to this client.
            history = await self._broker.history(room, since)
        return history

    async def _wait_for_reads(self, client: Client, history: History) -> None:
        """Wait until the client has read everything, or enough for ``history`` to fit, or has ended."""
        while client.end is None and client.unread_bytes and not self._fits(client, history):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_INTERVAL)

    def _fits(self, client: Client, history: History) -> bool:
        """Return True if the client may be sent all of ``history`` without reading anything."""
        if not history.events:
            return True
        size = sum(len(event.payload) + len(event.id) + _FRAME_OVERHEAD for event in history.events)
        return client.unread_bytes + size <= self._max_unread


def joined_response(request: Request, **resumed: Any) -> bytes:
    """Build the ``joined_room`` frame; ``resumed`` is added to its data."""
    data = {"message": f"Joined room {request.room}", **resumed}
    return frames.text(messages.reply("joined_room", data, room=request.room, id=request.id))


def parse_since(request: Request) -> str | None:
    """Return the id of the last event that the client of a ``join_room`` request has seen, or "" if it has seen none.

    Return None if the client does not ask to resume. Raises ``Refused``.
    """
    if not request.data:
        return None
    messages.refuse_other_fields(request, "since")
    since = request.data["since"]
    if since is not None and not isinstance(since, str):
        message = "give the id of the last event you saw, or null"
        raise Refused("invalid_data", f"data.since: {message}.", {"since": [f"Not a string; {message}."]})
    return since or ""


def _first_portion(history: History, min_size: int) -> tuple[bytes, str]:
    """Return the frames of the oldest events, at least ``min_size`` bytes or all, and the id of the last of them."""
    portion = bytearray()
    for event in history.events:
        portion += encode_event_frame(event.payload, event.id)
        if len(portion) >= min_size:
            break
    return bytes(portion), event.id


def _event_frames(history: History) -> bytes:
    return b"".join([encode_event_frame(event.payload, event.id) for event in history.events])
