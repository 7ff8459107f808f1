"""What the receiver was told last about each user and room, compared with what is true.

The node that delivers writes the states to the queue, and all nodes keep a copy. A room is a personal room, which has
members while its user is online, or another room. A state is

- ``PRESENT``: the receiver was told that the room has members,
- ``UNKNOWN``: a request was begun, and its outcome is not known; the receiver must be told again,
- none: the receiver was told that the room has no members, or was never told anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Set
from typing import Final

PRESENT: Final = "present"
UNKNOWN: Final = "unknown"
#: The name of the state that identifies the table: another one shows that Redis has lost it.
_TABLE: Final = "!table"


class ToldStates:
    """A copy of the states."""

    def __init__(self) -> None:
        self.rooms: dict[str, str] = {}
        self._table = ""
        #: True if this node wrote the states, and has not read them since then.
        self._is_writer = False

    def load(self, stored: dict[str, str], *, is_consumer: bool) -> list[str]:
        """Replace the copy by the ``stored`` states; return the rooms whose state may be lost.

        If the table is another one, Redis has lost it, and so has every state that only this copy has. If this node
        was the consumer, every state that differs may be lost, because a replica that was promoted lacks the newest;
        or the next consumer has changed it. They are unknown. If this node ``is_consumer``, it begins a new table if
        there is none; otherwise it waits for that.
        """
        table = stored.pop(_TABLE, "")
        if not is_consumer and not table:
            return []
        lost: list[str] = []
        if self._is_writer:
            lost = [room for room in self.rooms.keys() | stored.keys() if self.rooms.get(room) != stored.get(room)]
        elif table != self._table:
            lost = [room for room in self.rooms if room not in stored]
        if is_consumer:
            stored.update(dict.fromkeys(lost, UNKNOWN))
            table = table or secrets.token_hex(8)
        self.rooms, self._table, self._is_writer = stored, table, is_consumer
        return lost

    def repairs(self, stored: dict[str, str]) -> dict[str, str | None]:
        """Return the states to write, so that ``stored`` becomes equal to this copy."""
        wanted = {**self.rooms, _TABLE: self._table}
        changed: dict[str, str | None] = {room: state for room, state in wanted.items() if stored.get(room) != state}
        return changed | dict.fromkeys(room for room in stored if room not in wanted)

    def set(self, room: str, state: str | None) -> None:
        """Note what the receiver was told."""
        if state is None:
            self.rooms.pop(room, None)
        else:
            self.rooms[room] = state

    def differences(self, occupied: Set[str]) -> tuple[list[str], list[str]]:
        """Return the rooms about which the receiver must perhaps be told, given the rooms that have members now.

        First those that have members, then those that have none.
        """
        return (
            [room for room in occupied if self.rooms.get(room) != PRESENT],
            [room for room in self.rooms if room not in occupied],
        )
