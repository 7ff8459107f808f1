"""Lets pages of other origins read responses, and answers their preflight requests (CORS, Fetch standard, section 3.2).

A browser sends one before a page's request to another origin, unless the request is a simple one without own headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Final

from aiohttp import web

from .failure_logs import FAILURE_LOGS
from .json_errors import Failure, Handler, in_json
from .origins import ORIGINS

#: How long a browser may cache the answer to a preflight request, in seconds. Chromium caches it for at most 7200.
PREFLIGHT_MAX_AGE: Final = 600
#: How many headers a page may ask for. Libraries for tracing add fewer than ten.
MAX_REQUESTED_HEADERS: Final = 50

#: The name of a header (RFC 9110 section 5.6.2), of a reasonable length.
_is_header_name: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}").fullmatch


async def preflight_of_public_file(request: web.Request) -> web.StreamResponse:
    """Answer the preflight request for a file that pages of any origin may read."""
    return preflight_response(request, "GET, HEAD", origin="*")


def allow_cross_origin(what: str, *, refuses_others: bool = True) -> Callable[[Handler], Handler]:
    """Return a decorator for handlers: pages of allowed origins may read the responses, errors too.

    Pages of other origins get 403 for ``what``, words for the log. If ``refuses_others`` is False, the handler answers
    them, but they cannot read the response.
    """

    def decorate(handler: Handler) -> Handler:
        @in_json
        async def check_origin(request: web.Request) -> web.StreamResponse:
            if refuses_others and not request.app[ORIGINS].allow(request):
                request.app[FAILURE_LOGS].add_origin(f"{what} to a page", request.headers["Origin"])
                raise Failure("bad_origin", "This page's origin is not allowed; add it to ALLOWED_ORIGINS.")
            return await handler(request)

        @wraps(handler)
        async def wrapper(request: web.Request) -> web.StreamResponse:
            try:
                response = await check_origin(request)
            except web.HTTPException as error:
                add_headers(request, error)
                raise
            if not response.prepared:
                add_headers(request, response)
            return response

        return wrapper

    return decorate


def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page that made ``request`` read the response, if its origin is allowed."""
    response.headers.add("Vary", "Origin")
    if "Origin" in request.headers and request.app[ORIGINS].allow(request):
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]


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
