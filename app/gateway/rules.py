"""Decide whether a client may be in a room: the rule of the room's type, or the built-in one."""

from __future__ import annotations

from typing import Final

from ..auth.room_access import RoomAccess
from ..context import Context, PluginHost
from ..errors import Refused, RoomcastError
from .client import Client
from .node import Node


class JoinForbidden(RoomcastError):
    """A join that the room's rule does not allow. With ``FORBIDDEN_JOIN=close`` it ends the connection with 4403."""

    def __init__(self, room: str, message: str | None = None) -> None:
        super().__init__(room)
        self.refused: Final = Refused("forbidden", message or f"You have no access to {room}.")


class RoomRules:
    """Evaluates the rules of all room types."""

    def __init__(self, node: Node, host: PluginHost, room_access: RoomAccess) -> None:
        self._registry: Final = node.registry
        self._host: Final = host
        self._room_access: Final = room_access

    async def check(self, client: Client, room: str) -> None:
        """Raise ``JoinForbidden`` unless the rule of the room's type allows the client to join."""
        kind = self._registry.room(room)
        if kind.type == "user":
            raise JoinForbidden(room, _personal_room_sentence(room, is_own=room == client.personal_room))
        if kind.rule is not None:
            allowed = await kind.rule(Context(self._host, client, room), room[room.index(":") + 1 :])
        else:
            decided = self._room_access.decide(client.identity, room)
            allowed = decided if decided is not None else await self._room_access.allows(client.identity, room)
        if allowed is not True:
            raise JoinForbidden(room)

    def has_plugin_rule(self, room: str) -> bool:
        """Return True if a plugin's rule decides about ``room``."""
        return self._registry.room(room).rule is not None

    def claims_forbid(self, client: Client, room: str) -> bool:
        """Return True if the built-in rule refuses ``room`` without asking the URL of ``ROOM_ACCESS``."""
        return self._room_access.decide(client.identity, room) is False


def _personal_room_sentence(room: str, *, is_own: bool) -> str:
    if is_own:
        return f"You are in your own room, {room}, from the start; it cannot be joined."
    return f"{room} is another user's own room and cannot be joined. You receive your own events without a join."
