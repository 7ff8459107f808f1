"""OpenAPI 3.1 of the HTTP API, made from the schemas that it validates with."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from ..registry import Registry
from .asyncapi import moved
from .catalog import ROOM_PATTERN, Entry, JsonSchema, catalog
from .examples import example

_ROOT: Final = "/api/v1"
_TEXT: Final[JsonSchema] = {"type": "string"}
_COUNT: Final[JsonSchema] = {"type": "integer", "minimum": 0}
_BOOL: Final[JsonSchema] = {"type": "boolean"}
_USER: Final[JsonSchema] = {"type": ["integer", "string"]}

_PARAMETERS: Final[dict[str, JsonSchema]] = {
    "room": {"name": "room", "in": "path", "required": True, "schema": {"type": "string", "pattern": ROOM_PATTERN}},
    "user_id": {"name": "user_id", "in": "path", "required": True, "schema": _TEXT},
    "since": {
        **{"name": "since", "in": "query", "schema": _TEXT},
        "description": "The id of the last event seen: the oldest events after it come.",
    },
    "limit": {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}},
    "jti": {"name": "jti", "in": "path", "required": True, "schema": _TEXT},
    "before": {
        **{"name": "before", "in": "query", "schema": {"type": "number"}},
        "description": "A Unix time, not in the future; by default the next whole second.",
    },
    "key": {
        **{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 128}},
        "description": "A repeat within 5 minutes publishes nothing and gets the first answer.",
    },
}


def openapi(registry: Registry, server: str = "http://localhost:8000") -> dict[str, Any]:
    """Return the document of the HTTP API at the URL ``server``, with the events of these plugins."""
    schemas: dict[str, JsonSchema] = {"Error": _ERROR}
    events = [
        _event(entry, schemas) for entry in catalog(registry) if entry.kind == "event" and _may_publish(registry, entry)
    ]
    schemas["Event"] = {"oneOf": events}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "roomcast HTTP API",
            "version": version("roomcast"),
            "description": "For backends: publish what happened, see who is where.",
        },
        "servers": [{"url": server}],
        "security": [{"apiKey": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "parameters": _PARAMETERS,
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "API_KEY"},
                "userToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A user's token.",
                },
            },
        },
    }


def _may_publish(registry: Registry, entry: Entry) -> bool:
    return not registry.events[entry.type].published_by_core


def _event(entry: Entry, schemas: dict[str, JsonSchema]) -> JsonSchema:
    """Put an event as backends publish it among the components, and return the reference to it."""
    assert entry.data is not None
    for name, inner in entry.data.get("$defs", {}).items():
        schemas[f"{entry.type}.{name}"] = moved(inner, entry.type)
    data = moved({word: value for word, value in entry.data.items() if word != "$defs"}, entry.type)
    room: JsonSchema = {"type": "string", "pattern": ROOM_PATTERN}
    if entry.rooms:
        room["pattern"] = f"^({'|'.join(entry.rooms)}):[A-Za-z0-9._-]{{1,128}}$"
    schemas[entry.type] = {
        "type": "object",
        "description": entry.description,
        "properties": {
            "type": {"const": entry.type},
            "room": room,
            "data": data,
            "sender": {"type": "string", "description": "The name of the user it comes from."},
        },
        "required": ["type", "room", "data"],
        "additionalProperties": False,
        "examples": [
            {
                "type": entry.type,
                "room": f"{entry.rooms[0] if entry.rooms else 'channel'}:456",
                "data": example(entry.data),
                "sender": "alice",
            }
        ],
    }
    return {"$ref": f"#/components/schemas/{entry.type}"}


def _object(**properties: JsonSchema) -> JsonSchema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: JsonSchema) -> JsonSchema:
    return {"type": "array", "items": items}


_ERROR: Final[JsonSchema] = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "A sentence that says what to do."},
        "code": {"type": "string", "description": "A stable word."},
        "items": {
            "type": "array",
            "description": "For events: what is wrong with each bad one.",
            "items": _object(index=_COUNT, field=_TEXT, error=_TEXT, code=_TEXT),
        },
    },
    "required": ["error", "code"],
}


def _answers(schema: JsonSchema, *problems: str) -> dict[str, JsonSchema]:
    """The responses of an operation: its own, and the errors it may have, which look alike."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"200": {"description": "Done.", "content": {"application/json": {"schema": schema}}}} | {
        code: {"description": _PROBLEMS[code], "content": error} for code in ("401", "403", *problems, "503")
    }


