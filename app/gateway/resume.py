"""Send a client that joins the events of the history that it asks for: those that it missed, or the newest ones.

``Rooms.join`` uses this for rooms, ``Sessions`` for personal rooms. The events follow the reply in the same write. If
missed events exceed ``WS_MAX_BUFFER``, those of a room are sent in pages. Each page is read once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..broker.base import History
from ..errors import INTERNAL_ERROR, TOO_SLOW
from ..protocol import frames, messages
from ..protocol.messages import Request
from .client import Client
from .history_limit import LimitedHistory
from .join_options import JoinOptions, joined_response
from .node import Node
from .pages import event_frames, frames_size, max_page_size, newest_fitting, wait_for_reads
from .unread import UnreadCount

#: How long a join with ``last`` waits for a client that has unread bytes, in seconds. After that, fewer events may fit.
_PATIENCE: Final = 1.0


class Resume:
    """Replays history to clients. A client never has more than ``WS_MAX_BUFFER`` unread bytes because of it."""

    def __init__(self, node: Node, history: LimitedHistory) -> None:
        self._history: Final = history
        self._delivery: Final = node.delivery
        self._max_unread: Final = node.settings.ws_max_buffer
        self._page_size: Final = max_page_size(self._max_unread)

    async def respond(
        self,
        client: Client,
        request: Request,
        room: str,
        options: JoinOptions,
        data: dict[str, Any],
        unread: UnreadCount | None,
    ) -> bytes:
        """Return the frames to send next: ``joined_room`` with ``data`` and the events that the client asks for.

        With ``options.since``, these are the missed events, or if they are not stored any more, the same as without it:
        the newest ``options.last`` events. The state of the history and the number of ``unread`` messages are
        added to ``data``. Nothing waits between the last read and the return. If the client is a member, it is sent its
        pending frames before.
        """
        if options.since is not None:
            page = await self._read(client, room, options.since)
            data["recovered"] = page.recovered
            if page.recovered or not options.last:
                if unread is not None:
                    unread.add_to(data)
                return await self._respond_missed(client, request, room, page, data)
        # A client that joins many rooms at once has not read the events of the first ones yet.
        await wait_for_reads(client, self._max_unread - self._page_size, _PATIENCE)
        page = await self._history.read(client.identity.user_id, room, None, options.last, max_bytes=self._page_size)
        if unread is not None:
            unread.add_to(data)
        return self._respond_newest(client, request, room, page, data)

    def _respond_newest(
        self, client: Client, request: Request, room: str, page: History, data: dict[str, Any]
    ) -> bytes:
        """Return ``joined_room`` and the events of ``page``, the newest ones, as many as fit."""
        # Not after the response: the pending events are older than the newest ones, or among them.
        self._delivery.send_pending(room, client)
        data.update(last_id=page.last_id, more=page.has_older)
        response = joined_response(request, data)
        events = newest_fitting(page.events, self._max_unread - client.unread_bytes - len(response))
        if len(events) < len(page.events):
            data["more"] = True
            response = joined_response(request, data)
        return response + event_frames(events)

    async def _respond_missed(
        self, client: Client, request: Request, room: str, page: History, data: dict[str, Any]
    ) -> bytes:
        """Return ``joined_room`` and the missed events, of which ``page`` is the first page.

        If the events exceed the limit, ``joined_room`` and all but the last page are sent before this returns.
        """
        # The missed events contain the stored events among the pending frames.
        self._delivery.send_pending(room, client, skips_stored=page.recovered)
        data["last_id"] = page.last_id
        response = joined_response(request, data)
        if page.cursor is None and self._fits(client, page):
            return response + event_frames(page.events)
        self._delivery.send(client, response)
        self._delivery.leave(room, client)  # live events would overtake the pages of a client that is a member
        try:
            page = await self._send_pages(client, room, page)
        except BaseException as error:  # the client has received joined_room and is not a member
            client.close(TOO_SLOW if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR)
            raise
        if not page.recovered:
            return frames.text(messages.resync(room, page.last_id))
        return event_frames(page.events)

    async def read_personal(self, client: Client, since: str) -> History:
        """Read the events that a client missed in its user's personal room.

        If they exceed ``WS_MAX_BUFFER``, return none of them, and ``recovered`` False: they would close the client,
        again each time it returned.
        """
        room = client.personal_room
        page = await self._read(client, room, since)
        events, size = list(page.events), frames_size(page.events)
        while page.cursor is not None and size <= self._max_unread:
            page = await self._read(client, room, page.cursor)
            events += page.events
            size += frames_size(page.events)
        if not page.recovered or size > self._max_unread:
            return History((), False, page.last_id)
        return History(events, True, page.last_id)

    def replay(self, client: Client, history: History) -> tuple[bytes, bool]:
        """Return the frames of the events missed in the user's personal room, and True if none is lost.

        Return no frames if they exceed the limit.
        """
        if not self._fits(client, history):
            return b"", False
        return event_frames(history.events), history.recovered

    async def _read(self, client: Client, room: str, since: str) -> History:
        return await self._history.read(client.identity.user_id, room, since, max_bytes=self._page_size)

    async def _send_pages(self, client: Client, room: str, page: History) -> History:
        """Send the missed events page by page, each when the client has read the one before; return the last page.

        Sent at once, they would close the client with 1013. It would return, ask for the same events, and never catch
        up. A client that reads too slowly even for pages is closed when the command times out, and may resume from
        the last event that it received.
        """
        while True:
            await wait_for_reads(client)
            self._delivery.send(client, event_frames(page.events))
            since = page.events[-1].id
            await wait_for_reads(client)
            if client.end is not None:
                return page
            page = await self._read(client, room, since)
            # If nothing waits after the last page was read, later events arrive live. Otherwise another page follows.
            if page.cursor is None and self._fits(client, page):
                return page

    def _fits(self, client: Client, page: History) -> bool:
        """Return True if the client may be sent all of ``page`` without reading anything."""
        return not page.events or client.unread_bytes + frames_size(page.events) <= self._max_unread
