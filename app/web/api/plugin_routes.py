"""The routes of plugins, under ``/plugins/<name>``: who may call them, and CORS."""

from __future__ import annotations

from aiohttp import web

from ...declarations import MountedRoute
from ...errors import PluginError
from ...gateway.gateway import Gateway
from ...gateway.plugin_times import FunctionTimes
from ...route_user import User
from ...service import Service
from ..app_state import GATEWAY, PART, Part
from ..cors import allow_cross_origin, preflight_response
from ..json_errors import Handler
from .auth import requires_api_key
from .user_token import verify_user


def add_routes(app: web.Application) -> None:
    """Add the routes of all plugins; raise ``PluginError`` for a route that aiohttp refuses.

    Those for API keys are where the HTTP API is.
    """
    gateway = app[GATEWAY]
    for loaded in gateway.registry:
        plugin = loaded.plugin.name
        served = [one for one in loaded.plugin.routes if one.auth != "api_key" or app[PART] is not Part.PUBLIC]
        for route in served:
            path = f"/plugins/{plugin}{route.path}"
            try:
                app.router.add_route(route.method, path, _handler(gateway, plugin, route))
            except (ValueError, RuntimeError) as error:
                reason = f"route {route.method} {path} cannot be served: {error}"
                raise PluginError(f"plugin {plugin!r} ({loaded.source}): {reason}.") from error
        for path in dict.fromkeys(route.path for route in served if route.auth != "api_key"):
            methods = ", ".join(one.method for one in served if one.path == path and one.auth != "api_key")
            app.router.add_route("OPTIONS", f"/plugins/{plugin}{path}", _preflight(methods))


def _preflight(methods: str) -> Handler:
    """Return the handler of preflight requests for a path: pages of allowed origins may use ``methods``."""

    @allow_cross_origin("a route")
    async def preflight(request: web.Request) -> web.StreamResponse:
        return preflight_response(request, methods)

    return preflight


def _handler(gateway: Gateway, plugin: str, route: MountedRoute) -> Handler:
    """Return the aiohttp handler of ``route``, which lets only those call it that its ``auth`` allows."""
    service = gateway.services[plugin]
    times = gateway.plugin_times.of(plugin, getattr(route.handler, "__name__", route.path))
    what = f"{route.method} /plugins/{plugin}{route.path}"

    async def call(request: web.Request) -> web.StreamResponse:
        return await _call(times, service, route, request)

    async def call_for_user(request: web.Request) -> web.StreamResponse:
        _, identity = await verify_user(request, what)
        return await _call(times, service, route, request, User(identity, gateway.room_access))

    if route.auth == "user":
        return allow_cross_origin(what)(call_for_user)
    if route.scope is not None:
        return requires_api_key(route.scope, all_rooms=True)(call)
    return allow_cross_origin(what, refuses_others=False)(call)


async def _call(
    times: FunctionTimes, service: Service, route: MountedRoute, request: web.Request, *user: User
) -> web.StreamResponse:
    """Call the handler of ``route``. An unexpected exception in it is logged and answered with 500."""
    try:
        response = await times.run(_answer, route, service, request, *user)
        if isinstance(response, web.HTTPException):
            raise response
    except Exception as error:
        if request.writer.output_size:  # too late for an error response; aiohttp logs this and closes
            raise ConnectionAbortedError("the route failed after its response had begun") from error
        raise
    if not isinstance(response, web.StreamResponse):
        returned = type(response).__name__
        raise TypeError(f"the handler returned a {returned}; it must return a response, such as web.json_response(…)")
    return response


async def _answer(route: MountedRoute, service: Service, request: web.Request, *user: User) -> web.StreamResponse:
    """Return the response of ``route``, also one below 500 that it raises, because this is no failure of the plugin."""
    try:
        response: web.StreamResponse = await route.handler(service, request, *user)
        return response
    except web.HTTPException as raised:
        if raised.status >= 500:
            raise
        return raised
