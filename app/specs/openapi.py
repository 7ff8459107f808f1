"""The OpenAPI 3.1 document of a server's HTTP API."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from ..protocol.messages import ROOM_ID_PATTERN, ROOM_PATTERN
from ..protocol.user_id import MAX_LENGTH, PERSONAL_ROOM_PATTERN
from ..registry import Registry
from .asyncapi import add_nested_schemas
from .catalog import Entry, catalog
from .core_frames import JsonSchema
from .examples import example
from .plugin_paths import plugin_paths

_ROOT: Final = "/api/v1"
_TEXT: Final[JsonSchema] = {"type": "string"}
_EVENT_ID: Final[JsonSchema] = {"type": ["string", "null"], "description": "The event's id; null if it is not stored."}
_COUNT: Final[JsonSchema] = {"type": "integer", "minimum": 0}
_BOOL: Final[JsonSchema] = {"type": "boolean"}
_NUMBER: Final[JsonSchema] = {"type": "number"}
_USER: Final[JsonSchema] = {"type": ["integer", "string"], "minLength": 1, "maxLength": MAX_LENGTH}
_ROOM: Final[JsonSchema] = {"type": "string", "pattern": f"{ROOM_PATTERN}|{PERSONAL_ROOM_PATTERN}"}


def openapi(registry: Registry, server: str = "http://localhost:8000") -> dict[str, Any]:
    """Return the document of the HTTP API at the URL ``server``, with the events of all plugins of ``registry``."""
    schemas: dict[str, JsonSchema] = {"Error": _ERROR}
    events = [_event(entry, schemas) for entry in catalog(registry) if entry.kind == "event" and entry.is_publishable]
    schemas["Event"] = {"oneOf": events}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "roomcast HTTP API",
            "version": version("roomcast"),
            "description": "For backends: publish events, look at rooms, and manage users.",
        },
        "servers": openapi_servers(server),
        "security": [{"apiKey": []}],
        "paths": {**_event_paths(), **_room_paths(), **_user_paths(), **_monitoring_paths(), **plugin_paths(registry)},
        "components": {"schemas": schemas, "parameters": _PARAMETERS, "securitySchemes": _SECURITY_SCHEMES},
    }


def openapi_servers(server: str) -> list[JsonSchema]:
    """Return the ``servers`` of the document: the one at the URL ``server``."""
    return [{"url": server}]


# Schemas.


def _event(entry: Entry, schemas: dict[str, JsonSchema]) -> JsonSchema:
    """Add an event, as backends publish it, to ``schemas``; return the reference to it."""
    assert entry.data is not None
    data = add_nested_schemas(entry.type, entry.data, schemas)
    room = _ROOM
    if entry.rooms:
        patterns = [PERSONAL_ROOM_PATTERN if type == "user" else f"^{type}:{ROOM_ID_PATTERN}$" for type in entry.rooms]
        room = {"type": "string", "pattern": "|".join(patterns)}
    schemas[entry.type] = {
        "type": "object",
        "description": entry.description,
        "properties": {
            "type": {"const": entry.type},
            "room": room,
            "data": data,
            "sender": {"type": "string", "description": "The name of the user who caused the event."},
            "key": {
                **{"type": "string", "minLength": 1, "maxLength": 128},
                "description": "An event with the same key is published in the room once within IDEMPOTENCY_TTL.",
            },
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
        "error": {"type": "string", "description": "A sentence for developers: what is wrong, and what to do."},
        "code": {"type": "string", "description": "A stable code."},
        "detail": {"type": "string", "description": "With the API key and the code unavailable: the cause."},
        "items": {
            "type": "array",
            "description": "For a list of events: the problems of each invalid event.",
            "items": _object(index=_COUNT, field=_TEXT, error=_TEXT, code=_TEXT),
        },
    },
    "required": ["error", "code"],
}

_STORED_EVENT: Final[JsonSchema] = {"type": "object", "description": "An event as clients receive it, with its id."}

_USER_STATUS: Final[JsonSchema] = {
    **_object(
        user_id=_USER,
        online={"type": "boolean", "description": "True if the user has a connection."},
        connections=_COUNT,
        rooms={**_list(_TEXT), "description": "The rooms of all connections, without the personal room."},
        rooms_complete={"type": "boolean", "description": "False if a node did not answer, or there are too many."},
        since={"type": ["string", "null"], "format": "date-time", "description": "When the user came online."},
        last_seen={
            **{"type": ["string", "null"], "format": "date-time"},
            "description": "When a user who is offline was last online; null if that is not known.",
        },
    )
}

_PARAMETERS: Final[dict[str, JsonSchema]] = {
    "room": {"name": "room", "in": "path", "required": True, "schema": _ROOM},
    "user_id": {
        **{"name": "user_id", "in": "path", "required": True},
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH},
    },
    "since": {
        **{"name": "since", "in": "query", "schema": _TEXT},
        "description": "The id of the last event seen. The oldest events after it are returned.",
    },
    "limit": {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}},
    "jti": {"name": "jti", "in": "path", "required": True, "schema": _TEXT},
    "before": {
        **{"name": "before", "in": "query", "schema": _NUMBER},
        "description": "A Unix time, not in the future. The default is the next whole second.",
    },
    "key": {
        **{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 128}},
        "description": "A repeat within IDEMPOTENCY_TTL publishes nothing and gets the response of the first request.",
    },
}

_SECURITY_SCHEMES: Final[dict[str, JsonSchema]] = {
    "apiKey": {
        **{"type": "http", "scheme": "bearer"},
        "description": "A key in API_KEY, or in API_KEYS with the scope of the call: publish, read or moderate.",
    },
    "userToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A user's token."},
}

#: The descriptions of responses with an error, by status.
_ERRORS: Final = {
    "400": "The request is malformed.",
    "401": "The key or token is missing or wrong.",
    "403": "The API is off, the key lacks the scope or the room, or pages of this origin may not get tickets.",
    "408": "The body took too long.",
    "409": "A request with the same key is still running.",
    "413": "The body is too large.",
    "415": "The request has a Content-Encoding, which is not accepted.",
    "422": "An event, room or user is invalid, or the key was used for another request. Nothing was done.",
    "429": "Too many wrong keys or tickets; try again later.",
    "503": "The broker cannot be reached; try again later.",
}


# Operations.


def _operation(
    id: str,
    summary: str,
    parameters: tuple[str, ...],
    response: JsonSchema,
    *errors: str,
    scope: str | None = None,
    **more: Any,
) -> JsonSchema:
    """Return an operation.

    ``parameters`` are names in ``_PARAMETERS``, ``response`` is the schema of a successful response, ``errors`` are
    possible statuses besides 401, 403, 429 and 503. ``scope`` is what the API key must allow. ``more`` is added to the
    operation.
    """
    operation: JsonSchema = {"operationId": id, "summary": summary}
    if scope is not None:
        operation["security"] = [{"apiKey": [scope]}]
    if parameters:
        operation["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in parameters]
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {"200": {"description": "Done.", "content": {"application/json": {"schema": response}}}}
    for status in ("401", "403", *errors, "429", "503"):
        responses[status] = {"description": _ERRORS[status], "content": error}
    return {**operation, **more, "responses": responses}


def _event_paths() -> dict[str, JsonSchema]:
    event = {"$ref": "#/components/schemas/Event"}
    body = {"oneOf": [event, _list(event) | {"maxItems": 1000}]}
    publish = _operation(
        "publish",
        "Publish one event, or all or none of a list.",
        ("key",),
        {"oneOf": [_object(id=_EVENT_ID), _object(ids=_list(_EVENT_ID))]},
        *("400", "408", "409", "413", "415", "422"),
        scope="publish",
        requestBody={"required": True, "content": {"application/json": {"schema": body}}},
    )
    return {f"{_ROOT}/events": {"post": publish}}


def _room_paths() -> dict[str, JsonSchema]:
    members = _list(_object(user_id=_USER, username=_TEXT, connections=_COUNT))
    history = _object(room=_TEXT, events=_list(_STORED_EVENT), recovered=_BOOL, last_id=_TEXT, more=_BOOL)
    room = f"{_ROOT}/rooms/{{room}}"
    return {
        f"{_ROOT}/rooms": {
            "get": _operation(
                "rooms",
                "List the rooms with members that the key allows.",
                (),
                _object(rooms=_list(_object(room=_TEXT, members=_COUNT))),
                scope="read",
            )
        },
        f"{room}/members": {
            "get": _operation(
                "members",
                "List the users in a room, in the order in which they joined.",
                ("room",),
                _object(room=_TEXT, members=members),
                "422",
                scope="read",
            )
        },
        f"{room}/history": {
            "get": _operation(
                "history",
                "List the stored events of a room: the newest, or the oldest after an id.",
                ("room", "since", "limit"),
                history,
                *("400", "422"),
                scope="read",
            )
        },
        f"{room}/members/{{user_id}}": {
            "delete": _operation(
                "kick",
                "Remove a user from a room.",
                ("room", "user_id"),
                _object(room=_TEXT, user_id=_USER, connections=_COUNT),
                "422",
                scope="moderate",
            )
        },
    }


def _user_paths() -> dict[str, JsonSchema]:
    user = f"{_ROOT}/users/{{user_id}}"
    ids = _object(user_ids=_list(_USER) | {"maxItems": 1000}) | {"additionalProperties": False}
    return {
        user: {
            "get": _operation(
                "user_status",
                "Return whether a user is online, on all nodes.",
                ("user_id",),
                _USER_STATUS,
                *("400", "422"),
                scope="read",
            )
        },
        f"{_ROOT}/users/status": {
            "post": _operation(
                "user_statuses",
                "Return whether up to 1,000 users are online, in the order of their ids.",
                (),
                _object(users=_list(_USER_STATUS)),
                *("400", "408", "413", "415", "422"),
                scope="read",
                requestBody={"required": True, "content": {"application/json": {"schema": ids}}},
            )
        },
        f"{user}/connections": {
            "delete": _operation(
                "disconnect",
                "Close a user's connections with 4410.",
                ("user_id",),
                _object(user_id=_USER, connections=_COUNT),
                "422",
                scope="moderate",
            )
        },
        f"{user}/tokens": {
            "delete": _operation(
                "revoke_all",
                "Revoke all tokens of a user that were issued before a time.",
                ("user_id", "before"),
                _object(user_id=_USER, before=_NUMBER),
                *("400", "422"),
                scope="moderate",
            )
        },
        f"{user}/tokens/{{jti}}": {
            "delete": _operation(
                "revoke_one",
                "Revoke the token of a user that has this jti.",
                ("user_id", "jti"),
                _object(user_id=_USER, jti=_TEXT),
                *("400", "422"),
                scope="moderate",
            )
        },
        f"{_ROOT}/tickets": {
            "post": _operation(
                "ticket",
                "Get a one-time ticket for the token in Authorization.",
                (),
                _object(ticket=_TEXT, expires_in=_NUMBER),
                security=[{"userToken": []}],
            )
        },
    }


def _monitoring_paths() -> dict[str, JsonSchema]:
    body = {"application/json": {"schema": {"type": "object"}}}
    probe = {
        "200": {"description": "The process runs, or the node is ready.", "content": body},
        "503": {"description": "The node is not ready; the body names the part that is down.", "content": body},
    }
    metrics = {"200": {"description": "In the format that Accept selects.", "content": {"text/plain": {}}}}
    return {
        path: {"get": {"operationId": id, "summary": summary, "security": [], "responses": responses}}
        for path, id, summary, responses in (
            ("/health/live", "live", "Return 200 if the process runs.", probe),
            ("/health/ready", "ready", "Return 200 if the node can serve clients.", probe),
            ("/metrics", "metrics", "Metrics for Prometheus.", metrics),
        )
    }
