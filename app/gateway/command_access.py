"""Decide whether a client may send a command of a plugin in a room."""

from __future__ import annotations

from ..declarations import Command
from ..errors import Refused
from ..protocol import messages
from .client import Client
from .delivery import Delivery


def check_access(command: Command, client: Client, room: str | None, delivery: Delivery) -> None:
    """Count the command for the type of ``room``, which the request names.

    Raises ``Refused`` if it is for members of the room and the client is not one, or if the room's type does not allow
    it.
    """
    if command.access == "member":
        if room is None:
            sentence = f"room is missing; {command.type} is for the members of a room, so name one like channel:456."
            raise Refused("bad_room", sentence)
        entry = delivery.rooms.get(room)  # inlined from Delivery.has: nearly every message passes here
        if entry is None or client not in entry.members:
            raise messages.not_joined(room)
        type = entry.type
    elif room is None:
        return
    else:
        type = delivery.types.of(room)
    if type.commands is not None and command.type not in type.commands:
        raise type.refusal(command.type, room)
    type.messages += 1
