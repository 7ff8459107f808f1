"""``/static/roomcast.js`` and its types: the client, for pages of this and of any other origin.

A module that a page imports from another origin must come with CORS (HTML standard, "fetch a single module script").
There is nothing in it that not everybody may have.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final, NamedTuple

from aiohttp import web

PREFIX: Final = "/static/"
PACKAGE: Final = "roomcast.static"
#: What is served of the package, and as what.
FILES: Final = {"roomcast.js": "text/javascript", "roomcast.d.ts": "application/typescript"}

_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    # Kept, but asked for anew each time: a page must not run the client of the server before the last upgrade.
    "Cache-Control": "public, no-cache",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


class Body(NamedTuple):
    """A file as it is sent in one encoding."""

    content: bytes
    etag: str


def add(app: web.Application) -> None:
    """Give ``app`` the client's files."""
    for name, content_type in FILES.items():
        content = resources.files(PACKAGE).joinpath(name).read_bytes()
        app.router.add_get(PREFIX + name, _sender(content, content_type))


def _sender(content: bytes, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler that sends ``content``; it is compressed once, here, to a quarter."""
    plain = Body(content, _etag(content))
    packed = Body(gzip.compress(content, mtime=0), f"{plain.etag}-gzip")

    async def send(request: web.Request) -> web.Response:
        zipped = _takes_gzip(request)
        body = packed if zipped else plain
        if any(tag.value in (body.etag, "*") for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(body=body.content, content_type=content_type, charset="utf-8", headers=_HEADERS)
            if zipped:
                response.headers["Content-Encoding"] = "gzip"
        response.etag = body.etag
        return response

    return send


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _takes_gzip(request: web.Request) -> bool:
    """Whether the client takes gzip by name (RFC 9110 section 12.5.3); who refuses it with q=0 does not."""
    for part in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
