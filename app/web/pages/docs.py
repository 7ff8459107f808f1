"""``/asyncapi.json``, ``/openapi.json`` and ``/docs``: the protocol of this server and its plugins, without a login."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from ...errors import CLOSES, ERROR_CODES
from ...gateway.gateway import Gateway
from ...room_options import in_words
from ...specs.asyncapi import SOCKET_PATH, asyncapi, asyncapi_servers, frame_example
from ...specs.catalog import Entry, catalog
from ...specs.core_frames import JsonSchema
from ...specs.openapi import openapi, openapi_servers
from ...specs.plugin_paths import route_path
from ..app_state import GATEWAY
from ..cors import preflight_of_public_file
from ..json_errors import Handler
from ..public_url import api_url, public_url
from . import console, templates
from .static_files import Body, etag_of, respond

ASYNCAPI: Final = "/asyncapi.json"
OPENAPI: Final = "/openapi.json"
DOCS: Final = "/docs"

#: The page has one style sheet and no scripts. A hash lets browsers keep the page, which a nonce would not.
_POLICY: Final = (
    "default-src 'none'",
    "style-src '{style}'",
    "img-src data:",
    "base-uri 'none'",
    "frame-ancestors 'none'",
)
#: The headers of the JSON documents. Tools on other sites may read them.
_DOCUMENT_HEADERS: Final = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"}
#: The words for those who may call a route of a plugin.
_CALLERS: Final = {
    "user": "users, with their token",
    "api_key": "backends, with an API key that has the scope {}",
    "public": "everyone",
}


class Document:
    """A text that contains the server's address, encoded once.

    ``build`` is called for the first request. It gets a word that it puts in each place of the address. ``insert``
    returns the text in these places for the server's URL. Clients choose the host in this URL, so a cache of complete
    documents would have to be bounded, and clients could make it useless.
    """

    def __init__(self, build: Callable[[str], str], insert: Callable[[str], str]) -> None:
        self._build: Final = build
        self._insert: Final = insert

    @cached_property
    def _parts(self) -> tuple[list[bytes], str]:
        """The parts of the text between the places of the address, and the ETag of all parts."""
        mark = secrets.token_hex(16)
        parts = [part.encode() for part in self._build(mark).split(mark)]
        return parts, etag_of(b"\0".join(parts))

    def body(self, url: str) -> Body:
        """Return the document of the server at ``url``."""
        parts, etag = self._parts
        inserted = self._insert(url).encode("utf-8", "replace")
        return Body(inserted.join(parts), etag_of(etag.encode() + inserted))


def add_routes(app: web.Application) -> None:
    """Add the routes of the documents and the page."""
    gateway = app[GATEWAY]
    registry = gateway.registry
    options = registry.room_options(gateway.settings)
    for path, build, servers, find_url in (
        (ASYNCAPI, lambda: asyncapi(registry, options=options), asyncapi_servers, public_url),
        (OPENAPI, lambda: openapi(registry), openapi_servers, api_url),
    ):
        document = Document(partial(_encode, build), partial(_encode_servers, servers))
        app.router.add_get(path, _handler(document, find_url, "application/json", _DOCUMENT_HEADERS))
        app.router.add_options(path, preflight_of_public_file)

    style = templates.render_text(app, "docs.css", {})

    def build_page(mark: str) -> str:
        addresses = {"url": f"http{mark}", "address": f"ws{mark}{SOCKET_PATH}"}
        data = page_data(gateway, has_console=console.is_enabled(app))
        return templates.render_text(app, "docs.html", {**data, **addresses, "root": "./", "style": style})

    page = Document(build_page, lambda url: html.escape(url.removeprefix("http")))
    headers = templates.page_headers(_POLICY, style=_hash_source(style)) | {"Cache-Control": "no-cache"}
    app.router.add_get(DOCS, _handler(page, public_url, "text/html", headers))


def _encode(build: Callable[[], dict[str, Any]], mark: str) -> str:
    """Return the document in JSON, with ``mark`` in place of its servers."""
    return json.dumps(build() | {"servers": mark}).replace(json.dumps(mark), mark)


def _encode_servers(servers: Callable[[str], Any], url: str) -> str:
    return json.dumps(servers(url))


def _hash_source(text: str) -> str:
    """Return the source expression for an inline style sheet (Content Security Policy Level 3, section 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _handler(
    document: Document, find_url: Callable[[web.Request], str], content_type: str, headers: Mapping[str, str]
) -> Handler:
    """Return the handler that answers with ``document``. ``find_url`` returns the server's URL in it."""

    async def show(request: web.Request) -> web.StreamResponse:
        return respond(request, document.body(find_url(request)), content_type, headers)

    return show


def page_data(gateway: Gateway, *, has_console: bool) -> dict[str, Any]:
    """Return the page's data. With ``has_console`` its examples have links that open them in the console."""
    registry = gateway.registry
    options = registry.room_options(gateway.settings)
    entries = [_entry_data(entry, _has_form(entry) and has_console) for entry in catalog(registry)]
    return {
        "groups": [
            ("Commands", "What a client sends.", _of_kind(entries, "command")),
            ("Events", "What is published in a room, and sent to all of its members.", _of_kind(entries, "event")),
            ("Replies", "What the server sends to one client.", _of_kind(entries, "frame")),
        ],
        "rooms": [
            {"type": room.type, "description": room.description, **in_words(options[room.type], room.type)}
            for room in registry.rooms.values()
        ],
        "routes": [
            {
                "method": route.method,
                "path": route_path(loaded.plugin.name, route),
                "description": route.description,
                "access": _CALLERS[route.auth].format(route.scope),
            }
            for loaded in registry
            for route in loaded.plugin.routes
        ],
        "errors": ERROR_CODES,
        "closes": [close for close in CLOSES if close.reason],
        "console": has_console,
    }


def _of_kind(entries: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["kind"] == kind]


def _has_form(entry: Entry) -> bool:
    """Return True if the console has a form for ``entry``."""
    return entry.is_publishable if entry.kind == "event" else entry.kind == "command"


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
        "is_stored": entry.kind != "event" or entry.is_stored,
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
