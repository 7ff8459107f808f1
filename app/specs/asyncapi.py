"""AsyncAPI 3.0 of what a server speaks, made from the schemas that it validates with."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any, Final

from ..errors import CLOSES, ERROR_CODES
from ..registry import Registry
from .catalog import Entry, JsonSchema, catalog, envelope
from .examples import example

SOCKET: Final = "/api/v1/ws/connect"

_SECURITY: Final[dict[str, JsonSchema]] = {
    "query": {"type": "httpApiKey", "in": "query", "name": "token", "description": "The user's JWT in the URL."},
    "bearer": {
        **{"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "description": "The user's JWT in the Authorization header; browsers, which cannot set it, may offer the "
        "subprotocols `bearer` and the token instead.",
    },
    "ticket": {
        **{"type": "httpApiKey", "in": "query", "name": "ticket"},
        "description": "A one-time ticket that POST /api/v1/tickets gives for a token.",
    },
}


def asyncapi(registry: Registry, host: str = "localhost:8000", *, secure: bool = False) -> dict[str, Any]:
    """Return the document for a server at ``host`` with these plugins; ``secure`` for wss."""
    schemas: dict[str, JsonSchema] = {}
    entries = catalog(registry)
    messages = {_key(entry): _message(entry, schemas) for entry in entries}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "roomcast",
            "version": version("roomcast"),
            "description": "Rooms over WebSocket: join them, publish in them, and hear what happens there. "
            "Every frame is one JSON object in a text frame.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "this": {
                "host": host,
                "protocol": "wss" if secure else "ws",
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
            }
        },
        "channels": {"socket": _socket(entries), **_rooms(registry, entries)},
        "operations": _operations(entries),
        "components": {"messages": messages, "schemas": schemas, "securitySchemes": _SECURITY},
        "x-close-codes": [close._asdict() for close in CLOSES],
        "x-error-codes": {code: error._asdict() for code, error in ERROR_CODES.items()},
    }


def _key(entry: Entry) -> str:
    """The name of a message in the document; a command and an event may have the same type."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{entry.kind}.{entry.type}")


def _message(entry: Entry, schemas: dict[str, JsonSchema]) -> JsonSchema:
    key = _key(entry)
    data = _component(key, entry.data, schemas) if entry.data is not None else None
    payload = envelope(entry, entry.data)
    if data is not None:
        payload["properties"]["data"] = data
    message: JsonSchema = {
        "name": entry.type,
        "title": entry.type,
        "summary": entry.description.partition("\n")[0],
        "tags": [{"name": entry.plugin}],
        "payload": payload,
        "examples": [{"payload": frame_example(entry)}],
    }
    return message


def frame_example(entry: Entry) -> dict[str, Any]:
    """Return a whole frame as an example; its data validates by its schema."""
    room = f"{entry.rooms[0] if entry.rooms else 'channel'}:456"
    frame: dict[str, Any] = {"type": entry.type}
    if entry.room != "never":
        frame["room"] = room
    if entry.data is not None:
        frame["data"] = example(entry.data)
    if entry.kind == "event":
        frame |= {"sender": "alice", "timestamp": "2025-11-13T12:00:00Z", "id": "k3x9q2ab1-7"}
    elif entry.kind == "frame":
        frame["timestamp"] = "2025-11-13T12:00:00Z"
    else:
        frame["id"] = "1"
    return frame


def _component(key: str, schema: JsonSchema, schemas: dict[str, JsonSchema]) -> JsonSchema:
    """Put ``schema`` and those nested in it among the components, and return the reference to it."""
    nested = dict(schema.get("$defs", {}))
    for name, inner in nested.items():
        schemas[f"{key}.{name}"] = moved(inner, key)
    schemas[key] = moved({word: value for word, value in schema.items() if word != "$defs"}, key)
    return {"$ref": f"#/components/schemas/{key}"}


def moved(schema: Any, key: str) -> Any:
    """Return ``schema`` with its references to ``$defs`` pointing to where they are put."""
    if isinstance(schema, dict):
        return {
            word: f"#/components/schemas/{key}.{value.rpartition('/')[2]}"
            if word == "$ref" and isinstance(value, str)
            else moved(value, key)
            for word, value in schema.items()
        }
    return [moved(one, key) for one in schema] if isinstance(schema, list) else schema


def _references(entries: list[Entry]) -> dict[str, JsonSchema]:
    return {_key(entry): {"$ref": f"#/components/messages/{_key(entry)}"} for entry in entries}


def _socket(entries: list[Entry]) -> JsonSchema:
    return {
        "address": SOCKET,
        "title": "The WebSocket",
        "description": "One connection, on which everything goes.",
        "messages": _references(entries),
        "bindings": {"ws": {"method": "GET"}},
    }


def _rooms(registry: Registry, entries: list[Entry]) -> dict[str, JsonSchema]:
    """Each type of room as a channel of its own, with the events that may be heard there."""
    channels = {}
    for room in registry.rooms.values():
        own = room.type == "user"
        heard = [
            entry
            for entry in entries
            if entry.kind == "event" and (room.type in entry.rooms or (not entry.rooms and not own))
        ]
        channels[f"room.{room.type}"] = {
            "address": f"{room.type}:{{entity_id}}",
            "title": f"Rooms {room.type}:…",
            "description": room.description or f"Rooms of type {room.type}.",
            "parameters": {
                "entity_id": {"description": "Letters, digits, dot, dash and underscore, 1 to 128 of them."}
            },
            "messages": _references(heard),
        }
    return channels


def _operations(entries: list[Entry]) -> dict[str, JsonSchema]:
    """What the server receives and answers, and what it sends."""
    frames = {entry.type: entry for entry in entries if entry.kind == "frame"}
    operations: dict[str, JsonSchema] = {}
    for entry in entries:
        key = _key(entry)
        operation: JsonSchema = {
            "action": "receive" if entry.kind == "command" else "send",
            "channel": {"$ref": "#/channels/socket"},
            "summary": entry.description.partition("\n")[0],
            "messages": [{"$ref": f"#/channels/socket/messages/{key}"}],
        }
        if entry.reply is not None:
            answers = [frames[entry.reply], frames["error"]]
            operation["reply"] = {
                "channel": {"$ref": "#/channels/socket"},
                "messages": [{"$ref": f"#/channels/socket/messages/{_key(answer)}"} for answer in answers],
            }
        operations[key] = operation
    return operations
