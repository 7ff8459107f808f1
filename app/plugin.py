"""The declarations of a plugin: event types, commands, room types, lifespans, routes and hooks.

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

import inspect
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from .declarations import (
    Access,
    Command,
    EventType,
    Handler,
    Lifespan,
    MountedRoute,
    PlainHandler,
    PlainRule,
    RoomType,
    Rule,
    SchemaClass,
    description_of,
)
from .errors import PluginError
from .live_event import LiveOptions, check_options
from .plugin_functions import NO_FUNCTION, may_be_bool
from .plugin_hooks import Hook, HookDeclarations
from .plugin_requirement import check_requirement
from .plugin_routes import RouteDeclarations
from .plugin_schedule import PeriodicFunction, ScheduleDeclarations
from .plugin_settings import declared_settings
from .room_options import RoomOptions, check_declared
from .schemas.validator import Validator

if TYPE_CHECKING:
    from .service import Service

_S = TypeVar("_S", bound=SchemaClass)
_H = TypeVar("_H", bound=Handler | PlainHandler)
_R = TypeVar("_R", bound=Rule | PlainRule)

_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\Z")
_ROOM_TYPE = re.compile(r"[a-z][a-z0-9_]*\Z")


class Plugin(HookDeclarations, RouteDeclarations, ScheduleDeclarations):
    """The declarations of one plugin.

    Args:
        name: Lower-case letters, digits and underscores, starting with a letter. It identifies the plugin in
            ``roomcast plugins``, in error messages, and in the paths of its routes.
        description: One line for ``roomcast plugins``. The default is the first line of the docstring of the module
            that the entry point names.
        requires: The versions of roomcast that the plugin works with, such as ``roomcast>=0.2,<1``.
        settings: A dataclass with the settings of the plugin; see ``roomcast.setting``. ``service.settings`` and
            ``ctx.settings`` have an instance with the values of the variables, such as ``DEPLOY_RETRIES``.

    Raises:
        PluginError: Here and in all methods, at once, if a declaration cannot work: a malformed or repeated name, a
            class that is not a marshmallow ``Schema``, or a function that cannot be called as roomcast calls it.

    Handlers of commands, rules, routes and hooks may be coroutine functions, which run on the event loop, or plain
    functions, which run in a thread (see ``Service.in_thread``). ``plugin_hooks`` has the methods for hooks.
    """

    def __init__(
        self, name: str, description: str = "", *, requires: str | None = None, settings: type | None = None
    ) -> None:
        if not _ROOM_TYPE.match(name):
            raise PluginError(f"a plugin's name is a word like 'deploy', not {name!r}")
        if requires is not None:
            check_requirement(name, requires)
        self.name = name
        self.description = description
        self.settings = None if settings is None else declared_settings(name, settings)
        self.events: dict[str, EventType] = {}
        self.commands: dict[str, Command] = {}
        self.rooms: dict[str, RoomType] = {}
        self.routes: list[MountedRoute] = []
        self.lifespans: list[Lifespan] = []
        self.hooks: list[Hook] = []
        self.periodic: list[PeriodicFunction] = []
        self.conditions: dict[Callable[..., Any], Callable[[Any], bool]] = {}

    def event(
        self,
        type: str,
        *,
        rooms: tuple[str, ...] = (),
        unread: bool = False,
        stored: bool = True,
        conflate: bool = False,
        throttle: float = 0.0,
        leave: Mapping[str, Any] | None = None,
        others_only: bool = False,
        published_by_core: bool = False,
    ) -> Callable[[_S], _S]:
        """Declare an event; decorates the marshmallow ``Schema`` of its data.

        Publish it with ``ctx.publish(TheSchema, data)`` or ``service.publish(TheSchema, room, data)``; backends publish
        it over HTTP by its type. All of them validate the data. The docstring of the schema is the description of the
        event in ``/docs``.

        Args:
            type: Lower-case words of letters, digits and underscores, joined by dots: ``deploy.finished``. No other
                plugin may declare the same event type.
            rooms: The types of rooms in which the event may be published, such as ``("environment",)``. Empty means
                any. With ``("user",)`` the event is only for users' personal rooms, like a notification.
            unread: True if the event is a message that users read. Each room counts those after the mark that a user
                sets with ``mark_read``, for ``joined_room``. Leave it False for events that change or accompany
                messages.
            stored: If False, the event is live only: it has no id, is not stored, and reaches the connections that can
                take it at this moment. Send it with ``broadcast`` instead of ``publish``. The other options are for
                such events only.
            conflate: If True, an event that still waits to be written is replaced by a newer one of the same user in
                the same room.
            throttle: At most one event of each user, in each room, is sent in this time, in seconds, up to 60. The
                newest one is sent at the end of it. Each node counts for itself.
            leave: Fields of the data, such as ``{"typing": False}``. When a user leaves the room and the last event of
                the user has other values, it is sent again with these. Only for events that a member sends with
                ``ctx.broadcast``; the user leaves when the last connection to the node leaves.
            others_only: If True, the connections of the user who caused the event do not receive it.
            published_by_core: For events of roomcast itself.
        """
        self._check_type("event", self.events, type, _TYPE)
        if unread and not stored:
            raise PluginError(f"event {type!r} of plugin {self.name!r} is not stored, so it cannot count as unread")
        if isinstance(rooms, str) or not all(map(_ROOM_TYPE.match, rooms)):
            raise PluginError(f"event {type!r} goes to room types like ('environment',), not to {rooms!r}")

        def declare(schema: _S) -> _S:
            validator = self._validator(f"event {type}", schema)
            options = LiveOptions(conflate, throttle, leave, others_only)
            live = check_options(f"event {type!r} of plugin {self.name!r}", validator, options, stored=stored)
            self.events[type] = EventType(
                type, validator, description_of(schema), rooms, published_by_core, live, unread
            )
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
            description = description_of(handler)
            self.commands[type] = Command(type, validator, function, description, reply, pipelined, access)
            return handler

        return declare

    def room(
        self,
        type: str,
        *,
        description: str = "",
        history_size: int | None = None,
        history_ttl: float | None = None,
        presence: bool | None = None,
        announce_max: int | None = None,
        commands: tuple[str, ...] | None = None,
    ) -> Callable[[_R], _R]:
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
            history_size: How many events such a room keeps, by default ``HISTORY_SIZE``. With 0, it keeps none.
            history_ttl: How long such a room keeps an event, in seconds, by default ``HISTORY_TTL``.
            presence: False for rooms in which no joins and leaves are announced, and that have no list of members.
            announce_max: Above how many users joins are not announced, by default ``ANNOUNCE_MAX``.
            commands: The commands of plugins that clients may send in such a room, as names or as patterns like
                ``poll.*``. Other commands are refused with ``bad_room``. By default all are allowed.

        Operators override the options with variables such as ``ROOM_ENVIRONMENT_HISTORY_SIZE``.
        """
        self._check_type("room type", self.rooms, type, _ROOM_TYPE)
        options = RoomOptions(history_size, history_ttl, presence, announce_max, commands)
        if problem := check_declared(type, options):
            raise PluginError(f"room type {type!r} of plugin {self.name!r}: {problem}")
        self.rooms[type] = RoomType(type, None, description, options)

        def declare(rule: _R) -> _R:
            function = self._async_function(f"the rule of room type {type!r}", rule, "ctx", "entity_id")
            returns = inspect.signature(rule).return_annotation
            if returns is not inspect.Signature.empty and not may_be_bool(returns):
                shown = inspect.formatannotation(returns)
                raise PluginError(f"the rule of room type {type!r} returns {shown}; it must return True or False")
            self.rooms[type] = RoomType(type, function, description or description_of(rule), options)
            return rule

        return declare

    def lifespan(
        self, function: Callable[[Service], AsyncIterator[None]] = NO_FUNCTION
    ) -> Callable[[Service], AsyncIterator[None]]:
        """Decorate ``async def lifespan(service: Service)`` with one ``yield``.

        The code before ``yield`` runs before the server accepts connections; if it raises, the server does not start.
        The code after ``yield`` runs at shutdown, when all connections are closed. With several workers, each process
        runs the lifespan. A plugin may have several; they end in reverse order.
        """
        self._check_given(function, "lifespan")
        if not inspect.isasyncgenfunction(function):
            raise PluginError(f"the lifespan of plugin {self.name!r} must be an `async def` function with one yield")
        self._check_signature(f"the lifespan {function.__name__!r}", function, "service")
        self.lifespans.append(asynccontextmanager(function))
        return function

    def _check_type(self, kind: str, declared: dict[str, Any], type: str, pattern: re.Pattern[str]) -> None:
        if not isinstance(type, str):
            article = "an" if kind == "event" else "a"
            usage = f'@{self.name}.{kind.removesuffix(" type")}("its_name")'
            raise PluginError(f"plugin {self.name!r} declares {article} {kind} without a name; write {usage}")
        if not pattern.match(type):
            words = "a word" if pattern is _ROOM_TYPE else f"a word, or words joined by dots such as {self.name}.done,"
            raise PluginError(f"{kind} {type!r} of plugin {self.name!r} must be {words} in lower case")
        if type in declared:
            raise PluginError(f"plugin {self.name!r} declares {kind} {type!r} twice")

    def _validator(self, owner: str, schema: Any) -> Validator:
        try:
            return Validator(schema)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{owner} of plugin {self.name!r}: {error}") from error

    def __repr__(self) -> str:
        return f"Plugin({self.name!r})"
