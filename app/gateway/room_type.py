"""The types of rooms on one node: the options that the gateway applies, and counters for the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import Refused
from ..room_options import EffectiveOptions


class LocalRoomType:
    """One type of rooms. All ``LocalRoom`` of this type refer to the same object, so that counting is an increment.

    ``commands`` are the commands of plugins that clients may send there, or None if there is no limit. ``messages`` is
    the number of such commands, ``deliveries`` the number of events written to members. ``slow_members`` is the number
    of memberships that ended because the connection was closed as too slow, ``live_drops`` the number of deliveries of
    live events that were left out.
    """

    __slots__ = ("commands", "deliveries", "has_presence", "live_drops", "messages", "name", "slow_members")

    def __init__(self, name: str, options: EffectiveOptions | None) -> None:
        self.name: Final = name
        self.commands: Final = None if options is None else options.commands
        self.has_presence: Final = options is None or options.presence
        self.messages = 0
        self.deliveries = 0
        self.slow_members = 0
        self.live_drops = 0

    def refusal(self, command: str, room: str) -> Refused:
        """Return the refusal of a ``command`` that is not allowed in ``room``, which is of this type."""
        allowed = ", ".join(sorted(self.commands or ())) or "none"
        sentence = f"{command} cannot be sent in {self.name} rooms such as {room}; the allowed commands are: {allowed}."
        return Refused("bad_room", sentence)


class LocalRoomTypes:
    """All types of rooms of a node, with their ``options``. Names of rooms from clients add none."""

    def __init__(self, options: Mapping[str, EffectiveOptions]) -> None:
        self.by_name: Final = {name: LocalRoomType(name, one) for name, one in options.items()}
        self._undeclared: Final = LocalRoomType("undeclared", None)

    def of(self, room: str) -> LocalRoomType:
        """Return the type of ``room``. All types that no plugin declares share one object, which has no metrics."""
        return self.by_name.get(room.partition(":")[0], self._undeclared)
