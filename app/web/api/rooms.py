"""``/api/v1/rooms``: list rooms, their members and their history; remove a user from a room."""

from __future__ import annotations

import re
from typing import Final

import orjson
from aiohttp import web

from ...room_options import PERSONAL
from ...stored_events import encode
from ..app_state import GATEWAY
from ..json_errors import Failure, json_response
from .auth import KEY, audit, requires_api_key
from .params import query_with, room_in_path, user_id_in_path

#: The largest number of events in one response, and their largest size in bytes.
MAX_HISTORY: Final = 1000
MAX_HISTORY_BYTES: Final = 1024 * 1024


@requires_api_key("read")
async def list_rooms(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/v1/rooms``: the rooms that have members, by name, with the number of users in each.

    It lists only the rooms that the key allows.
    """
    found, allows = await request.app[GATEWAY].broker.rooms(), request[KEY].allows
    listed = [room for room in sorted(found) if _is_listed(room) and allows(room)]
    rooms = [{"room": room, "members": found[room]} for room in listed]
    return json_response({"rooms": rooms})


def _is_listed(room: str) -> bool:
    """Return False for personal rooms, whose members the broker knows if there are hooks for the status of users."""
    return not room.startswith(f"{PERSONAL}:")


@requires_api_key("read")
async def list_members(request: web.Request) -> web.StreamResponse:
    """Answer ``GET …/members``: the users in a room in order of arrival, with their numbers of connections."""
    room = room_in_path(request)
    found = await request.app[GATEWAY].broker.members(room)
    return json_response({"room": room, "members": [member._asdict() for member in found]})


@requires_api_key("read")
async def read_history(request: web.Request) -> web.StreamResponse:
    """Answer ``GET …/history?since=&limit=``: the oldest events after an id, or without one the newest events.

    ``more`` is true if the room has later events than the last one returned. If the history does not reach back to
    ``since``, ``recovered`` is false and there are no events.
    """
    room = room_in_path(request)
    since, limit = _history_range(request)
    found = await request.app[GATEWAY].broker.history(room, since, limit, max_bytes=MAX_HISTORY_BYTES)
    document = {
        "room": room,
        "events": [orjson.Fragment(encode(event)) for event in found.events],
        "recovered": found.recovered,
        "last_id": found.last_id,
        "more": found.cursor is not None,
    }
    return json_response(document)


def _history_range(request: web.Request) -> tuple[str | None, int]:
    """Return ``since`` and ``limit`` of the query."""
    query = query_with(request, "since", "limit")
    limit = query.get("limit")
    if limit is None:
        return query.get("since"), MAX_HISTORY
    if not re.fullmatch("[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_HISTORY:
        raise Failure("bad_query", f"limit is {limit[:60]!r}; it must be a number from 1 to {MAX_HISTORY}.")
    return query.get("since"), int(limit)


@requires_api_key("moderate")
async def kick(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE …/members/{user_id}``: remove a user from a room, and return the number of connections removed.

    The number is 0 for a user who is not in the room. The user may join again.
    """
    gateway, room, user_id = request.app[GATEWAY], room_in_path(request), user_id_in_path(request)
    connections = sum(one.connections for one in await gateway.broker.members(room) if one.user_id == user_id)
    await gateway.signals.kick(room, user_id)
    audit(request, "removed user %s from %s", user_id, room)
    return json_response({"room": room, "user_id": user_id, "connections": connections})
