"""The history of one room in the memory of this process."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate, takewhile
from typing import Final

from .base import MAX_PAGE_EVENTS, Event, UserId
from .page import count_fitting

#: The memory that a stored event takes in addition to its payload, in bytes.
EVENT_OVERHEAD: Final = 56


class MessageCounts:
    """What a room that has had a message knows in addition: how many messages there are before each stored event.

    As long as all events since the first message are messages, that follows from their offsets: ``first`` is the number
    of events before it, and ``before`` is None. Then ``before`` has the number before each stored event, and ``total``
    is the number of all.

    ``author`` is the author of the newest event if that is a message and the mark of its author is not written yet, or
    None. See ``MemoryMarks.write_own``.
    """

    __slots__ = ("author", "before", "first", "total")

    def __init__(self, first: int) -> None:
        self.first: Final = first
        self.before: array[int] | None = None
        self.total = 0
        self.author: UserId | None = None


class LogLimits:
    """The limits of an ``EventLog``: the number of events, their time in seconds, and the bytes of their payloads.

    The logs of all rooms with the same limits share one object. ``trim_above`` is the number of events from which on
    the log is trimmed: in steps of an eighth, because deleting at the front moves all other elements.
    """

    __slots__ = ("max_bytes", "size", "trim_above", "ttl")

    def __init__(self, size: int, ttl: float, max_bytes: int) -> None:
        self.size: Final = size
        self.ttl: Final = ttl
        self.max_bytes: Final = max_bytes
        self.trim_above: Final = size + size // 8


class EventLog:
    """The stored events of one room, with ``size`` bytes of payloads. The newest one has the offset ``last_offset``.

    ``payloads`` and ``times`` have one element for each event; ids are built when they are read. They are a list and an
    array, because an empty deque takes 624 bytes and most rooms are quiet. The broker trims them according to
    ``limits``. ``messages`` is None in a room that never had a message.
    """

    __slots__ = ("created", "last_offset", "limits", "messages", "payloads", "prefix", "size", "times")

    def __init__(self, prefix: str, created: float, limits: LogLimits) -> None:
        """``prefix`` is the epoch and a dash; ``created`` and all times are readings of the broker's clock."""
        self.prefix: Final = prefix
        self.created: Final = created
        self.limits = limits
        self.last_offset = 0
        self.size = 0
        self.payloads: list[bytes] = []
        self.times = array("d")
        self.messages: MessageCounts | None = None

    def trim(self, now: float) -> int:
        """Drop the events that are too many or too old; return the number of bytes freed.

        If the payloads have too many bytes, keep the newest ones with up to half of them, but at least one.
        """
        excess = self._excess(now)
        if self.size > (max_bytes := self.limits.max_bytes):
            totals = accumulate(map(len, reversed(self.payloads)))
            kept = sum(1 for _ in takewhile(lambda total: total <= max_bytes // 2, totals))
            excess = max(excess, len(self.payloads) - max(kept, 1))
        return self.drop(excess) if excess > 0 else 0

    def drop(self, count: int) -> int:
        """Drop the oldest ``count`` events; return the number of bytes freed."""
        dropped = self.payloads[:count]
        size = sum(map(len, dropped))
        self.size -= size
        del self.payloads[:count]
        del self.times[:count]
        if self.messages is not None and self.messages.before is not None:
            del self.messages.before[:count]
        return size + EVENT_OVERHEAD * len(dropped)

    @property
    def message_count(self) -> int:
        """The number of messages that the room has had."""
        counts = self.messages
        if counts is None:
            return 0
        return self.last_offset - counts.first if counts.before is None else counts.total

    def count(self, *, is_message: bool) -> None:
        """Count the event that is appended next.

        ``MemoryBroker.publish`` does it itself for another message of the same author.
        """
        counts = self.messages
        if counts is None:
            if is_message:
                self.messages = MessageCounts(self.last_offset)
            return
        if counts.before is None:
            if is_message:
                return
            total = counts.total = self.message_count
            counts.before = array("Q", (max(total - i, 0) for i in range(len(self.payloads), 0, -1)))
        counts.before.append(counts.total)
        counts.total += is_message

    def position(self, id: str) -> tuple[int, int] | None:
        """Return the offset of the event ``id`` and the number of messages up to it, or None if there is no such event.

        If it is not stored any more, messages between it and the oldest stored event are included.
        """
        offset = self._parse(id)
        if not offset or offset > self.last_offset:
            return None
        index = max(len(self.payloads) - (self.last_offset - offset), 0)
        return offset, self._messages_before(index)

    def _excess(self, now: float) -> int:
        """Return the number of stored events that are too many or too old."""
        limits = self.limits
        return max(len(self.payloads) - limits.size, bisect_left(self.times, now - limits.ttl))

    def messages_dropped(self, now: float) -> int:
        """Return the number of messages before the history, without events that are too many or too old."""
        return self._messages_before(self._excess(now))

    def _messages_before(self, index: int) -> int:
        """Return the number of messages before the stored event with this index, which may be one too high."""
        counts = self.messages
        if counts is None:
            return 0
        if counts.before is None:
            return max(self.message_count - (len(self.payloads) - index), 0)
        return counts.before[index] if index < len(counts.before) else counts.total

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

    def before(self, id: str | None, limit: int | None, max_bytes: int) -> tuple[list[Event], bool]:
        """Return the page of events before ``id``, or of the newest ones, and ``has_older``. See ``Broker.history``."""
        last = len(self.payloads)
        if id is not None:
            offset = self._parse(id)
            last = 0 if offset is None else min(max(offset - 1 - self.last_offset + last, 0), last)
        first = max(last - (MAX_PAGE_EVENTS if limit is None else limit), 0)
        newest_first = (self.payloads[i] for i in range(last - 1, first - 1, -1))
        first = last - count_fitting(newest_first, max_bytes)
        return self._events(first, last), 0 < first < last

    def _events(self, first: int, last: int) -> list[Event]:
        """Return the events with the indexes from ``first`` to before ``last``."""
        prefix = self.prefix
        offset = self.last_offset - len(self.payloads) + first + 1
        return [Event(f"{prefix}{i}", payload) for i, payload in enumerate(self.payloads[first:last], offset)]
