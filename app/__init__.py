"""roomcast: a real-time WebSocket gateway with rooms, presence, history and resume, and event types from plugins.

A plugin uses only the names in this module. ``docs/plugins.md`` shows how to write one.
"""

from importlib.metadata import version

from .context import Context, Service
from .errors import Refused, RoomcastError
from .plugin import Plugin

__version__ = version("roomcast")

__all__ = ["Context", "Plugin", "Refused", "RoomcastError", "Service", "__version__"]