_PROBLEMS: Final = {
    "400": "The request is not as it must be.",
    "401": "The key or token is missing or wrong.",
    "403": "The API is off, for API_KEY is not set; or tickets are not for pages of this origin.",
    "408": "The body took too long.",
    "409": "A request with the same key is still being carried out.",
    "413": "The body is too large.",
    "422": "An event, room or user is not as it must be, or a key was used for something else; nothing was done.",
    "429": "Too many; ask again later.",
    "503": "The broker cannot be reached; ask again later.",
}


def _reference(*names: str) -> list[JsonSchema]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _paths() -> dict[str, JsonSchema]:
    event = {"$ref": "#/components/schemas/Event"}
    room = f"{_ROOT}/rooms/{{room}}"
    stored = {"type": "object", "description": "An event as clients get it, with its id."}
    return {
        f"{_ROOT}/events": {
            "post": {
                "operationId": "publish",
                "summary": "Publish one event, or a list: all or none.",
                "parameters": _reference("key"),
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"oneOf": [event, _list(event) | {"maxItems": 1000}]}}},
                },
                "responses": _answers(
                    {"oneOf": [_object(id=_TEXT), _object(ids=_list(_TEXT))]}, "400", "408", "409", "413", "422"
                ),
            }
        },
        f"{_ROOT}/rooms": {
            "get": {
                "operationId": "rooms",
                "summary": "The rooms with members.",
                "responses": _answers(_object(rooms=_list(_object(room=_TEXT, members=_COUNT)))),
            }
        },
        f"{room}/members": {
            "get": {
                "operationId": "members",
                "summary": "Who is in a room, in the order they came.",
                "parameters": _reference("room"),
                "responses": _answers(
                    _object(room=_TEXT, members=_list(_object(user_id=_USER, username=_TEXT, connections=_COUNT))),
                    "422",
                ),
            }
        },
        f"{room}/history": {
            "get": {
                "operationId": "history",
                "summary": "The events that a room keeps: the newest, or the oldest after one.",
                "parameters": _reference("room", "since", "limit"),
                "responses": _answers(
                    _object(room=_TEXT, events=_list(stored), recovered=_BOOL, last_id=_TEXT, more=_BOOL), "400", "422"
                ),
            }
        },
        f"{room}/members/{{user_id}}": {
            "delete": {
                "operationId": "kick",
                "summary": "Take a user out of a room.",
                "parameters": _reference("room", "user_id"),
                "responses": _answers(_object(room=_TEXT, user_id=_USER, connections=_COUNT), "422"),
            }
        },
        f"{_ROOT}/users/{{user_id}}/connections": {
            "delete": {
                "operationId": "disconnect",
                "summary": "Close a user's connections with 4410.",
                "parameters": _reference("user_id"),
                "responses": _answers(_object(user_id=_USER, connections=_COUNT), "422"),
            }
        },
        f"{_ROOT}/users/{{user_id}}/tokens": {
            "delete": {
                "operationId": "revoke_all",
                "summary": "Revoke all tokens of a user that were issued before a time.",
                "parameters": _reference("user_id", "before"),
                "responses": _answers(_object(user_id=_USER, before={"type": "number"}), "400", "422"),
            }
        },
        f"{_ROOT}/users/{{user_id}}/tokens/{{jti}}": {
            "delete": {
                "operationId": "revoke_one",
                "summary": "Revoke the token of a user that has this jti.",
                "parameters": _reference("user_id", "jti"),
                "responses": _answers(_object(user_id=_USER, jti=_TEXT), "400", "422"),
            }
        },
        f"{_ROOT}/tickets": {
            "post": {
                "operationId": "ticket",
                "summary": "A one-time ticket for the token in Authorization.",
                "security": [{"userToken": []}],
                "responses": _answers(_object(ticket=_TEXT, expires_in={"type": "number"}), "429"),
            }
        },
        "/health/live": {
            "get": {
                "operationId": "live",
                "summary": "Whether the process runs.",
                "security": [],
                "responses": _probe(),
            }
        },
        "/health/ready": {
            "get": {
                "operationId": "ready",
                "summary": "Whether clients can be served.",
                "security": [],
                "responses": _probe(),
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Counters for Prometheus.",
                "security": [],
                "responses": {
                    "200": {"description": "In the format that is asked for.", "content": {"text/plain": {}}}
                },
            }
        },
    }


def _probe() -> dict[str, JsonSchema]:
    answer = {"application/json": {"schema": {"type": "object"}}}
    return {
        "200": {"description": "Yes.", "content": answer},
        "503": {"description": "No; the body says which part is down.", "content": answer},
    }
