"""What answers at ``/`` and wherever nothing is, so that whoever comes with a browser or curl learns where to go."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..app_keys import DEV, GATEWAY
from ..upgrade import handshake
from . import console

HERE: Final = f"""\
This is roomcast, a real-time gateway.

  {handshake.PATH}   WebSockets connect here
  /api/v1/events       backends publish here
  /health/ready        says whether it is well

The console, where everything can be tried out, is on in `roomcast dev`, and with CONSOLE=1.
"""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def add(app: web.Application) -> None:
    """Give ``app`` its root, and the route of what no other takes; to be called last."""
    app.router.add_get("/", root)
    app.router.add_route("*", "/{rest:.*}", nothing_here)


async def root(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /``: on to the console if there is one, else what this is."""
    if request.app[DEV] or request.app[GATEWAY].settings.console:
        return web.Response(status=302, headers={"Location": console.PATH, **_HEADERS})
    return web.Response(text=HERE, headers=_HEADERS)


async def nothing_here(request: web.Request) -> web.StreamResponse:
    """Answer what no other route takes: 405 where there is one for another method, else 404."""
    path, allowed = request.path[:100], await methods(request)
    if allowed:
        text = f"{path} takes {', '.join(allowed)}, not {request.method}.\n"
        return web.Response(status=405, text=text, headers={"Allow": ", ".join(allowed), **_HEADERS})
    text = f"There is no {path} here. This is roomcast; WebSockets connect to {handshake.PATH}.\n"
    return web.Response(status=404, text=text, headers=_HEADERS)


async def methods(request: web.Request) -> list[str]:
    """Return the methods by which there is something at the path of ``request``, whose own route takes any."""
    found: set[str] = set()
    for resource in request.app.router.resources():
        match, allowed = await resource.resolve(request)
        found |= allowed if match is None else set()
    return sorted(found)
