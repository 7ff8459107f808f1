"""``/asyncapi.json``, ``/openapi.json`` and ``/docs``: the protocol of this server and its plugins, without a login."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from ...errors import CLOSES, ERROR_CODES
from ...gateway.gateway import Gateway
from ...specs.asyncapi import SOCKET_PATH, asyncapi, frame_example, socket_url
from ...specs.catalog import Entry, JsonSchema, catalog
from ...specs.openapi import openapi
from ..app_state import GATEWAY
from ..cors import preflight_of_public_file
from ..public_url import public_url, root_of
from . import console, templates

ASYNCAPI: Final = "/asyncapi.json"
OPENAPI: Final = "/openapi.json"
DOCS: Final = "/docs"

_PAGE: Final = web.AppKey("docs_page", dict[str, Any])
_POLICY: Final = (
    "default-src 'none'",
    "style-src 'nonce-{nonce}'",
    "img-src data:",
    "base-uri 'none'",
    "frame-ancestors 'none'",
)
#: The headers of the JSON documents. Tools on other sites may read them.
_DOCUMENT_HEADERS: Final = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"}


def add_routes(app: web.Application) -> None:
    """Add the routes of the documents and the page. The page's data is computed once, now."""
    app[_PAGE] = page_data(app[GATEWAY], has_console=console.is_enabled(app))
    app.router.add_get(ASYNCAPI, show_asyncapi)
    app.router.add_get(OPENAPI, show_openapi)
    for path in (ASYNCAPI, OPENAPI):
        app.router.add_options(path, preflight_of_public_file)
    app.router.add_get(DOCS, show_docs)


async def show_asyncapi(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /asyncapi.json`` with the server's public address."""
    document = asyncapi(request.app[GATEWAY].registry, public_url(request))
    return web.json_response(document, headers=_DOCUMENT_HEADERS)


async def show_openapi(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /openapi.json`` with the server's public address."""
    document = openapi(request.app[GATEWAY].registry, public_url(request))
    return web.json_response(document, headers=_DOCUMENT_HEADERS)


async def show_docs(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /docs``: the page that shows what the documents describe."""
    url = public_url(request)
    context = request.app[_PAGE] | {"url": url, "address": f"{socket_url(url)}{SOCKET_PATH}", "root": root_of(request)}
    return templates.render(request, "docs.html", context, _POLICY, headers={"Cache-Control": "no-cache"})


def page_data(gateway: Gateway, *, has_console: bool) -> dict[str, Any]:
    """Return the page's data. With ``has_console`` its examples have links that open them in the console."""
    registry = gateway.registry
    entries = [_entry_data(entry, _has_form(gateway, entry) and has_console) for entry in catalog(registry)]
    return {
        "groups": [
            ("Commands", "What a client sends.", _of_kind(entries, "command")),
            ("Events", "What is published in a room, and sent to all of its members.", _of_kind(entries, "event")),
            ("Replies", "What the server sends to one client.", _of_kind(entries, "frame")),
        ],
        "rooms": list(registry.rooms.values()),
        "errors": ERROR_CODES,
        "closes": [close for close in CLOSES if close.reason],
        "console": has_console,
    }


def _of_kind(entries: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["kind"] == kind]


def _has_form(gateway: Gateway, entry: Entry) -> bool:
    """Return True if the console has a form for ``entry``."""
    if entry.kind == "event":
        return not gateway.registry.events[entry.type].published_by_core
    return entry.kind == "command"


def _entry_data(entry: Entry, has_link: bool) -> dict[str, Any]:
    """Return the page's data for one type of frame."""
    frame = frame_example(entry)
    link = ""
    if has_link:
        form = {entry.kind: entry.type, "room": frame.get("room", ""), "data": json.dumps(frame.get("data", {}))}
        link = f"{console.PATH[1:]}#{urlencode(form)}"
    fields = list(_fields(entry.data or {}, entry.data or {}, "", 0))
    return {
        "kind": entry.kind,
        "type": entry.type,
        "plugin": entry.plugin,
        "description": entry.description,
        "anchor": f"{entry.kind}-{entry.type}",
        "access": entry.access,
        "reply": entry.reply,
        "rooms": ", ".join(f"{room}:…" for room in entry.rooms),
        "fields": fields,
        "has_meanings": any(field["meaning"] or field["bounds"] for field in fields),
        "example": json.dumps(frame, indent=2),
        "link": link,
    }


def _fields(schema: JsonSchema, root: JsonSchema, prefix: str, depth: int) -> Any:
    """Yield the path, type, meaning and bounds of each field of ``schema``, and of fields inside it up to depth 3."""
    for name, reference in schema.get("properties", {}).items():
        inner = _resolved(reference, root)
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
    """Return the schema that ``schema`` refers to, or itself."""
    reference = schema.get("$ref")
    return schema if reference is None else root["$defs"][str(reference).rpartition("/")[2]]


def _type(schema: JsonSchema, root: JsonSchema) -> str:
    """Return the type of a field in words."""
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
    """Return the limits and the default of a field in words."""
    bounds = [words.format(schema[word]) for word, words in _BOUNDS.items() if word in schema]
    if schema.get("default") not in (None, {}, []):
        bounds.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(bounds)
