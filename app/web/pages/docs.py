"""``/asyncapi.json``, ``/openapi.json`` and ``/docs``: what this very server speaks, and nothing of who uses it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, select_autoescape

from ...errors import CLOSES, ERROR_CODES
from ...gateway.gateway import Gateway
from ...specs.asyncapi import SOCKET, asyncapi, frame_example
from ...specs.catalog import Entry, JsonSchema, catalog
from ...specs.openapi import openapi
from ..app_keys import DEV, GATEWAY

#: Where they are, and the page that shows them.
ASYNCAPI: Final = "/asyncapi.json"
OPENAPI: Final = "/openapi.json"
DOCS: Final = "/docs"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add(app: web.Application) -> None:
    """Give ``app`` the documents' routes."""
    gateway = app[GATEWAY]
    environment = Environment(
        loader=PackageLoader("roomcast.templates", ""),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = page_data(gateway, console=app[DEV] or gateway.settings.console)
    app.router.add_get(ASYNCAPI, _asyncapi)
    app.router.add_get(OPENAPI, _openapi)
    app.router.add_get(DOCS, _docs(environment, page))


async def _asyncapi(request: web.Request) -> web.StreamResponse:
    document = asyncapi(request.app[GATEWAY].registry, request.host, secure=request.secure)
    return web.json_response(document, headers=_OPEN)


async def _openapi(request: web.Request) -> web.StreamResponse:
    document = openapi(request.app[GATEWAY].registry, f"{request.scheme}://{request.host}")
    return web.json_response(document, headers=_OPEN)


#: Tools on other sites may read them.
_OPEN: Final = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"}


def _docs(environment: Environment, page: dict[str, Any]) -> Handler:
    async def docs(request: web.Request) -> web.StreamResponse:
        nonce = secrets.token_urlsafe(16)
        address = f"{'wss' if request.secure else 'ws'}://{request.host}{SOCKET}"
        text = environment.get_template("docs.html").render(**page, nonce=nonce, address=address)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return web.Response(text=text, content_type="text/html", headers=headers)

    return docs


def page_data(gateway: Gateway, *, console: bool) -> dict[str, Any]:
    """Return what the page shows; with ``console`` its examples have links that open them there."""
    registry = gateway.registry
    shown = [_shown(entry, _may_try(gateway, entry) and console) for entry in catalog(registry)]
    return {
        "groups": [
            ("Commands", "What a client sends.", [one for one in shown if one["kind"] == "command"]),
            ("Events", "What is published in rooms, and heard by everyone in them.", _of(shown, "event")),
            ("Answers", "What the server says to one client.", _of(shown, "frame")),
        ],
        "rooms": list(registry.rooms.values()),
        "errors": ERROR_CODES,
        "closes": [close for close in CLOSES if close.reason],
        "asyncapi": ASYNCAPI,
        "openapi": OPENAPI,
        "console": console,
    }


def _of(shown: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in shown if one["kind"] == kind]


def _may_try(gateway: Gateway, entry: Entry) -> bool:
    """Whether the console has a form for it."""
    if entry.kind == "event":
        return not gateway.registry.events[entry.type].published_by_core
    return entry.kind == "command"


def _shown(entry: Entry, may_try: bool) -> dict[str, Any]:
    frame = frame_example(entry)
    link = ""
    if may_try:
        asked = {entry.kind: entry.type, "room": frame.get("room", ""), "data": json.dumps(frame.get("data", {}))}
        link = f"/console#{urlencode(asked)}"
    shown = list(_fields(entry.data or {}, entry.data or {}, "", 0))
    return {
        "kind": entry.kind,
        "type": entry.type,
        "plugin": entry.plugin,
        "description": entry.description,
        "anchor": f"{entry.kind}-{entry.type}",
        "reply": entry.reply,
        "rooms": ", ".join(f"{room}:…" for room in entry.rooms),
        "fields": shown,
        "told": any(field["meaning"] or field["bounds"] for field in shown),
        "example": json.dumps(frame, indent=2),
        "link": link,
    }


def _fields(schema: JsonSchema, root: JsonSchema, prefix: str, depth: int) -> Any:
    """Yield each field of an object, those of objects in it after it: path, type, whether required, meaning."""
    for name, given in schema.get("properties", {}).items():
        inner = _resolved(given, root)
        path = f"{prefix}{name}"
        yield {
            "path": path,
            "type": _type(inner, root),
            "required": name in schema.get("required", ()),
            "meaning": inner.get("description", ""),
            "bounds": _bounds(inner),
        }
        items = _resolved(inner.get("items", {}), root)
        if depth < 3:
            yield from _fields(inner, root, f"{path}.", depth + 1)
            yield from _fields(items, root, f"{path}[].", depth + 1)


def _resolved(schema: JsonSchema, root: JsonSchema) -> JsonSchema:
    reference = schema.get("$ref")
    return schema if reference is None else root["$defs"][str(reference).rpartition("/")[2]]


def _type(schema: JsonSchema, root: JsonSchema) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    given = schema.get("type", "anything")
    kinds = [given] if isinstance(given, str) else list(given)
    if kinds == ["array"]:
        return f"array of {_type(_resolved(schema.get('items', {}), root), root)}"
    words = " or ".join(kinds)
    return f"{words} ({schema['format']})" if "format" in schema else words


_BOUNDS: Final = {
    "minLength": "at least {} long",
    "maxLength": "at most {} long",
    "minimum": "from {}",
    "maximum": "to {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "pattern": "matches {}",
}


def _bounds(schema: JsonSchema) -> str:
    bounds = [words.format(schema[word]) for word, words in _BOUNDS.items() if word in schema]
    if schema.get("default") not in (None, {}, []):
        bounds.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(bounds)
