"""Answers the preflight requests of browsers (CORS, Fetch standard, section 3.2).

A browser sends one before a page's request to another origin, unless the request is a simple one without own headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from aiohttp import web

#: How long a browser may cache the answer to a preflight request, in seconds. Chromium caches it for at most 7200.
PREFLIGHT_MAX_AGE: Final = 600
#: How many headers a page may ask for. Libraries for tracing add fewer than ten.
MAX_REQUESTED_HEADERS: Final = 50

#: The name of a header (RFC 9110 section 5.6.2), of a reasonable length.
_is_header_name: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}").fullmatch


async def preflight_of_public_file(request: web.Request) -> web.StreamResponse:
    """Answer the preflight request for a file that pages of any origin may read."""
    return preflight_response(request, "GET, HEAD", origin="*")


def preflight_response(request: web.Request, methods: str, *, origin: str | None = None) -> web.Response:
    """Return the response to a preflight request: the page may use ``methods``, and all headers that it asks for.

    Libraries for tracing add headers such as ``traceparent`` to every request of a page. The handlers ignore headers
    that they do not know, so a list of names would protect nothing. ``origin`` is the origin to allow, or None if the
    caller adds it.
    """
    names = list(_requested_headers(request))
    headers = {"Access-Control-Allow-Methods": methods, "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE)}
    if names:
        headers["Access-Control-Allow-Headers"] = ", ".join(names)
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
    headers["Vary"] = "Access-Control-Request-Headers"
    return web.Response(status=204, headers=headers)


def _requested_headers(request: web.Request) -> Iterator[str]:
    """Yield the valid names in Access-Control-Request-Headers, at most ``MAX_REQUESTED_HEADERS``."""
    given = ",".join(request.headers.getall("Access-Control-Request-Headers", ()))
    for name in given.split(",")[:MAX_REQUESTED_HEADERS]:
        if _is_header_name(name := name.strip()):
            yield name
