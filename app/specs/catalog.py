"""All frames that a server with its plugins accepts or sends, with the JSON Schema of their data."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..builtin_events import COMMANDS
from ..declarations import Access, Command, EventType
from ..protocol.messages import MAX_KEY, ROOM_PATTERN
from ..registry import Registry
from .core_frames import CORE_COMMANDS, EVENT_ID, FRAMES, SENT, JsonSchema

Kind = Literal["command", "event", "frame"]


class Entry(NamedTuple):
    """One type of frame.

    ``kind`` is ``command`` for frames from clients, ``event`` for frames that are published in rooms, ``frame`` for
    other frames to one client. ``plugin`` is the name of the plugin that declares it. ``data`` is the schema of its
    data, or None if it has no data. ``room`` states if the envelope has a room. ``reply`` is the type of the reply to a
    command. ``rooms`` are the types of rooms that an event may be published in; empty means any. ``access`` states who
    may use a plugin's command. ``is_stored`` is False for events without an id, ``is_publishable``
    for those that only roomcast itself publishes.
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
    is_publishable: bool = True


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
        is_stored=event.is_stored,
        is_publishable=not event.published_by_core,
    )


def _reply(type: str) -> Entry:
    data = SENT if type == "sent" else {"type": "object"}
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
            "description": "An idempotency key: a repeat within IDEMPOTENCY_TTL only gets the same reply.",
        }
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    required += ["data", "timestamp"]
    properties["timestamp"] = {"type": "string", "format": "date-time"}
    if entry.kind == "event":
        properties["sender"] = {"type": "string", "description": "The name of the user who caused the event."}
        if entry.is_stored:
            properties["key"] = {"type": "string", "description": "The key of the request that caused the event."}
            properties["id"] = {"type": "string", "description": EVENT_ID}
            required.append("id")
    elif entry.type != "connected":
        properties["id"] = {"type": ["string", "integer"], "description": "The id of the request."}
    return {"type": "object", "properties": properties, "required": required}
