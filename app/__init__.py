"""roomcast: a real-time WebSocket gateway with rooms, presence, history and resume, and event types from plugins.

This module is the API for plugins; import nothing else from roomcast except ``roomcast.testing``::

    from roomcast import Context, Plugin, Refused

``Plugin`` collects the declarations of a plugin, ``setting`` declares one of its settings. Handlers receive a
``Context``, lifespans and routes a ``Service``.
``Refused`` refuses a request, ``Unavailable`` states that it cannot be carried out now, ``AuthenticationFailed`` in a
route is a 401; ``RoomcastError`` is the base class of all errors. ``docs/plugins.md`` is the guide.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .broker.base import BrokerMetric as Metric
    from .broker.queue import Queue, QueueEntry, QueueInfo
    from .context import Context
    from .errors import AuthenticationFailed, Refused, RoomcastError, Unavailable
    from .member_context import MemberContext
    from .plugin import Plugin
    from .plugin_settings import setting
    from .protocol.user_id import personal_room, user_of_room
    from .route_user import User
    from .service import Service

    __version__: str

__all__ = [
    "AuthenticationFailed",
    "Context",
    "MemberContext",
    "Metric",
    "Plugin",
    "Queue",
    "QueueEntry",
    "QueueInfo",
    "Refused",
    "RoomcastError",
    "Service",
    "Unavailable",
    "User",
    "__version__",
    "personal_room",
    "setting",
    "user_of_room",
]

#: The module of each name, and its name there. Importing them takes a second, because they import aiohttp and redis,
#: and commands that do not need them import this package too.
_MODULES: Final = {
    "AuthenticationFailed": ("errors", "AuthenticationFailed"),
    "Context": ("context", "Context"),
    "MemberContext": ("member_context", "MemberContext"),
    "Metric": ("broker.base", "BrokerMetric"),
    "Plugin": ("plugin", "Plugin"),
    "Queue": ("broker.queue", "Queue"),
    "QueueEntry": ("broker.queue", "QueueEntry"),
    "QueueInfo": ("broker.queue", "QueueInfo"),
    "Refused": ("errors", "Refused"),
    "RoomcastError": ("errors", "RoomcastError"),
    "Service": ("service", "Service"),
    "Unavailable": ("errors", "Unavailable"),
    "User": ("route_user", "User"),
    "personal_room": ("protocol.user_id", "personal_room"),
    "setting": ("plugin_settings", "setting"),
    "user_of_room": ("protocol.user_id", "user_of_room"),
}


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a name of ``__all__`` when it is first used."""
        if name == "__version__":
            value: Any = version("roomcast")
        elif name in _MODULES:
            module, attribute = _MODULES[name]
            value = getattr(import_module(f".{module}", __name__), attribute)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the names, also those that were not imported yet."""
    return sorted({*globals(), *__all__})
