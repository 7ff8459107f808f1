"""Send a returning client the events that it missed.

``Rooms.join`` uses this for rooms, ``Sessions`` for personal rooms. The events of a history follow the reply in the
same write. If they exceed ``WS_MAX_BUFFER``, those of a room are sent in pages. Each page is read once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..broker.base import MAX_PAGE_BYTES, History
from ..errors import INTERNAL_ERROR, TOO_SLOW, Refused
from ..fastpath import encode_event_frame
from ..protocol import frames, messages
from ..protocol.messages import Request
from .client import Client
from .history_limit import LimitedHistory
from .node import Node

#: The greatest size of a frame without the event's payload and id, in bytes.
_FRAME_OVERHEAD: Final = 20
#: How often to check whether a client has read its page, in seconds: at first, and when it turns out to be slow.
_FIRST_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.1


class Resume:
    """Replays history to clients. A client never has more than ``WS_MAX_BUFFER`` unread bytes because of it."""

    def __init__(self, node: Node, history: LimitedHistory) -> None:
        self._history: Final = history
        self._delivery: Final = node.delivery
        self._max_unread: Final = node.settings.ws_max_buffer
        #: Half of the buffer, because live events of other rooms may arrive meanwhile.
        self._page_size: Final = min(MAX_PAGE_BYTES, self._max_unread // 2)

    async def respond(self, client: Client, request: Request, room: str, since: str) -> bytes:
        """Return the frames to send next: ``joined_room`` and the missed events.

        If the events exceed the limit, ``joined_room`` and all but the last page are sent before this returns.
        """
        page = await self._read(client, room, since)
        response = joined_response(request, recovered=page.recovered, last_id=page.last_id)
        if page.cursor is None and self._fits(client, page):
            return response + _event_frames(page)
        self._delivery.send(client, response)
        self._delivery.leave(room, client)  # live events would overtake the pages of a client that is a member
        try:
            page = await self._send_pages(client, room, page)
        except BaseException as error:  # the client has received joined_room and is not a member
            client.close(TOO_SLOW if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR)
            raise
        if not page.recovered:
            return frames.text(messages.resync(room, page.last_id))
        return _event_frames(page)

    async def read_personal(self, client: Client, since: str) -> History:
        """Read the events that a client missed in its user's personal room.

        If they exceed ``WS_MAX_BUFFER``, return none of them, and ``recovered`` False: they would close the client,
        again each time it returned.
        """
        room = client.personal_room
        page = await self._read(client, room, since)
        events, size = list(page.events), _frames_size(page)
        while page.cursor is not None and size <= self._max_unread:
            page = await self._read(client, room, page.cursor)
            events += page.events
            size += _frames_size(page)
        if not page.recovered or size > self._max_unread:
            return History((), False, page.last_id)
        return History(events, True, page.last_id)

    def replay(self, client: Client, history: History) -> tuple[bytes, bool]:
        """Return the frames of the events missed in the user's personal room, and True if none is lost.

        Return no frames if they exceed the limit.
        """
        if not self._fits(client, history):
            return b"", False
        return _event_frames(history), history.recovered

    async def _read(self, client: Client, room: str, since: str) -> History:
        return await self._history.read(client.identity.user_id, room, since, max_bytes=self._page_size)

    async def _send_pages(self, client: Client, room: str, page: History) -> History:
        """Send the missed events page by page, each when the client has read the one before; return the last page.

        Sent at once, they would close the client with 1013. It would return, ask for the same events, and never catch
        up. A client that reads too slowly even for pages is closed when the command times out, and may resume from
        the last event that it received.
        """
        while True:
            await self._wait_for_reads(client)
            self._delivery.send(client, _event_frames(page))
            since = page.events[-1].id
            await self._wait_for_reads(client)
            if client.end is not None:
                return page
            page = await self._read(client, room, since)
            # If nothing waits after the last page was read, later events arrive live. Otherwise another page follows.
            if page.cursor is None and self._fits(client, page):
                return page

    async def _wait_for_reads(self, client: Client) -> None:
        """Wait until the client has read everything that it was sent, or has ended."""
        pause = _FIRST_POLL
        while client.end is None and client.unread_bytes:  # most clients read a page within 10 ms
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)

    def _fits(self, client: Client, page: History) -> bool:
        """Return True if the client may be sent all of ``page`` without reading anything."""
        return not page.events or client.unread_bytes + _frames_size(page) <= self._max_unread


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


def _frames_size(page: History) -> int:
    """Return the size of the frames of ``page``, in bytes. It may be a few bytes too large."""
    return sum(len(event.payload) + len(event.id) + _FRAME_OVERHEAD for event in page.events)


def _event_frames(page: History) -> bytes:
    return b"".join([encode_event_frame(event.payload, event.id) for event in page.events])
