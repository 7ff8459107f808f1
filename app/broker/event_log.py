"""The history of one room in the memory of this process."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate, takewhile
from typing import Final

from .base import Event

#: The memory that a stored event takes in addition to its payload, in bytes.
EVENT_OVERHEAD: Final = 56


class EventLog:
    """The stored events of one room. The newest one has the offset ``last_offset``. All have ``size`` bytes.

    ``payloads`` and ``times`` have one element for each event; ids are built when they are read. They are a list and an
    array, because an empty deque takes 624 bytes and most rooms are quiet. The broker trims them in larger steps,
    because deleting at the front moves all other elements.
    """

    __slots__ = ("created", "last_offset", "payloads", "prefix", "size", "times")

    def __init__(self, prefix: str, created: float) -> None:
        """``prefix`` is the epoch and a dash; ``created`` and all times are readings of the broker's clock."""
        self.prefix: Final = prefix
        self.created: Final = created
        self.last_offset = 0
        self.size = 0
        self.payloads: list[bytes] = []
        self.times = array("d")

    def trim(self, count: int, horizon: float, max_size: int) -> int:
        """Drop all but the newest ``count`` events, and events before ``horizon``; return the number of bytes freed.

        If the payloads have more than ``max_size`` bytes, keep the newest ones with up to half of that, at least one.
        """
        excess = max(len(self.payloads) - count, bisect_left(self.times, horizon))
        if self.size > max_size:
            totals = accumulate(map(len, reversed(self.payloads)))
            kept = sum(1 for _ in takewhile(lambda total: total <= max_size // 2, totals))
            excess = max(excess, len(self.payloads) - max(kept, 1))
        return self.drop(excess) if excess > 0 else 0

    def drop(self, count: int) -> int:
        """Drop the oldest ``count`` events; return the number of bytes freed."""
        dropped = self.payloads[:count]
        size = sum(map(len, dropped))
        self.size -= size
        del self.payloads[:count]
        del self.times[:count]
        return size + EVENT_OVERHEAD * len(dropped)

    def offset_of(self, since: str) -> int | None:
        """Return the offset of the id ``since``, or None if this room did not assign exactly that id."""
        digits = since[len(self.prefix) :]
        # Check the length first: int() raises for more than 4300 digits.
        if not since.startswith(self.prefix) or len(digits) > 18 or not digits.isdecimal():
            return None
        offset = int(digits)
        return offset if offset <= self.last_offset and str(offset) == digits else None

    def newest(self, count: int, limit: int | None) -> list[Event]:
        """Return the oldest ``limit`` of the newest ``count`` events, oldest first. ``count`` events must be stored."""
        first = len(self.payloads) - count
        selected = self.payloads[first : None if limit is None else first + limit]
        prefix = self.prefix
        return [Event(f"{prefix}{i}", payload) for i, payload in enumerate(selected, self.last_offset - count + 1)]
