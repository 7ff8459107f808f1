"""What a plugin declares: event types, commands, room types, a lifespan and routes.

A plugin is data and functions; declaring has no effect until a gateway loads it through its entry point.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from marshmallow import Schema

from .errors import PluginError
from .schemas.validator import Validator

if TYPE_CHECKING:
    from aiohttp.web import Request, StreamResponse

    from .context import Context, Service

SchemaClass = type[Schema]
Handler = Callable[["Context", dict[str, Any]], Awaitable["dict[str, Any] | None"]]
Rule = Callable[["Context", str], Awaitable[bool]]
Lifespan = Callable[["Service"], AbstractAsyncContextManager[None]]
Route = Callable[["Service", "Request"], Awaitable["StreamResponse"]]

_S = TypeVar("_S", bound=SchemaClass)
_H = TypeVar("_H", bound=Handler)
_R = TypeVar("_R", bound=Rule)
_T = TypeVar("_T", bound=Route)

_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\Z")
_ROOM_TYPE = re.compile(r"[a-z][a-z0-9_]*\Z")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class EventType(NamedTuple):
    """A declared event: its ``type``, what validates its data, what it means, and where it may be published.

    ``rooms`` are room types; empty is any. ``published_by_core`` marks what nobody but roomcast itself may publish.
    """

    type: str
    validator: Validator
    description: str
    rooms: tuple[str, ...] = ()
    published_by_core: bool = False


class Command(NamedTuple):
    """A declared command: its ``type``, what validates its data, its handler, the type of its reply; see ``Plugin``."""

    type: str
    validator: Validator
    handler: Handler
    description: str
    reply: str
    pipelined: bool = False


class RoomType(NamedTuple):
    """A declared room type. ``rule`` None is the built-in rule, which ``ROOM_ACCESS`` chooses."""

    type: str
    rule: Rule | None
    description: str


class MountedRoute(NamedTuple):
    """An HTTP route of a plugin, served at ``/plugins/<plugin name><path>``."""

    method: str
    path: str
    handler: Route


class Plugin:
    """The declarations of one plugin.

    ``name`` is a word of lower-case letters, digits and underscores; it names the plugin in ``roomcast plugins``, in
    error messages and in the paths of its routes. Without a ``description``, the first line of the docstring of the
    module that its entry point names is taken. A declaration that cannot work raises ``PluginError`` at once.
    """

    def __init__(self, name: str, description: str = "") -> None:
        if not _ROOM_TYPE.match(name):
            raise PluginError(f"a plugin's name is a word like 'deploy', not {name!r}")
        self.name = name
        self.description = description
        self.events: dict[str, EventType] = {}
        self.commands: dict[str, Command] = {}
        self.rooms: dict[str, RoomType] = {}
        self.routes: list[MountedRoute] = []
        self.lifespans: list[Lifespan] = []

    def event(self, type: str, *, rooms: tuple[str, ...] = (), published_by_core: bool = False) -> Callable[[_S], _S]:
        """Declare the decorated marshmallow ``Schema`` as the data of events of ``type``.

        ``rooms`` limits the room types such an event may be published to; none given is any.
        """
        self._claim("event", self.events, type, _TYPE)
        if isinstance(rooms, str) or not all(map(_ROOM_TYPE.match, rooms)):
            raise PluginError(f"event {type!r} goes to room types like ('environment',), not to {rooms!r}")

        def declare(schema: _S) -> _S:
            validator = self._validator(f"event {type}", schema)
            self.events[type] = EventType(type, validator, _description(schema), rooms, published_by_core)
            return schema

        return declare

    def command(
        self, type: str, schema: SchemaClass, *, reply: str = "reply", pipelined: bool = False
    ) -> Callable[[_H], _H]:
        """Declare the decorated ``async def handler(ctx, data)`` as what happens on a client's message of ``type``.

        ``schema`` validates ``data`` before the handler sees it. The dict that the handler returns is the data of a
        frame of type ``reply``, sent if the request had an ``id``; nothing returned is an empty one.

        A client's commands are carried out one after the other. One that is ``pipelined`` lets the next begin as soon
        as it waits: for handlers that publish once and wait for nothing before that. What they publish keeps its order,
        and a client need not wait for the broker to answer each before the next is taken.
        """
        self._claim("command", self.commands, type, _TYPE)

        def declare(handler: _H) -> _H:
            if not _is_async(handler):
                raise PluginError(f"the handler of command {type!r} must be an `async def` function")
            validator = self._validator(f"command {type}", schema)
            self.commands[type] = Command(type, validator, handler, _description(handler), reply, pipelined)
            return handler

        return declare

    def room(self, type: str, *, description: str = "") -> Callable[[_R], _R]:
        """Declare a room type; the decorated ``async def rule(ctx, entity_id) -> bool`` says who may join.

        Without a decorated function the built-in rule applies: ``plugin.room("environment")`` alone is a declaration.
        """
        self._claim("room type", self.rooms, type, _ROOM_TYPE)
        self.rooms[type] = RoomType(type, None, description)

        def declare(rule: _R) -> _R:
            if not _is_async(rule):
                raise PluginError(f"the rule of room type {type!r} must be an `async def` function")
            self.rooms[type] = RoomType(type, rule, description or _description(rule))
            return rule

        return declare

    def lifespan(self, function: Callable[[Service], AsyncIterator[None]]) -> Callable[[Service], AsyncIterator[None]]:
        """Run the decorated ``async def f(service): ...; yield; ...`` around the gateway's life."""
        if not inspect.isasyncgenfunction(function):
            raise PluginError(f"the lifespan of plugin {self.name!r} must be an `async def` function with one yield")
        self.lifespans.append(asynccontextmanager(function))
        return function

    def route(self, method: str, path: str) -> Callable[[_T], _T]:
        """Serve the decorated ``async def handler(service, request)`` at ``/plugins/<name><path>``.

        The route is open to anyone who reaches the server; a handler that needs a token checks for one itself. What it
        raises is answered as by the HTTP API, in JSON: ``Refused`` with status 422, and what it did not mean with 500.
        """
        if method not in _METHODS or not path.startswith("/"):
            methods = ", ".join(_METHODS)
            raise PluginError(f"route {method} {path!r}: the method must be one of {methods}, the path begin with /")
        if any((route.method, route.path) == (method, path) for route in self.routes):
            raise PluginError(f"plugin {self.name!r} declares route {method} {path!r} twice")

        def declare(handler: _T) -> _T:
            if not _is_async(handler):
                raise PluginError(f"the handler of route {method} {path!r} must be an `async def` function")
            self.routes.append(MountedRoute(method, path, handler))
            return handler

        return declare

    def _claim(self, kind: str, taken: dict[str, Any], type: str, form: re.Pattern[str]) -> None:
        if not isinstance(type, str):
            raise PluginError(f'{kind} {type!r} of plugin {self.name!r} is no name; say @{self.name}.…("its_name")')
        if not form.match(type):
            words = "a lower-case word" if form is _ROOM_TYPE else "a lower-case word, or some joined by dots"
            raise PluginError(f"{kind} {type!r} of plugin {self.name!r} must be {words}")
        if type in taken:
            raise PluginError(f"plugin {self.name!r} declares {kind} {type!r} twice")

    def _validator(self, owner: str, schema: Any) -> Validator:
        try:
            return Validator(schema)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{owner} of plugin {self.name!r}: {error}") from error

    def __repr__(self) -> str:
        return f"Plugin({self.name!r})"


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function)


def _description(declared: Any) -> str:
    """The docstring that is its own; marshmallow's is not."""
    own = declared.__dict__.get("__doc__") if isinstance(declared, type) else declared.__doc__
    return inspect.cleandoc(own) if own else ""
