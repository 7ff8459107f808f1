"""Every frame that a server with these plugins takes or sends, with the JSON Schema of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from ..builtin_events import COMMANDS
from ..plugin import Command, EventType
from ..registry import Registry

JsonSchema = dict[str, Any]
Kind = Literal["command", "event", "frame"]

ROOM_PATTERN: Final = "^[a-z][a-z0-9_]*:[A-Za-z0-9._-]{1,128}$"
USER_ID: Final[JsonSchema] = {"type": ["integer", "string"], "description": "The user's id, from the token."}
_EVENT_ID: Final = "An event's id: `<epoch>-<offset>`, to be kept as it is."


class Entry(NamedTuple):
    """A frame: what it is for, and its ``data`` (None: it has none).

    ``kind`` is what a client may send (command), what is published in rooms (event), or what the server says to one
    client (frame). ``room`` says whether the envelope has one: "required", "optional" or "never"; ``rooms`` are the
    types of room that an event goes to, empty for any. ``reply`` is the type of the frame that answers a command.
    """

    kind: Kind
    type: str
    plugin: str
    description: str
    data: JsonSchema | None
    room: Literal["required", "optional", "never"] = "optional"
    reply: str | None = None
    rooms: tuple[str, ...] = ()


def _object(properties: Mapping[str, JsonSchema], *required: str, closed: bool = False) -> JsonSchema:
    schema: JsonSchema = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


_TEXT: Final[JsonSchema] = {"type": "string"}
_RESUMED: Final[dict[str, JsonSchema]] = {
    "recovered": {"type": "boolean", "description": "Whether all that was missed follows; only if `since` was given."},
    "last_id": {"type": "string", "description": "The room's newest event id; only if `since` was given."},
}
_MESSAGE: Final = _object({"message": _TEXT}, "message")

#: What the core's commands do, and what their data may have.
CORE_COMMANDS: Final[dict[str, tuple[str, JsonSchema | None, Literal["required", "never"]]]] = {
    "join_room": (
        "Enter a room; its events come from then on.",
        _object(
            {"since": {"type": ["string", "null"], "description": f"The last one you saw. {_EVENT_ID}"}}, closed=True
        ),
        "required",
    ),
    "leave_room": ("Leave a room.", None, "required"),
    "ping": ("Ask for a sign of life.", None, "never"),
    "refresh_token": (
        "Stay connected past the token's end, with a newer one of the same user.",
        _object({"token": {"type": "string", "description": "The new token."}}, "token", closed=True),
        "never",
    ),
}

#: What the server says to one client.
FRAMES: Final[dict[str, tuple[str, JsonSchema, Literal["required", "optional", "never"]]]] = {
    "connected": (
        "The connection is welcome. It is in its user's own room, user:ID, from now on.",
        _object(
            {"message": _TEXT, "user_id": USER_ID, "username": _TEXT, **_RESUMED}, "message", "user_id", "username"
        ),
        "never",
    ),
    "joined_room": (
        "The room is joined; with `recovered` what was missed follows.",
        _object({"message": _TEXT, **_RESUMED}, "message"),
        "required",
    ),
    "left_room": ("The room is left: as was asked for, or by an operator's doing.", _MESSAGE, "required"),
    "pong": (
        "The answer to a ping.",
        _object({"timestamp": {"type": "string", "format": "date-time"}}, "timestamp"),
        "never",
    ),
    "token_refreshed": (
        "The new token holds from now on.",
        _object(
            {"expires": {"type": ["number", "null"], "description": "When it ends, in seconds since 1970."}}, "expires"
        ),
        "never",
    ),
    "resync": (
        "Events of the room (without a room: the user's own) were lost for good: load its state anew.",
        _object(
            {"message": _TEXT, "last_id": {"type": "string", "description": "Where the room stands now."}},
            "message",
            "last_id",
        ),
        "optional",
    ),
    "error": (
        "A request was refused; the connection lives on.",
        _object(
            {
                "error": {"type": "string", "description": "A sentence that says what to do."},
                "code": {"type": "string", "description": "A stable word."},
                "fields": {
                    "type": "object",
                    "description": "What is wrong with each bad field of the data, by its path.",
                },
            },
            "error",
            "code",
        ),
        "optional",
    ),
}

#: The data of replies that plugins' commands name, beyond what their handlers return.
_SENT: Final = _object({"event_id": {"type": "string", "description": f"What was published. {_EVENT_ID}"}}, "event_id")


def catalog(registry: Registry) -> list[Entry]:
    """Return every frame: commands, then events, then what the server says to one client; core first in each."""
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
    return Entry("command", command.type, owner, _words(command.description, data), data, reply=command.reply)


def _event(registry: Registry, event: EventType) -> Entry:
    owner = registry.owner("event", event.type)
    data = event.validator.json_schema()
    own = event.rooms == ("user",)
    return Entry(
        *("event", event.type, owner, _words(event.description, data), data),
        room="never" if own else "optional",
        rooms=event.rooms,
    )


def _reply(type: str) -> Entry:
    data = _SENT if type == "sent" else {"type": "object"}
    return Entry("frame", type, "core", "The answer to a command that had an id.", data)


def _words(description: str, schema: JsonSchema) -> str:
    return description or str(schema.get("description", ""))


def envelope(entry: Entry, data: JsonSchema | None) -> JsonSchema:
    """Return the JSON Schema of the whole frame; ``data`` is its data's, or a reference to it."""
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
        properties["id"] = {"type": ["string", "integer"], "description": "Comes back in the reply or the error."}
        properties["key"] = {
            **{"type": "string", "minLength": 1, "maxLength": 256},
            "description": "Repeated with the same key within 5 minutes, the command is not done again.",
        }
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    required += ["data", "timestamp"]
    properties["timestamp"] = {"type": "string", "format": "date-time"}
    if entry.kind == "event":
        properties["id"] = {"type": "string", "description": _EVENT_ID}
        properties["sender"] = {"type": "string", "description": "The name of the user it comes from."}
        required.append("id")
    elif entry.type != "connected":
        properties["id"] = {"type": ["string", "integer"], "description": "The request's."}
    return {"type": "object", "properties": properties, "required": required}
