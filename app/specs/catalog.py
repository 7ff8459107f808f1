"""All frames that a server with its plugins accepts or sends, with the JSON Schema of their data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from ..builtin_events import COMMANDS
from ..plugin import Access, Command, EventType
from ..protocol.messages import MAX_KEY, ROOM_PATTERN
from ..protocol.user_id import MAX_LENGTH
from ..registry import Registry

JsonSchema = dict[str, Any]
Kind = Literal["command", "event", "frame"]

USER_ID: Final[JsonSchema] = {
    **{"type": ["integer", "string"], "minLength": 1, "maxLength": MAX_LENGTH},
    "description": "The user's id, from the token.",
}
_EVENT_ID: Final = "An event id, `<epoch>-<offset>`; clients must not interpret it."


class Entry(NamedTuple):
    """One type of frame.

    ``kind`` is ``command`` for frames from clients, ``event`` for frames that are published in rooms, ``frame`` for
    other frames to one client. ``plugin`` is the name of the plugin that declares it. ``data`` is the schema of its
    data, or None if it has no data. ``room`` states if the envelope has a room. ``reply`` is the type of the reply to a
    command. ``rooms`` are the types of rooms that an event may be published in; empty means any. ``access`` states who
    may use a plugin's command. ``is_stored`` is False for events without an id.
    """

    kind: Kind
    type: str
    plugin: str
    description: str
    data: JsonSchema | None
    room: Literal["required", "optional", "never"] = "optional"
    reply: str | None = None
    rooms: tuple[str, ...] = ()
    access: Access | None = None
    is_stored: bool = True


def _object(properties: Mapping[str, JsonSchema], *required: str, closed: bool = False) -> JsonSchema:
    schema: JsonSchema = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


_TEXT: Final[JsonSchema] = {"type": "string"}
_RESUMED: Final[dict[str, JsonSchema]] = {
    "recovered": {
        "type": "boolean",
        "description": "True if all missed events follow. Present only if `since` was given.",
    },
    "last_id": {
        "type": "string",
        "description": "The id of the room's newest event. Present only if `since` was given.",
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

#: The commands of roomcast itself: description, data, and if they have a room.
CORE_COMMANDS: Final[dict[str, tuple[str, JsonSchema | None, Literal["required", "never"]]]] = {
    "join_room": (
        "Join a room, to receive its events.",
        _object(
            {
                "since": {
                    "type": ["string", "null"],
                    "description": f"The last event that you received, to receive all later ones. {_EVENT_ID}",
                }
            },
            closed=True,
        ),
        "required",
    ),
    "leave_room": ("Leave a room.", None, "required"),
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
        "The room is joined. If `recovered` is true, the missed events follow.",
        _object({"message": _TEXT, **_RESUMED}, "message"),
        "required",
    ),
    "left_room": ("The room is left, on request or because the user was removed from it.", _MESSAGE, "required"),
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
_SENT: Final = _object(
    {"event_id": {"type": "string", "description": f"The event that was published. {_EVENT_ID}"}}, "event_id"
)


def catalog(registry: Registry) -> list[Entry]:
    """Return all commands, then all events, then all other frames; those of roomcast itself first in each group."""
    commands = [
        Entry("command", type, "core", text, data, room, COMMANDS[type])
        for type, (text, data, room) in CORE_COMMANDS.items()
    ]
    commands += [_command(registry, command) for command in registry.commands.values()]
    events = [_event(registry, event) for event in registry.events.values()]
    frames = [Entry("frame", type, "core", text, data, room) for type, (text, data, room) in FRAMES.items()]
    replies = dict.fromkeys(command.reply for command in registry.commands.values())
    frames += [_reply(reply) for reply in replies if reply not in FRAMES]
    return [*commands, *events, *frames]


def _command(registry: Registry, command: Command) -> Entry:
    owner = registry.owner("command", command.type)
    data = command.validator.json_schema()
    return Entry(
        *("command", command.type, owner, _description(command.description, data), data),
        room="required" if command.access == "member" else "optional",
        reply=command.reply,
        access=command.access,
    )


def _event(registry: Registry, event: EventType) -> Entry:
    owner = registry.owner("event", event.type)
    data = event.validator.json_schema()
    is_personal = event.rooms == ("user",)
    return Entry(
        *("event", event.type, owner, _description(event.description, data), data),
        room="never" if is_personal else "optional",
        rooms=event.rooms,
        is_stored=not event.published_by_core,
    )


def _reply(type: str) -> Entry:
    data = _SENT if type == "sent" else {"type": "object"}
    return Entry("frame", type, "core", "The reply to a command that had an id.", data)


def _description(description: str, schema: JsonSchema) -> str:
    return description or str(schema.get("description", ""))


def envelope(entry: Entry, data: JsonSchema | None) -> JsonSchema:
    """Return the JSON Schema of a whole frame. ``data`` is the schema of its data, or a reference to it, or None."""
    properties: dict[str, JsonSchema] = {"type": {"const": entry.type}}
    required = ["type"]
    if entry.room != "never":
        properties["room"] = {"type": "string", "pattern": ROOM_PATTERN, "examples": ["channel:456"]}
    if entry.room == "required":
        required.append("room")
    if data is not None:
        properties["data"] = data
    if entry.kind == "command":
        if data is not None and data.get("required"):
            required.append("data")
        properties["id"] = {"type": ["string", "integer"], "description": "The reply or the error has the same id."}
        properties["key"] = {
            **{"type": "string", "minLength": 1, "maxLength": MAX_KEY},
            "description": "An idempotency key: a repeat within 5 minutes is not carried out, and gets the same reply.",
        }
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    required += ["data", "timestamp"]
    properties["timestamp"] = {"type": "string", "format": "date-time"}
    if entry.kind == "event":
        properties["sender"] = {"type": "string", "description": "The name of the user who caused the event."}
        if entry.is_stored:
            properties["id"] = {"type": "string", "description": _EVENT_ID}
            required.append("id")
    elif entry.type != "connected":
        properties["id"] = {"type": ["string", "integer"], "description": "The id of the request."}
    return {"type": "object", "properties": properties, "required": required}
