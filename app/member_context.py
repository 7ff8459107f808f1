"""The context of hooks for joins and leaves, which have a user and a room, but perhaps no connection on this node."""

from __future__ import annotations

from .plugin_host import PluginHost
from .service import Service


class MemberContext(Service):
    """A user who has joined or left a room. Hooks of ``on_join`` and ``on_leave`` receive one.

    It has the methods of ``Service``. There may be no connection of the user on this node.
    """

    __slots__ = ("room", "user_id", "username")

    def __init__(self, host: PluginHost, room: str, user_id: int | str, username: str) -> None:
        super().__init__(host)
        self.room = room
        self.user_id = user_id
        self.username = username
