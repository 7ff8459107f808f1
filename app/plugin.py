"""The declarations of a plugin: event types, commands, room types, lifespans and routes.

Create one ``Plugin`` in a module, decorate schemas and functions with its methods, and name it in an entry point of the
group ``roomcast.plugins``::

    deploy = Plugin("deploy")

    @deploy.event("deploy.finished")
    class Finished(Schema):
        \"\"\"A version is live.\"\"\"

        version = fields.String(required=True)

    @deploy.command("deploy.rollback", Finished)
    async def roll_back(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        \"\"\"Go back to an earlier version.\"\"\"
        return {"event_id": await ctx.publish(Finished, data)}

A declaration is only checked and stored. ``registry`` loads the plugins of all installed packages, and the gateway
calls their functions. ``docs/plugins.md`` is the guide.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

from marshmallow import Schema

from .errors import PluginError
from .schemas.validator import Validator

if TYPE_CHECKING:
    from aiohttp.web import Request, StreamResponse

    from .context import Context, Service

SchemaClass = type[Schema]
#: Who may use a command: members of the room that the request names, or any connected user.
Access = Literal["member", "anyone"]
#: Handles a command: receives the request's context and its validated data, returns the data of the reply.
Handler = Callable[["Context", dict[str, Any]], Awaitable["dict[str, Any] | None"]]
PlainHandler = Callable[["Context", dict[str, Any]], "dict[str, Any] | None"]
#: Decides about a join: receives the request's context and the id of the room without its type.
Rule = Callable[["Context", str], Awaitable[bool]]
PlainRule = Callable[["Context", str], bool]
Lifespan = Callable[["Service"], AbstractAsyncContextManager[None]]
#: Handles an HTTP request.
Route = Callable[["Service", "Request"], Awaitable["StreamResponse"]]
PlainRoute = Callable[["Service", "Request"], "StreamResponse"]

_S = TypeVar("_S", bound=SchemaClass)
_H = TypeVar("_H", bound=Handler | PlainHandler)
_R = TypeVar("_R", bound=Rule | PlainRule)
_T = TypeVar("_T", bound=Route | PlainRoute)

_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\Z")
_ROOM_TYPE = re.compile(r"[a-z][a-z0-9_]*\Z")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class EventType(NamedTuple):
    """A declared event.

    ``rooms`` are the types of rooms in which it may be published; empty means any. If ``published_by_core`` is True,
    only roomcast itself sends it. Such events have no id and are not stored.
    """

    type: str
    validator: Validator
    description: str
    rooms: tuple[str, ...] = ()
    published_by_core: bool = False


class Command(NamedTuple):
    """A declared command. ``reply`` is the type of the reply; ``Plugin.command`` explains the other fields."""

    type: str
    validator: Validator
    handler: Handler
    description: str
    reply: str
    pipelined: bool = False
    access: Access = "member"


class RoomType(NamedTuple):
    """A declared room type. If ``rule`` is None, the built-in rule decides, which ``ROOM_ACCESS`` selects."""

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

    Args:
        name: Lower-case letters, digits and underscores, starting with a letter. It identifies the plugin in
            ``roomcast plugins``, in error messages, and in the paths of its routes.
        description: One line for ``roomcast plugins``. The default is the first line of the docstring of the module
            that the entry point names.

    Raises:
        PluginError: Here and in all methods, at once, if a declaration cannot work: a malformed or repeated name, a
            class that is not a marshmallow ``Schema``, or a function that cannot be called as roomcast calls it.

    Handlers of commands, rules and routes may be coroutine functions, which run on the event loop, or plain functions,
    which run in a thread (see ``Service.in_thread``).
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
        """Declare an event; decorates the marshmallow ``Schema`` of its data.

        Publish it with ``ctx.publish(TheSchema, data)`` or ``service.publish(TheSchema, room, data)``; backends publish
        it over HTTP by its type. All of them validate the data. The docstring of the schema is the description of the
        event in ``/docs``.

        Args:
            type: Lower-case words of letters, digits and underscores, joined by dots: ``deploy.finished``. No other
                plugin may declare the same event type.
            rooms: The types of rooms in which the event may be published, such as ``("environment",)``. Empty means
                any. With ``("user",)`` the event is only for users' personal rooms, like a notification.
            published_by_core: For events of roomcast itself.
        """
        self._check_type("event", self.events, type, _TYPE)
        if isinstance(rooms, str) or not all(map(_ROOM_TYPE.match, rooms)):
            raise PluginError(f"event {type!r} goes to room types like ('environment',), not to {rooms!r}")

        def declare(schema: _S) -> _S:
            validator = self._validator(f"event {type}", schema)
            self.events[type] = EventType(type, validator, _description(schema), rooms, published_by_core)
            return schema

        return declare

    def command(
        self,
        type: str,
        schema: SchemaClass,
        *,
        access: Access = "member",
        reply: str = "reply",
        pipelined: bool = False,
    ) -> Callable[[_H], _H]:
        """Declare a command; decorates its handler, ``async def handler(ctx: Context, data: dict)``.

        A plain ``def`` handler runs in a thread.

        The handler receives the validated data. The dict that it returns is the data of the reply; None means ``{}``.
        The reply is sent only if the request has an ``id``. If the request has a ``key`` and is repeated, the handler
        does not run again, and the client gets the first reply. The docstring is the description in ``/docs``.

        The sender must be in the room of the request, unless ``access`` is ``"anyone"``. Raise ``Refused`` to send an
        ``error`` frame instead of a reply. An unexpected exception is logged, and the client gets the error
        ``internal``. After ``HANDLER_TIMEOUT`` seconds the handler is cancelled, and the client gets ``timeout``.

        Args:
            type: Lower-case words of letters, digits and underscores, joined by dots: ``deploy.rollback``. No other
                plugin may declare the same command.
            schema: The marshmallow ``Schema`` of the data. A request without data is validated as ``{}``. Invalid
                data is refused with ``invalid_data`` and does not reach the handler.
            access: Who may use the command. With ``"member"``, the request must name a room, and the connection that
                sends it must be in this room when the handler is called; otherwise the client gets ``bad_room`` or
                ``not_joined``. With ``"anyone"``, every connected user may use the command, in any room and without
                one, and the handler decides: ``ctx.in_room`` is True if the sender is in the room.
            reply: The type of the reply.
            pipelined: By default, the client's next command starts when this one has finished. If True, it starts as
                soon as this one waits. This is correct for handlers that publish once and wait for nothing before that:
                their events keep the order of the commands, without a broker round trip between two commands. Not
                for plain ``def`` handlers, whose threads have no order.
        """
        self._check_type("command", self.commands, type, _TYPE)
        if access not in get_args(Access):
            allowed = " or ".join(map(repr, get_args(Access)))
            raise PluginError(f"command {type!r} of plugin {self.name!r} has access {access!r}; it must be {allowed}")

        def declare(handler: _H) -> _H:
            function = self._async_function(f"the handler of command {type!r}", handler, "ctx", "data")
            if pipelined and function is not handler:
                raise PluginError(
                    f"command {type!r} of plugin {self.name!r} is pipelined, so its handler must be an `async def` "
                    "function: plain functions run in threads and could overtake each other"
                )
            validator = self._validator(f"command {type}", schema)
            description = _description(handler)
            self.commands[type] = Command(type, validator, function, description, reply, pipelined, access)
            return handler

        return declare

    def room(self, type: str, *, description: str = "") -> Callable[[_R], _R]:
        """Declare a room type; may decorate its rule, ``async def rule(ctx: Context, entity_id: str) -> bool``.

        A plain ``def`` rule runs in a thread.

        The rule decides about each join. ``entity_id`` is the room without its type: ``prod`` for ``environment:prod``.
        True allows the join; False and None refuse it with ``forbidden``, as does ``Refused("forbidden", sentence)``.
        A member that the rule refuses leaves the room. If the rule returns anything else, raises
        ``Unavailable`` or an unexpected exception, or takes more than ``HANDLER_TIMEOUT`` seconds, the client does not
        join either, but gets ``unavailable`` and may try again. When a client sends a new token, the rule is called
        again for each of its rooms of this type.

        ``plugin.room("environment")`` alone is a complete declaration. Then the setting ``ROOM_ACCESS`` decides.

        Args:
            type: A lower-case word of letters, digits and underscores: the part of a room's name before the colon.
                No other plugin may declare the same room type.
            description: For ``/docs``. The default is the docstring of the rule.
        """
        self._check_type("room type", self.rooms, type, _ROOM_TYPE)
        self.rooms[type] = RoomType(type, None, description)

        def declare(rule: _R) -> _R:
            function = self._async_function(f"the rule of room type {type!r}", rule, "ctx", "entity_id")
            returns = inspect.signature(rule).return_annotation
            if returns is not inspect.Signature.empty and not _may_be_bool(returns):
                shown = inspect.formatannotation(returns)
                raise PluginError(f"the rule of room type {type!r} returns {shown}; it must return True or False")
            self.rooms[type] = RoomType(type, function, description or _description(rule))
            return rule

        return declare

    def lifespan(self, function: Callable[[Service], AsyncIterator[None]]) -> Callable[[Service], AsyncIterator[None]]:
        """Decorate ``async def lifespan(service: Service)`` with one ``yield``.

        The code before ``yield`` runs before the server accepts connections; if it raises, the server does not start.
        The code after ``yield`` runs at shutdown, when all connections are closed. With several workers, each process
        runs the lifespan. A plugin may have several; they end in reverse order.
        """
        if not inspect.isasyncgenfunction(function):
            raise PluginError(f"the lifespan of plugin {self.name!r} must be an `async def` function with one yield")
        self._check_signature(f"the lifespan {function.__name__!r}", function, "service")
        self.lifespans.append(asynccontextmanager(function))
        return function

    def route(self, method: str, path: str) -> Callable[[_T], _T]:
        """Declare an HTTP route; decorates ``async def handler(service: Service, request: aiohttp.web.Request)``.

        A plain ``def`` handler runs in a thread.

        The route is ``/plugins/<plugin name><path>``. It is public: a handler that needs authentication checks it
        itself. Exceptions become JSON as in the HTTP API: ``Refused`` has status 422, unexpected exceptions have 500.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: A path that begins with ``/``. It may contain aiohttp's variables, as in ``/live/{environment}``.
        """
        if method not in _METHODS or not path.startswith("/"):
            methods = ", ".join(_METHODS)
            raise PluginError(f"route {method} {path!r}: the method must be one of {methods}, the path begin with /")
        if any((route.method, route.path) == (method, path) for route in self.routes):
            raise PluginError(f"plugin {self.name!r} declares route {method} {path!r} twice")

        def declare(handler: _T) -> _T:
            what = f"the handler of route {method} {path!r}"
            self.routes.append(MountedRoute(method, path, self._async_function(what, handler, "service", "request")))
            return handler

        return declare

    def _check_type(self, kind: str, declared: dict[str, Any], type: str, pattern: re.Pattern[str]) -> None:
        if not isinstance(type, str):
            raise PluginError(f'{kind} {type!r} of plugin {self.name!r} is no name; say @{self.name}.…("its_name")')
        if not pattern.match(type):
            expected = "a lower-case word" if pattern is _ROOM_TYPE else "a lower-case word, or some joined by dots"
            raise PluginError(f"{kind} {type!r} of plugin {self.name!r} must be {expected}")
        if type in declared:
            raise PluginError(f"plugin {self.name!r} declares {kind} {type!r} twice")

    def _async_function(self, what: str, function: Any, *parameters: str) -> Callable[..., Awaitable[Any]]:
        """Return ``function``, or a coroutine function that runs it in a thread if it is a plain one.

        Raises ``PluginError`` if it is of another kind, or cannot be called with one argument for each of
        ``parameters``.
        """
        called = called_function(function)
        is_generator = inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called)
        if is_generator or isinstance(function, type) or not callable(function):
            raise PluginError(f"{what} must be an `async def` or a plain `def` function, without yield")
        self._check_signature(what, function, *parameters)
        return function if inspect.iscoroutinefunction(called) else _run_in_thread(function)

    def _check_signature(self, what: str, function: Any, *parameters: str) -> None:
        """Raise ``PluginError`` unless ``function`` can be called with one argument for each of ``parameters``."""
        signature = inspect.signature(function)
        try:
            signature.bind(*parameters)
        except TypeError:
            name, expected = getattr(function, "__name__", "handler"), ", ".join(parameters)
            sentence = f"{what} of plugin {self.name!r} is called as {name}({expected}), but is {name}{signature}"
            raise PluginError(sentence) from None

    def _validator(self, owner: str, schema: Any) -> Validator:
        try:
            return Validator(schema)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{owner} of plugin {self.name!r}: {error}") from error

    def __repr__(self) -> str:
        return f"Plugin({self.name!r})"


def called_function(function: Any) -> Any:
    """Return the function that a call of ``function`` runs: a ``partial`` and an object may hide it."""
    while isinstance(function, functools.partial):
        function = function.func
    is_object = not (inspect.isroutine(function) or isinstance(function, type))
    return getattr(type(function), "__call__", None) if is_object else function  # noqa: B004


def _run_in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return a coroutine function that runs ``function`` in a thread of the node."""

    @functools.wraps(function)
    async def run(service: Service, argument: Any) -> Any:
        result = await service.in_thread(function, service, argument)
        # Also if a decorator hides that the function is a coroutine function.
        return await result if inspect.isawaitable(result) else result

    return run


def _may_be_bool(annotation: Any) -> bool:
    """Return True if ``annotation``, of a return value, includes bool or a type that is not built in, such as Any."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text != "None" and re.search(r"\b(bool|object|[A-Z]\w*)\b", text) is not None


def _description(declared: Any) -> str:
    """Return the docstring of a function or a schema, but not the one that a schema inherits from marshmallow."""
    docstring = declared.__dict__.get("__doc__") if isinstance(declared, type) else declared.__doc__
    return inspect.cleandoc(docstring) if docstring else ""
