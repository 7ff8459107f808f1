"""The AsyncAPI 3.0 document of a server: its WebSocket, rooms, frames, close codes and error codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import CLOSES, ERROR_CODES
from ..registry import Registry
from ..room_options import EffectiveOptions, shown
from .catalog import Entry, catalog, envelope
from .core_frames import JsonSchema
from .examples import example

#: The path of the WebSocket.
SOCKET_PATH: Final = "/api/v1/ws/connect"

_SECURITY: Final[dict[str, JsonSchema]] = {
    "query": {"type": "httpApiKey", "in": "query", "name": "token", "description": "The user's JWT in the URL."},
    "bearer": {
        **{"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "description": "The user's JWT in the Authorization header. Browsers cannot set it; they may offer the "
        "subprotocols `bearer` and the token instead.",
    },
    "ticket": {
        **{"type": "httpApiKey", "in": "query", "name": "ticket"},
        "description": "A one-time ticket from POST /api/v1/tickets.",
    },
}


def asyncapi(
    registry: Registry, server: str = "http://localhost:8000", options: Mapping[str, EffectiveOptions] | None = None
) -> dict[str, Any]:
    """Return the document of the server at the URL ``server``, with the plugins of ``registry``.

    ``options`` are those of the room types of a running server.
    """
    schemas: dict[str, JsonSchema] = {}
    entries = catalog(registry)
    messages = {_key(entry): _message(entry, schemas) for entry in entries}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "roomcast",
            "version": version("roomcast"),
            "description": "Rooms over WebSocket: join rooms, publish events in them, and receive their events. "
            "Every text frame is one JSON object.",
        },
        "defaultContentType": "application/json",
        "servers": asyncapi_servers(server),
        "channels": {"socket": _socket(entries), **_rooms(registry, entries, options or {})},
        "operations": _operations(entries),
        "components": {"messages": messages, "schemas": schemas, "securitySchemes": _SECURITY},
        "x-close-codes": [close._asdict() for close in CLOSES],
        "x-error-codes": {code: error._asdict() for code, error in ERROR_CODES.items()},
    }


def asyncapi_servers(server: str) -> dict[str, JsonSchema]:
    """Return the ``servers`` of the document: the WebSocket of the server at the URL ``server``."""
    url = urlsplit(socket_url(server))
    return {
        "this": {
            "host": url.netloc,
            "protocol": url.scheme,
            **({"pathname": url.path} if url.path else {}),
            "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
        }
    }


def socket_url(server: str) -> str:
    """Return the URL ``server`` with the scheme of WebSockets: wss for https, and ws for http."""
    return server.replace("http", "ws", 1)


def _key(entry: Entry) -> str:
    """Return the name of a message: with its kind, because a command and an event may have the same type."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{entry.kind}.{entry.type}")


def _message(entry: Entry, schemas: dict[str, JsonSchema]) -> JsonSchema:
    key = _key(entry)
    payload = envelope(entry, entry.data)
    if entry.data is not None:
        schemas[key] = add_nested_schemas(key, entry.data, schemas)
        payload["properties"]["data"] = {"$ref": f"#/components/schemas/{key}"}
    message: JsonSchema = {
        "name": entry.type,
        "title": entry.type,
        "summary": entry.description.partition("\n")[0],
        "tags": [{"name": entry.plugin}],
        "payload": payload,
        "examples": [{"payload": frame_example(entry)}],
    }
    if entry.access is not None:
        message["x-access"] = entry.access
    if entry.kind == "event":
        message["x-stored"] = entry.is_stored
        message["x-publishable"] = entry.is_publishable
    return message


def frame_example(entry: Entry) -> dict[str, Any]:
    """Return an example of a whole frame, with valid data."""
    room = f"{entry.rooms[0] if entry.rooms else 'channel'}:456"
    frame: dict[str, Any] = {"type": entry.type}
    if entry.room != "never":
        frame["room"] = room
    if entry.data is not None:
        frame["data"] = example(entry.data)
    if entry.kind == "event":
        frame |= {"sender": "alice", "timestamp": "2025-11-13T12:00:00Z"}
        if entry.is_stored:
            frame["id"] = "k3x9q2ab1-7"
    elif entry.kind == "frame":
        frame["timestamp"] = "2025-11-13T12:00:00Z"
    else:
        frame["id"] = "1"
    return frame


def add_nested_schemas(key: str, schema: JsonSchema, schemas: dict[str, JsonSchema]) -> JsonSchema:
    """Add the ``$defs`` of ``schema`` to the components ``schemas``, as ``key.name``; return ``schema`` without them.

    References to ``$defs`` become references to the components.
    """
    for name, nested in schema.get("$defs", {}).items():
        schemas[f"{key}.{name}"] = _redirect(nested, key)
    without: JsonSchema = _redirect({name: value for name, value in schema.items() if name != "$defs"}, key)
    return without


def _redirect(schema: Any, key: str) -> Any:
    """Return a copy of ``schema`` whose references to ``$defs`` are references to components."""
    if isinstance(schema, dict):
        return {
            name: f"#/components/schemas/{key}.{value.rpartition('/')[2]}"
            if name == "$ref" and isinstance(value, str)
            else _redirect(value, key)
            for name, value in schema.items()
        }
    return [_redirect(item, key) for item in schema] if isinstance(schema, list) else schema


def _references(entries: list[Entry]) -> dict[str, JsonSchema]:
    return {_key(entry): {"$ref": f"#/components/messages/{_key(entry)}"} for entry in entries}


def _socket(entries: list[Entry]) -> JsonSchema:
    return {
        "address": SOCKET_PATH,
        "title": "The WebSocket",
        "description": "One connection for all frames.",
        "messages": _references(entries),
        "bindings": {"ws": {"method": "GET"}},
    }


def _rooms(registry: Registry, entries: list[Entry], options: Mapping[str, EffectiveOptions]) -> dict[str, JsonSchema]:
    """Return a channel for each type of room, with its options and the events that may be published there."""
    channels = {}
    for room in registry.rooms.values():
        is_personal = room.type == "user"
        events = [
            entry
            for entry in entries
            if entry.kind == "event" and (room.type in entry.rooms or (not entry.rooms and not is_personal))
        ]
        channels[f"room.{room.type}"] = {
            "address": f"{room.type}:{{entity_id}}",
            "title": f"Rooms {room.type}:…",
            "description": room.description or f"Rooms of type {room.type}.",
            "parameters": {"entity_id": {"description": "1 to 128 letters, digits, dots, hyphens and underscores."}},
            "messages": _references(events),
        }
        if room.type in options:
            channels[f"room.{room.type}"]["x-room-options"] = shown(options[room.type], room.type)
    return channels


def _operations(entries: list[Entry]) -> dict[str, JsonSchema]:
    """Return an operation for each frame: the server receives commands and replies to them, and sends the others."""
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
            replies = [frames[entry.reply], frames["error"]]
            operation["reply"] = {
                "channel": {"$ref": "#/channels/socket"},
                "messages": [{"$ref": f"#/channels/socket/messages/{_key(reply)}"} for reply in replies],
            }
        operations[key] = operation
    return operations
