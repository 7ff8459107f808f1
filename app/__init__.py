"""roomcast: a real-time WebSocket gateway with rooms, presence, history and resume, and event types from plugins.

A plugin is written against the names here; see the README's "From a plugin".
"""

from .context import Context, Service
from .errors import Refused, RoomcastError
from .plugin import Plugin

__all__ = ["Context", "Plugin", "Refused", "RoomcastError", "Service"]
