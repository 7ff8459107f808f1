"""The HTTP routes of a plugin: ``@deploy.route("GET", "/builds/{id}", auth="user")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, get_args, overload

from .api_keys import SCOPES
from .declarations import MountedRoute, PlainRoute, PlainUserRoute, Route, RouteAuth, Scope, UserRoute, description_of
from .errors import PluginError
from .plugin_functions import FunctionChecks

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")

_R = TypeVar("_R", bound=Route | PlainRoute)
_U = TypeVar("_U", bound=UserRoute | PlainUserRoute)


class RouteDeclarations(FunctionChecks):
    """The method of ``Plugin`` that declares routes."""

    routes: list[MountedRoute]

    @overload
    def route(self, method: str, path: str, *, auth: Literal["user"]) -> Callable[[_U], _U]: ...
    @overload
    def route(
        self, method: str, path: str, *, auth: Literal["api_key", "public"], scope: Scope | None = None
    ) -> Callable[[_R], _R]: ...
    def route(
        self, method: str, path: str, *, auth: RouteAuth | None = None, scope: Scope | None = None
    ) -> Callable[..., Any]:
        """Declare an HTTP route; decorates ``async def handler(service: Service, request: aiohttp.web.Request)``.

        A plain ``def`` handler runs in a thread.

        The route is ``/plugins/<plugin name><path>``. Its docstring is its description in ``/openapi.json`` and
        ``/docs``. Exceptions become JSON as in the HTTP API: ``Refused`` has status 422 unless it has another
        ``status``, unexpected exceptions have 500.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: A path that begins with ``/``. It may contain aiohttp's variables, as in ``/live/{environment}``.
            auth: Who may call the route. With ``"user"``, requests need a user's token, as WebSockets do, and the
                handler gets the user as a third argument: ``async def handler(service, request, user: User)``. With
                ``"api_key"``, requests need a key of the HTTP API with ``scope``, for all rooms; the route is on the
                internal port if there is one. With ``"public"``, everyone may call the route. Pages of
                ``ALLOWED_ORIGINS`` may call routes with ``"user"`` and ``"public"`` (CORS). There is no default, so
                that no route is public by mistake.
            scope: ``"publish"``, ``"read"`` or ``"moderate"``, with ``"api_key"`` only. The default is ``"read"`` for
                GET and ``"publish"`` for other methods.
        """
        what = f"route {method} {path!r} of plugin {self.name!r}"
        if method not in METHODS or not path.startswith("/"):
            raise PluginError(f"{what}: the method must be one of {', '.join(METHODS)}, the path begin with /")
        if auth is None or auth not in get_args(RouteAuth):
            given = "does not state who may call it" if auth is None else f"has auth={auth!r}"
            raise PluginError(f"{what} {given}; give auth='user', auth='api_key' or auth='public'")
        if scope is not None and (auth != "api_key" or scope not in SCOPES):
            raise PluginError(f"{what} has scope={scope!r}; it must be one of {', '.join(SCOPES)}, with auth='api_key'")
        if any((route.method, route.path) == (method, path) for route in self.routes):
            raise PluginError(f"plugin {self.name!r} declares route {method} {path!r} twice")
        if auth == "api_key" and scope is None:
            scope = "read" if method == "GET" else "publish"

        def declare(handler: Any) -> Any:
            parameters = ("service", "request", "user") if auth == "user" else ("service", "request")
            function = self._async_function(f"the handler of route {method} {path!r}", handler, *parameters)
            self.routes.append(MountedRoute(method, path, function, auth, scope, description_of(handler)))
            return handler

        return declare
