"""The JSON Schemas of the data of roomcast's own commands, and of the frames that it sends to one client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from ..broker.base import MAX_PAGE_MEMBERS
from ..builtin_events import MAX_DATA, MAX_STATUS
from ..protocol.messages import MAX_PAGE
from ..protocol.user_id import MAX_LENGTH

JsonSchema = dict[str, Any]

USER_ID: Final[JsonSchema] = {
    **{"type": ["integer", "string"], "minLength": 1, "maxLength": MAX_LENGTH},
    "description": "The user's id, from the token.",
}
EVENT_ID: Final = "An event id, `<epoch>-<offset>`; clients must not interpret it."


def _object(properties: Mapping[str, JsonSchema], *required: str, closed: bool = False) -> JsonSchema:
    schema: JsonSchema = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


_TEXT: Final[JsonSchema] = {"type": "string"}
_RECOVERED: Final[JsonSchema] = {
    "type": "boolean",
    "description": "True if all missed events follow. Present only if `since` was given.",
}
_RESUMED: Final[dict[str, JsonSchema]] = {
    "recovered": _RECOVERED,
    "last_id": {
        "type": "string",
        "description": "The id of the room's newest event. Present only if `since` was given.",
    },
}
#: The fields of ``joined_room`` about events that follow.
_FOLLOWING: Final[dict[str, JsonSchema]] = {
    "recovered": _RECOVERED,
    "last_id": {
        "type": "string",
        "description": "The id of the room's newest event. Present only if `since` or `last` was given.",
    },
    "more": {
        "type": "boolean",
        "description": "True if events before those that follow are stored. Present only if the newest events follow: "
        "`last` was given, and `recovered` is not true.",
    },
}
_STATUS: Final[dict[str, JsonSchema]] = {
    "status": {"type": ["string", "null"], "maxLength": MAX_STATUS, "description": "A short text, such as `away`."},
    "data": {"type": ["object", "null"], "description": f"Any object of at most {MAX_DATA} bytes as JSON."},
}
_MEMBERS: Final[dict[str, JsonSchema]] = {
    "members": {
        "type": "array",
        "description": f"Users in the room in order of arrival, at most {MAX_PAGE_MEMBERS} and 64 KB.",
        "items": _object(
            {
                **{"user_id": USER_ID, "username": _TEXT},
                "status": {"type": "string", "description": "Present if the user has set it."},
                "data": {"type": "object", "description": "Present if the user has set it."},
                "since": {"type": "string", "format": "date-time", "description": "When the user joined the room."},
            },
            *("user_id", "username", "since"),
        ),
    },
    "member_count": {"type": "integer", "description": "The number of users in the room."},
    "next": {
        "type": "string",
        "description": "Present if there are more members: the `after` of the command `members` for the next page.",
    },
}
_MESSAGE: Final = _object({"message": _TEXT}, "message")
_LIMITS: Final[dict[str, JsonSchema]] = {
    "max_message_size": {
        "type": "integer",
        "description": "WS_MAX_MESSAGE_SIZE in bytes: a longer message closes the connection.",
    },
    "message_rate": {
        "type": "integer",
        "description": "WS_MESSAGE_RATE in messages per second, with bursts of five times as many. 0 means no limit.",
    },
    "byte_rate": {
        "type": "integer",
        "description": "WS_BYTE_RATE in bytes per second, for all connections of the user to this server, with bursts "
        "of one second. A message and the event that it becomes both count. 0 means no limit.",
    },
    "heartbeat": {
        "type": "number",
        "description": "WS_HEARTBEAT_INTERVAL in seconds: after this silence, the server pings the client.",
    },
    "max_rooms": {
        "type": "integer",
        "description": "MAX_ROOMS_PER_CONNECTION: the number of rooms that the connection may be in.",
    },
    "drain": {
        "type": "number",
        "description": "DRAIN_SECONDS: the time over which a server that stops closes its connections, in seconds.",
    },
}

_UNREAD: Final[JsonSchema] = {
    "type": "integer",
    "minimum": 0,
    "description": "The number of unread messages, those after the mark of the user. Each later one adds one to it.",
}

#: The commands of roomcast itself: description, data, and if they have a room.
CORE_COMMANDS: Final[dict[str, tuple[str, JsonSchema | None, Literal["required", "optional", "never"]]]] = {
    "join_room": (
        "Join a room, to receive its events.",
        _object(
            {
                "since": {
                    **{"type": ["string", "null"], "examples": ["k3x9q2ab1-7"]},
                    "description": f"The last event that you received, to receive all later ones. {EVENT_ID}",
                },
                "last": {
                    **{"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "examples": [50]},
                    "description": "How many of the newest events to receive. With `since`, they follow only if "
                    "`recovered` is false.",
                },
                "presence": {
                    "type": "boolean",
                    "description": "True to get the first page of members, and the number of members.",
                },
            },
            closed=True,
        ),
        "required",
    ),
    "leave_room": ("Leave a room.", None, "required"),
    "history": (
        "Read stored events of a room that the connection is in, by default the newest ones.",
        _object(
            {
                "before": {
                    **{"type": "string", "examples": ["k3x9q2ab1-7"]},
                    "description": "Read the newest events before this one, which is the first that you have.",
                },
                "since": {
                    **{"type": "string", "examples": ["k3x9q2ab1-7"]},
                    "description": "Instead of `before`: read the oldest events after this one.",
                },
                "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50},
            },
            closed=True,
        ),
        "required",
    ),
    "members": (
        "List the members of a room that the connection is in, page by page.",
        _object(
            {
                "limit": {
                    **{"type": "integer", "minimum": 1, "maximum": MAX_PAGE_MEMBERS, "default": MAX_PAGE_MEMBERS},
                    "description": "The maximum number of members on the page.",
                },
                "after": {
                    "type": ["string", "null"],
                    "description": "The `next` of the page before; without it, the first page is returned.",
                },
            },
            closed=True,
        ),
        "required",
    ),
    "ping": (
        "Request a pong, to check the connection. Without an id, it is answered even while a command runs.",
        None,
        "never",
    ),
    "refresh_token": (
        "Replace the token of the connection with a newer token of the same user.",
        _object({"token": {"type": "string", "description": "The new token."}}, "token", closed=True),
        "never",
    ),
    "mark_read": (
        "Mark a joined room as read up to an event. The mark belongs to the user and never moves backward.",
        _object(
            {"event_id": {"type": "string", "description": f"The last event that the user has read. {EVENT_ID}"}},
            "event_id",
            closed=True,
        ),
        "required",
    ),
    "set_presence": (
        "Set the status of the user in a room, or without a room in all rooms that the connection is in. Fields that "
        "are missing or null are cleared.",
        _object(_STATUS, closed=True),
        "optional",
    ),
}

#: The frames to one client: description, data, and if they have a room.
FRAMES: Final[dict[str, tuple[str, JsonSchema, Literal["required", "optional", "never"]]]] = {
    "connected": (
        "The connection is accepted, and is in the personal room of its user, user:ID.",
        _object(
            {
                **{"message": _TEXT, "user_id": USER_ID, "username": _TEXT},
                "limits": _object(_LIMITS, *_LIMITS),
                "server": _object(
                    {"version": {"type": "string", "description": "The version of roomcast."}}, "version"
                ),
                **_RESUMED,
            },
            *("message", "user_id", "username", "limits", "server"),
        ),
        "never",
    ),
    "joined_room": (
        "The room is joined. If `recovered` is true, the missed events follow; if `more` is present, the newest ones.",
        _object({"message": _TEXT, **_FOLLOWING, **_MEMBERS, "unread": _UNREAD}, "message"),
        "required",
    ),
    "history": (
        "Stored events of a room, as the command `history` asked for them.",
        _object(
            {
                "events": {
                    **{"type": "array", "items": {"type": "object"}},
                    "description": "The events as they were delivered, oldest first.",
                },
                "more": {
                    "type": "boolean",
                    "description": "True if events before these are stored, or with `since` events after these.",
                },
                "last_id": {"type": "string", "description": "The id of the room's newest event."},
                "recovered": {
                    "type": "boolean",
                    "description": "False if the history does not reach back to `since`. Present only with `since`.",
                },
            },
            *("events", "more", "last_id"),
        ),
        "required",
    ),
    "left_room": ("The room is left, on request or because the user was removed from it.", _MESSAGE, "required"),
    "members": (
        "A page of the members of a room.",
        _object(_MEMBERS, "members", "member_count"),
        "required",
    ),
    "presence_set": (
        "The status is set. Without a room, it is set in all rooms that the connection is in.",
        _object(_STATUS, "status", "data"),
        "optional",
    ),
    "pong": (
        "The reply to a ping.",
        _object({"timestamp": {"type": "string", "format": "date-time"}}, "timestamp"),
        "never",
    ),
    "token_refreshed": (
        "The new token is in use.",
        _object(
            {
                "expires": {
                    "type": ["number", "null"],
                    "description": "When the token expires, in seconds since 1970, or null.",
                }
            },
            "expires",
        ),
        "never",
    ),
    "marked_read": (
        "The user has read the room up to an event: the reply to `mark_read`, and without an id the news that another "
        "connection of the user has marked the room.",
        _object(
            {
                "event_id": {"type": "string", "description": f"The event up to which all is read. {EVENT_ID}"},
                "unread": _UNREAD,
            },
            "event_id",
            "unread",
        ),
        "required",
    ),
    "resync": (
        "Events of the room may have been lost: load its state again. Without a room, the personal room of the user is "
        "meant.",
        _object(
            {"message": _TEXT, "last_id": {"type": "string", "description": "The id of the room's newest event."}},
            "message",
            "last_id",
        ),
        "optional",
    ),
    "error": (
        "A request was refused. The connection stays open, except after a forbidden join.",
        _object(
            {
                "error": {"type": "string", "description": "A sentence for developers: what is wrong, and what to do."},
                "code": {"type": "string", "description": "A stable code; see x-error-codes."},
                "fields": {
                    "type": "object",
                    "description": "The problems of each invalid field of the data, by its path.",
                },
            },
            "error",
            "code",
        ),
        "optional",
    ),
}

#: The data of the reply ``sent``, which several commands use.
SENT: Final = _object(
    {"event_id": {"type": "string", "description": f"The event that was published. {EVENT_ID}"}}, "event_id"
)
