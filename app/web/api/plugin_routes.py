"""The routes of plugins, under ``/plugins/<name>``."""

from __future__ import annotations

from aiohttp import web

from ...context import Service
from ...errors import PluginError
from ...plugin import MountedRoute
from ..app_state import GATEWAY
from ..json_errors import Handler, in_json


def add_routes(app: web.Application) -> None:
    """Add the routes of all plugins; raise ``PluginError`` for a route that aiohttp refuses."""
    gateway = app[GATEWAY]
    for loaded in gateway.registry:
        for route in loaded.plugin.routes:
            path = f"/plugins/{loaded.plugin.name}{route.path}"
            try:
                app.router.add_route(route.method, path, in_json(_handler(gateway.service, route)))
            except (ValueError, RuntimeError) as error:
                reason = f"route {route.method} {path} cannot be served: {error}"
                raise PluginError(f"plugin {loaded.plugin.name!r} ({loaded.source}): {reason}.") from error


def _handler(service: Service, route: MountedRoute) -> Handler:
    """Return the aiohttp handler of ``route``. An exception in it is logged and answered with 500."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            response = await route.handler(service, request)
        except Exception as error:
            if request.writer.output_size:  # too late for an error response; aiohttp logs this and closes
                raise ConnectionAbortedError("the route failed after its response had begun") from error
            raise
        if not isinstance(response, web.StreamResponse):
            raise TypeError(f"the handler returned a {type(response).__name__}, not a response of aiohttp")
        return response

    return handle
