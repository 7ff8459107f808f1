"""The history of one room in the memory of this process."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate, takewhile
from typing import Final

from .base import MAX_PAGE_EVENTS, Event
from .page import count_fitting

#: The memory that a stored event takes in addition to its payload, in bytes.
EVENT_OVERHEAD: Final = 56


class EventLog:
    """The stored events of one room, with ``size`` bytes of payloads. The newest one has the offset ``last_offset``.

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

    def _parse(self, id: str) -> int | None:
        """Return the offset of ``id``, or None if it cannot be an id of this log."""
        digits = id[len(self.prefix) :]
        # Check the length first: int() raises for more than 4300 digits.
        if not id.startswith(self.prefix) or len(digits) > 18 or not digits.isdecimal():
            return None
        offset = int(digits)
        return offset if str(offset) == digits else None

    def after(self, since: str, limit: int | None, max_bytes: int) -> list[Event] | None:
        """Return the page of events after ``since``, or None unless all of them are stored. See ``Broker.history``."""
        offset = self._parse(since)
        if offset is None or not self.last_offset - len(self.payloads) <= offset <= self.last_offset:
            return None
        first = len(self.payloads) - (self.last_offset - offset)
        last = min(first + (MAX_PAGE_EVENTS if limit is None else limit), len(self.payloads))
        oldest_first = (self.payloads[i] for i in range(first, last))  # indexes, because a slice would copy all of it
        return self._events(first, first + count_fitting(oldest_first, max_bytes))

    def before(self, id: str | None, limit: int | None, max_bytes: int) -> list[Event]:
        """Return the page of events before ``id``, or of the newest ones. See ``Broker.history``."""
        last = len(self.payloads)
        if id is not None:
            offset = self._parse(id)
            last = 0 if offset is None else min(max(offset - 1 - self.last_offset + last, 0), last)
        first = max(last - (MAX_PAGE_EVENTS if limit is None else limit), 0)
        newest_first = (self.payloads[i] for i in range(last - 1, first - 1, -1))
        return self._events(last - count_fitting(newest_first, max_bytes), last)

    def _events(self, first: int, last: int) -> list[Event]:
        """Return the events with the indexes from ``first`` to before ``last``."""
        prefix = self.prefix
        offset = self.last_offset - len(self.payloads) + first + 1
        return [Event(f"{prefix}{i}", payload) for i, payload in enumerate(self.payloads[first:last], offset)]
