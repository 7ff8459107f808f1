"""The command ``history``: a page of a room's stored events for one of its members.

The stored JSON of the events is copied into the reply without being decoded, so that a page of 256 KB takes 0.1 ms.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import orjson

from ..broker.base import History
from ..errors import Refused
from ..protocol import frames, messages
from ..protocol.messages import MAX_PAGE, Request
from ..stored_events import encode
from .client import Client
from .command_data import invalid_field, parse_count
from .history_limit import LimitedHistory
from .node import Node
from .pages import max_page_size, wait_for_reads

#: The number of events in a reply if the client names none.
DEFAULT_LIMIT: Final = 50
#: How many bytes the reply takes in addition to its events, at most.
_REPLY_OVERHEAD: Final = 1024
_is_event_id: Final = re.compile(r"[a-z0-9]{1,64}-[0-9]{1,18}").fullmatch


class _Range(NamedTuple):
    """The events that a request asks for. At most one of ``since`` and ``before`` is not None."""

    since: str | None
    before: str | None
    limit: int


class HistoryCommand:
    """Reads the history for clients, within the limit of each user.

    A client has at most one reply that it has not read, of at most ``MAX_PAGE_BYTES`` or half of ``WS_MAX_BUFFER``, or
    of one event if that is larger.
    """

    def __init__(self, node: Node, history: LimitedHistory) -> None:
        self._history: Final = history
        self._delivery: Final = node.delivery
        self._max_unread: Final = node.settings.ws_max_buffer
        self._page_size: Final = max_page_size(self._max_unread) - _REPLY_OVERHEAD

    async def read(self, client: Client, request: Request) -> None:
        """Reply with a page of the history of the room, to a member of it. Raises ``Refused``.

        If the client has not read what it was sent before, wait for that. Otherwise a client that asks again and again
        and never reads would be sent any amount of history, and one that reads slowly would be closed.
        """
        room = request.room
        if room is None or not self._delivery.has(room, client):
            raise messages.not_joined(room)
        since, before, limit = _parse(request)
        await wait_for_reads(client, self._max_unread - self._page_size)
        user_id = client.identity.user_id
        page = await self._history.read(user_id, room, since, limit, before=before, max_bytes=self._page_size)
        reply = frames.text(_reply(request, page, since))
        await wait_for_reads(client, max(self._max_unread - len(reply), 0))
        if client.end is not None:
            return
        if not self._delivery.has(room, client):  # it has left the room, or was removed from it
            raise messages.not_joined(room)
        # So that every event of the reply that arrives live as well has arrived before it.
        self._delivery.send_pending(room, client)
        self._delivery.send(client, reply)


def _reply(request: Request, page: History, since: str | None) -> bytes:
    """Build the reply. ``more`` is about newer events if ``since`` is given, otherwise about older ones."""
    data: dict[str, Any] = {
        "events": [orjson.Fragment(encode(event)) for event in page.events],
        "more": page.has_older if since is None else page.cursor is not None,
        "last_id": page.last_id,
    }
    if since is not None:
        data["recovered"] = page.recovered
    return messages.reply("history", data, room=request.room, id=request.id)


def _parse(request: Request) -> _Range:
    """Return the events that ``request`` asks for. Raises ``Refused``."""
    messages.refuse_other_fields(request, "before", "since", "limit")
    data = request.data or {}
    limit = parse_count(data, "limit", DEFAULT_LIMIT, MAX_PAGE, "a number of events")
    since, before = data.get("since"), data.get("before")
    if "since" in data and not isinstance(since, str):
        raise invalid_field("since", "Not a string", "give the id of the last event you have")
    if "before" in data and (not isinstance(before, str) or not _is_event_id(before)):
        raise invalid_field("before", "Not the id of an event", "give the id of the first event you have")
    if since is not None and before is not None:
        message = "data.before: give either before or since, not both."
        raise Refused("invalid_data", message, {"before": ["It cannot be combined with since."]})
    return _Range(since, before, limit)
