"""``/``, and the responses to requests that no other route matches."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..app_state import PART, Part
from ..json_errors import Failure, in_json
from ..public_url import root_of
from ..upgrade import handshake
from . import console

WELCOME: Final = f"""\
This is roomcast, a real-time gateway.

  {handshake.PATH}   WebSockets connect here
  /api/v1/events       backends publish here
  /health/ready        tells whether the server is ready

The console, where you can try everything, is on in `roomcast dev` and with CONSOLE=1.
"""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


async def root(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /``: redirect to the console if there is one, else introduce the server."""
    if console.is_enabled(request.app):
        return web.Response(status=302, headers={"Location": root_of(request) + console.PATH[1:], **_HEADERS})
    return web.Response(text=WELCOME, headers=_HEADERS)


async def not_found(request: web.Request) -> web.StreamResponse:
    """Answer a request that no other route matches: 405 if the path has other methods, else 404."""
    path, allowed = request.path[:100], await _allowed_methods(request)
    if allowed:
        text = f"{path} takes {allowed}, not {request.method}.\n"
        return web.Response(status=405, text=text, headers={"Allow": allowed, **_HEADERS})
    text = f"There is no {path} here. This is roomcast; WebSockets connect to {handshake.PATH}.\n"
    return web.Response(status=404, text=text, headers=_HEADERS)


@in_json
async def api_not_found(request: web.Request) -> web.StreamResponse:
    """Answer as ``not_found`` does, in JSON: for paths of the HTTP API."""
    path, allowed = request.path[:100], await _allowed_methods(request)
    if allowed:
        raise Failure("no_such_method", f"{path} takes {allowed}, not {request.method}.", headers={"Allow": allowed})
    if request.app[PART] is Part.PUBLIC:
        raise Failure("no_such_path", f"There is no {path} on this port; the HTTP API is at INTERNAL_ADDRESS.")
    raise Failure("no_such_path", f"There is no {path}; docs/http-api.md lists the endpoints of the API.")


async def _allowed_methods(request: web.Request) -> str:
    """Return the methods that other routes have for the path of ``request``, as in the Allow header."""
    found: set[str] = set()
    for resource in request.app.router.resources():
        match, allowed = await resource.resolve(request)
        found |= allowed if match is None else set()
    return ", ".join(sorted(found))
