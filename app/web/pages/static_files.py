"""Serve files with an ETag: the JavaScript client, its source map and its types below ``/static/``.

Pages of any origin may load the client's files, without a login: a module from another origin needs CORS headers (HTML
standard, "fetch a single module script"), and the files contain nothing secret.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

from aiohttp import web

from ..cors import preflight_of_public_file
from ..json_errors import Handler

PREFIX: Final = "/static/"
PACKAGE: Final = "roomcast.static"
#: The files to serve, with their content types. The sources of the bundle are embedded in its source map.
FILES: Final = {
    "roomcast.js": "text/javascript",
    "roomcast.js.map": "application/json",
    "roomcast.d.ts": "application/typescript",
}

_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    # Browsers keep the file, but revalidate it on each load: after an upgrade, a page must not run the old client.
    "Cache-Control": "public, no-cache",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


#: The part of Accept-Encoding that is read, in characters. Browsers send 30. A header of 8,000 commas takes 2 ms.
_MAX_ACCEPT: Final = 256


class Body(NamedTuple):
    """The body of a response with its ETag, and its content encoding if it has one."""

    content: bytes
    etag: str
    encoding: str = ""


def add_routes(app: web.Application) -> None:
    """Add a route for each file of the client."""
    for name, content_type in FILES.items():
        content = resources.files(PACKAGE).joinpath(name).read_bytes()
        app.router.add_get(PREFIX + name, file_handler(content, content_type, _HEADERS, may_compress=True))
        app.router.add_options(PREFIX + name, preflight_of_public_file)


def file_handler(content: bytes, content_type: str, headers: Mapping[str, str], *, may_compress: bool) -> Handler:
    """Return a handler that sends ``content`` with ``headers``, or 304 if the client has it.

    The content is compressed here, not for each request. Each content encoding has an ETag of its own.
    """
    plain = Body(content, etag_of(content))
    compressed = Body(_compress(content), f"{plain.etag}-gzip", "gzip") if may_compress else None

    async def send(request: web.Request) -> web.StreamResponse:
        body = compressed if compressed is not None and _accepts_gzip(request) else plain
        return respond(request, body, content_type, headers)

    return send


def respond(request: web.Request, body: Body, content_type: str, headers: Mapping[str, str]) -> web.Response:
    """Return a response with ``body``, or 304 if the client has it (RFC 9110 section 13.1.2).

    An ETag contains no quotes, so it is in the list of the client's if the list contains it with its quotes.
    """
    known = request.headers.get("If-None-Match", "")
    if known == "*" or f'"{body.etag}"' in known:
        response = web.Response(status=304, headers=headers)
    else:
        response = web.Response(body=body.content, content_type=content_type, charset="utf-8", headers=headers)
        if body.encoding:
            response.headers["Content-Encoding"] = body.encoding
    response.etag = body.etag
    return response


def etag_of(content: bytes) -> str:
    """Return an ETag that differs for all contents."""
    return hashlib.sha256(content).hexdigest()[:32]


@cache
def _compress(content: bytes) -> bytes:
    """Compress with gzip, once per process: a test run starts about a thousand servers, and each would take 13 ms."""
    return gzip.compress(content, mtime=0)


def _accepts_gzip(request: web.Request) -> bool:
    """Return True if the client names gzip in Accept-Encoding with a weight above 0 (RFC 9110 section 12.5.3)."""
    for part in request.headers.get("Accept-Encoding", "")[:_MAX_ACCEPT].lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
