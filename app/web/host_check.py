"""Protects ``roomcast dev`` from DNS rebinding: requests must name this machine in their Host header.

The dev server trusts every local user: its console creates tokens and calls the API without a key. The same-origin
policy of browsers keeps other sites out. But an attacker can make a host name point at 127.0.0.1, so that a page under
that name has the same origin as the server. The requests of such a page have the name in ``Host``. Therefore the server
answers only requests for names that an attacker cannot own.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from .json_errors import json_response

log = logging.getLogger("roomcast.api")

_SENTENCE: Final = (
    "roomcast dev serves only localhost and IP addresses, so that pages of other sites cannot reach it through a host "
    "name that points here. Open it as http://localhost, with its port, or name this host with --host."
)


def is_own_host(host: str, *own: str) -> bool:
    """Return True if the Host header ``host`` is an IP address, localhost, or one of ``own``, the hosts of ``--host``.

    An IP address is safe, because an attacker cannot make it point to another machine.
    """
    try:
        name = (URL(f"http://{host}").host or "").lower().rstrip(".")
    except ValueError:
        return False
    return name in ("localhost", *map(str.lower, own)) or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def host_check(own: tuple[str, ...]) -> Middleware:
    """Return the middleware that answers requests for other hosts with 421. ``own`` are the hosts of ``--host``."""

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host")
        if host is None or is_own_host(host, *own):  # every browser sends the header
            return await handler(request)
        log.warning("refused a request for another host: %r", host[:200])
        if request.path.startswith("/api/"):
            return json_response({"error": _SENTENCE, "code": "bad_host"}, 421)
        raise web.HTTPMisdirectedRequest(text=f"{_SENTENCE}\n")

    return check_host
