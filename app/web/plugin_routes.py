"""The routes of plugins, under ``/plugins/<name>``; what fails in one is its caller's 500 and the log's traceback."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from ..errors import PluginError, Refused, Unavailable
from ..gateway import Gateway
from ..plugin import MountedRoute
from ..registry import Loaded
from .keys import GATEWAY

log = logging.getLogger("roomcast.plugins")


def add(app: web.Application) -> None:
    """Mount the routes of all plugins; raise ``PluginError`` for one that cannot be."""
    gateway = app[GATEWAY]
    for loaded in gateway.registry:
        for route in loaded.plugin.routes:
            path = f"/plugins/{loaded.plugin.name}{route.path}"
            try:
                app.router.add_route(route.method, path, _guarded(gateway, loaded, route))
            except (ValueError, RuntimeError) as error:
                raise PluginError(f"plugin from {loaded.source}: route {route.method} {path}: {error}") from error


def _guarded(
    gateway: Gateway, loaded: Loaded, route: MountedRoute
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler of ``route`` with its errors turned into answers."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            response = await route.handler(gateway.service, request)
            if not isinstance(response, web.StreamResponse):
                raise TypeError(f"the handler returned a {type(response).__name__}, not a response of aiohttp")
            return response
        except web.HTTPException:
            raise
        except Refused as refused:
            return _error(400, refused)
        except Unavailable as unavailable:
            return _error(503, Refused("unavailable", f"The server cannot do this now ({unavailable}); try again."))
        except Exception:
            if request.writer.output_size:  # half an answer is out: aiohttp logs the error and hangs up
                raise
            name = loaded.plugin.name
            log.exception("route %s /plugins/%s%s of plugin %s failed", route.method, name, route.path, name)
            return _error(500, Refused("internal", f"Plugin {name} failed; the server's log says why."))

    return handle


def _error(status: int, refused: Refused) -> web.Response:
    body = {"error": refused.message, "code": refused.code}
    if refused.fields:
        body["fields"] = dict(refused.fields)  # type: ignore[assignment]
    return web.json_response(body, status=status)
