"""roomcast: a real-time WebSocket gateway with rooms, presence, history and resume, and event types from plugins.

This module is the API for plugins; import nothing else from roomcast except ``roomcast.testing``::

    from roomcast import Context, Plugin, Refused

``Plugin`` collects the declarations of a plugin. Handlers receive a ``Context``, lifespans and routes a ``Service``.
``Refused`` refuses a request, ``Unavailable`` states that it cannot be carried out now, ``AuthenticationFailed`` in a
route is a 401; ``RoomcastError`` is the base class of all errors. ``docs/plugins.md`` is the guide.
"""

from importlib.metadata import version

from .context import Context, Service
from .errors import AuthenticationFailed, Refused, RoomcastError, Unavailable
from .plugin import Plugin

__version__ = version("roomcast")

__all__ = [
    "AuthenticationFailed",
    "Context",
    "Plugin",
    "Refused",
    "RoomcastError",
    "Service",
    "Unavailable",
    "__version__",
]
