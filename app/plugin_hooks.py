"""The hooks that a plugin declares: functions that roomcast calls when something happens, or before it happens.

::

    @polls.before_publish("message")
    async def check_words(service: Service, event: dict[str, Any]) -> dict[str, Any] | None:
        return {**event["data"], "message": hide_bad_words(event["data"]["message"])}

A hook belongs to the plugin that declares it. Its command, event or room type may belong to another plugin. Only
``Registry`` can check that one declares it. ``gateway.hooks`` calls the functions, in the order of ``Hook.sort_key``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, TypeVar

from .errors import PluginError
from .plugin_functions import NO_FUNCTION, FunctionChecks, called_function

HookKind = Literal[
    "on_connect",
    "on_disconnect",
    "on_join",
    "on_leave",
    "on_online",
    "on_offline",
    "before_command",
    "before_publish",
    "after_publish",
]
#: The parameters of the function of each kind, and what its target is: the type of a command, of an event or of rooms.
#: The order is that of ``roomcast plugins``.
KINDS: Final[dict[HookKind, tuple[tuple[str, ...], str]]] = {
    "on_connect": (("ctx",), ""),
    "on_disconnect": (("ctx",), ""),
    "on_join": (("ctx",), "room type"),
    "on_leave": (("ctx",), "room type"),
    "on_online": (("service", "user_id"), ""),
    "on_offline": (("service", "user_id"), ""),
    "before_command": (("ctx", "data"), "command"),
    "before_publish": (("service", "event"), "event"),
    "after_publish": (("service", "event"), "event"),
}

#: The target of hooks for all stored events, or for all room types with presence.
ANY: Final = "*"

_F = TypeVar("_F", bound=Callable[..., Any])


class Hook(NamedTuple):
    """A declared hook. ``target`` is the type of its command, event or rooms, or "". ``name`` is that of its function.

    Hooks of one kind and target run by their ``order``; those with the same one in the order in which the plugins are
    loaded, and in which a plugin declares them.
    """

    kind: HookKind
    target: str
    function: Callable[..., Awaitable[Any]]
    name: str
    plugin: str
    order: int = 0
    #: Says if the hook is called, given the settings of the plugin; None means always.
    condition: Callable[[Any], bool] | None = None

    def __str__(self) -> str:
        target = f" of {KINDS[self.kind][1]} {self.target}" if self.target else ""
        return f"hook {self.name} ({self.kind}{target}) of plugin {self.plugin!r}"


class HookDeclarations(FunctionChecks):
    """The methods of ``Plugin`` that declare hooks.

    All functions may be coroutine functions, which run on the event loop, or plain functions, which run in a thread.
    All of them are cancelled after ``HANDLER_TIMEOUT`` seconds. The log and the metrics name hooks that fail. A failure
    of an ``on_…`` or ``after_…`` hook concerns nothing else. If a ``before_…`` hook fails, what it was asked about does
    not happen: the client gets ``unavailable``.
    """

    hooks: list[Hook]
    conditions: dict[Callable[..., Any], Callable[[Any], bool]]

    def only_if(self, condition: Callable[[Any], bool]) -> Callable[[_F], _F]:
        """Decorate the function of a hook, below the decorator of the hook: call it only if ``condition`` is true.

        ``condition`` receives the settings of the plugin, once at the start. A hook that is not called costs nothing.
        """

        def mark(function: _F) -> _F:
            self.conditions[function] = condition
            return function

        return mark

    def on_connect(self, function: _F = NO_FUNCTION) -> _F:
        """Decorate ``async def f(ctx: Context)``, called on the node of each new connection, after its welcome.

        ``ctx`` has no room. The client does not wait for the hook.
        """
        return self._declare("on_connect", "", 0, function)

    def on_disconnect(self, function: _F = NO_FUNCTION) -> _F:
        """Decorate ``async def f(ctx: Context)``, called on the node of each connection that has ended.

        It is called after the ``on_connect`` of this connection. It is not called if the node is killed; use
        ``on_offline`` for what must not be missed.
        """
        return self._declare("on_disconnect", "", 0, function)

    def on_join(self, room_type: str) -> Callable[[_F], _F]:
        """Decorate ``async def f(ctx: MemberContext)``, called once in the cluster when a user joins a room.

        It is called for the user's first connection in the room, also above ``ANNOUNCE_MAX``. A return within
        ``PRESENCE_GRACE`` is no join. Rooms of this type must have presence. ``"*"`` means all types that have it.
        """
        return self._decorator("on_join", room_type)

    def on_leave(self, room_type: str) -> Callable[[_F], _F]:
        """Decorate ``async def f(ctx: MemberContext)``, called once in the cluster when a user has left a room.

        If the connection was lost, that is after ``PRESENCE_GRACE``, unless the user returns. If the user's node was
        killed, another node calls it.
        """
        return self._decorator("on_leave", room_type)

    def on_online(self, function: _F = NO_FUNCTION) -> _F:
        """Decorate ``async def f(service: Service, user_id: int | str)``, called when a user comes online.

        It is called once in the cluster, for the user's first connection on all nodes.
        """
        return self._declare("on_online", "", 0, function)

    def on_offline(self, function: _F = NO_FUNCTION) -> _F:
        """Decorate ``async def f(service: Service, user_id: int | str)``, called when a user has become offline.

        It is called once in the cluster, ``PRESENCE_GRACE`` after the user's last connection has ended, unless the user
        returns. If the user's node was killed, another node calls it.
        """
        return self._declare("on_offline", "", 0, function)

    def before_command(self, command: str, *, order: int = 0) -> Callable[[_F], _F]:
        """Decorate ``async def f(ctx: Context, data: dict) -> dict | None``, called before the handler of ``command``.

        The sender may use the command, and ``data`` is valid. A dict that the function returns replaces the data and is
        validated like data of the client; None changes nothing. ``Refused`` refuses the command. If the request has a
        ``key`` and is repeated, neither the hooks nor the handler run again.

        Args:
            command: The type of a command of any plugin.
            order: Hooks with a lower order run first, also those of other plugins. Each gets the data of the previous.
        """
        return self._decorator("before_command", command, order)

    def before_publish(self, event: str, *, order: int = 0) -> Callable[[_F], _F]:
        """Decorate ``async def f(service: Service, event: dict) -> dict | None``, called before an event is published.

        It is called for all sources: ``ctx.publish``, ``service.publish``, ``service.notify`` and the HTTP API.
        ``event`` has ``type``, ``room``, the valid ``data``, ``sender``, ``user_id`` and ``source``, which is
        ``"client"``, ``"plugin"`` or ``"api"``. A dict that the function returns replaces the data and is validated
        again; None changes nothing. ``Refused`` refuses the event; of a list of events, none is published then.

        Args:
            event: The type of a stored event of any plugin.
            order: See ``before_command``.
        """
        return self._decorator("before_publish", event, order)

    def after_publish(self, event: str) -> Callable[[_F], _F]:
        """Decorate ``async def f(service: Service, event: dict)``, called after an event was published.

        ``event`` is the frame that clients receive, with ``id``, and with ``room`` also in personal rooms. The function
        is called at least once for each event: again if its node was killed before the function has returned. The
        publisher does not wait for it.

        Args:
            event: The type of a stored event of any plugin, or ``"*"`` for all of them.
        """
        return self._decorator("after_publish", event)

    def _decorator(self, kind: HookKind, target: str, order: int = 0) -> Callable[[_F], _F]:
        if not isinstance(target, str):
            what = KINDS[kind][1]
            article = "an" if what == "event" else "a"
            raise PluginError(f'{kind} needs the name of {article} {what}; write @{self.name}.{kind}("its_name")')
        if type(order) is not int:
            raise PluginError(f"the order of a {kind} hook of plugin {self.name!r} must be an integer, not {order!r}")
        return lambda function: self._declare(kind, target, order, function)

    def _declare(self, kind: HookKind, target: str, order: int, function: _F) -> _F:
        self._check_given(function, kind)
        parameters, what = KINDS[kind]
        where = f"the {kind} hook of {what} {target!r}" if target else f"the {kind} hook"
        called = self._async_function(where, function, *parameters)
        condition = self.conditions.get(function)
        self.hooks.append(Hook(kind, target, called, _name(function), self.name, order, condition))
        return function


def _name(function: Any) -> str:
    """Return the name of a function, which a decorator, a ``partial`` or an object may hide."""
    inner = inspect.unwrap(function)
    name = getattr(inner, "__name__", None) or getattr(called_function(inner), "__name__", None)
    return name if isinstance(name, str) and name != "__call__" else type(inner).__name__
