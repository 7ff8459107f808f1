"""The events that the receiver gets."""

from __future__ import annotations

from collections.abc import Set
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from roomcast import user_of_room

#: The types of events, which ``WEBHOOK_EVENTS`` selects.
TYPES: Final = ("user.online", "user.offline", "room.occupied", "room.vacated", "event.published")


def is_followed(room: str, types: Set[str]) -> bool:
    """Return True if the receiver is told when ``room`` gets its first member and loses its last one."""
    kinds = ("user.online", "user.offline") if user_of_room(room) is not None else ("room.occupied", "room.vacated")
    return any(kind in types for kind in kinds)


def state_event(room: str, *, is_present: bool) -> dict[str, Any]:
    """Return the event about a user or a room that has members now, or has none."""
    user_id = user_of_room(room)
    if user_id is not None:
        type, data = ("user.online" if is_present else "user.offline"), {"user_id": user_id}
    else:
        type, data = ("room.occupied" if is_present else "room.vacated"), {"room": room}
    return {"id": f"evt_{uuid4().hex}", "type": type, "timestamp": _now(), "data": data}


def published_event(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event about a published ``event``, whose frame is its data. A repetition has the same id."""
    room, id = event["room"], event["id"]
    return {"id": f"{room}/{id}", "type": "event.published", "timestamp": event["timestamp"], "data": event}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
