"""Keeps ``roomcast dev`` to this machine: a page may not reach it under a name of its own (DNS rebinding).

The dev server trusts whoever sits at this machine: its console makes up users and calls the API without a key. What
keeps other sites out is the browser's rule of one origin, and a site whose name is made to point at 127.0.0.1 would be
the same origin. Its requests still carry its name in ``Host``, so only names that cannot be anybody else's are served.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from .json_errors import answer

log = logging.getLogger("roomcast.api")


def is_own(host: str, own: str) -> bool:
    """Whether ``host``, a Host header, names this machine: an address, localhost, or ``own``, what was listened on.

    An address is no name, and so points nowhere else than it says.
    """
    try:
        name = (URL(f"http://{host}").host or "").lower().rstrip(".")
    except ValueError:
        return False
    return name in ("localhost", own.lower()) or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def guard(own: str) -> Middleware:
    """Return the middleware that refuses what was sent to another name than this machine's; ``own`` is as --host."""

    @web.middleware
    async def only_own(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host")  # which every browser sends
        if host is None or is_own(host, own):
            return await handler(request)
        log.warning("refused a request for another host: %r", host[:200])
        if request.path.startswith("/api/"):
            return answer({"error": _SENTENCE, "code": "bad_host"}, 421)
        raise web.HTTPMisdirectedRequest(text=f"{_SENTENCE}\n")

    return only_own


_SENTENCE: Final = (
    "roomcast dev answers to localhost and to addresses only, lest a page of another site reach it under a name of its "
    "own. Open it as http://localhost, with its port, or name this host with --host."
)
