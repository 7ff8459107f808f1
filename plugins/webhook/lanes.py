"""The order of deliveries, and when failed ones are repeated. No I/O.

Items with the same key form a lane. The items of a lane are sent in order: while some of a lane are sent, or wait for
their repetition, the later ones wait. Other lanes go on.
"""

from __future__ import annotations

import random
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

#: The first and the longest pause after failures without a success in between, in seconds. It applies to all lanes.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 15.0
#: The first and the longest pause of a lane whose first item failed alone, in seconds.
_FIRST_LANE_PAUSE: Final = 1.0
_LONGEST_LANE_PAUSE: Final = 600.0
#: After this many failures in a row the receiver counts as down. Then a request finds out, at least every
#: ``_LONGEST_PAUSE`` seconds, if it is back, and the lanes that failed are repeated within ``_SPREAD`` seconds.
_OUTAGE: Final = 3
_SPREAD: Final = 2.0

#: The number of lanes whose last item is known.
_MAX_LAST: Final = 20_000

Key = tuple[str, str]


@dataclass(slots=True, eq=False)
class Item:
    """Something to send. ``order`` is its place in the lane: an epoch and an offset. ``content`` is for the caller."""

    order: tuple[int, int]
    content: Any
    size: int = 0
    #: Until when the item waits for those between it and the last one that was sent.
    waits_until: float = 0.0


_order = attrgetter("order")


class _Lane:
    __slots__ = ("count", "failures", "first", "is_sent", "items", "limit", "ready_at", "size")

    def __init__(self, first: tuple[int, int]) -> None:
        self.items: list[Item] = []
        #: The lowest order of its items, those that were sent included.
        self.first = first
        #: The number and the size of its items, those of a batch included.
        self.count = 0
        self.size = 0
        self.ready_at = 0.0
        #: How often its first item has failed alone.
        self.failures = 0
        #: The limit of the next batch, or 0.
        self.limit = 0
        self.is_sent = False


class Batch(dict[Key, list[Item]]):
    """The items that are sent together, by the key of their lane."""

    def items_in_order(self) -> list[Item]:
        """Return all items, those of each lane in order."""
        return [item for items in self.values() for item in items]


class Lanes:
    """All lanes. Times are seconds of the caller's clock. A batch has at most ``max_items`` and ``max_bytes``."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items: Final = max_items
        self._max_bytes: Final = max_bytes
        #: Only lanes with items, those that wait longest first.
        self._lanes: Final[OrderedDict[Key, _Lane]] = OrderedDict()
        #: The limit of the next batch. It is halved after a failure, to find the item that fails.
        self._limit = max_items
        #: The number of failures since the last success, and the time until which nothing is sent.
        self.failures = 0
        self.paused_until = 0.0
        #: The number and the size of all items, those of batches included.
        self.count = 0
        self.size = 0
        #: The lanes whose first item has failed alone.
        self._failing: Final[set[Key]] = set()
        self.sent_batches = 0
        #: The order of the last item of each lane that was done, for a limited number of lanes.
        self._last: Final[OrderedDict[Key, tuple[int, int]]] = OrderedDict()

    def has_earlier(self, key: Key, order: tuple[int, int]) -> bool:
        """Return True if an item of this lane is known that comes before ``order``."""
        lane, last = self._lanes.get(key), self._last.get(key)
        return (lane is not None and lane.first < order) or (last is not None and last < order)

    def add(self, key: Key, item: Item) -> None:
        """Add an item at its place, which is never before one that is being sent."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(item.order)
        lane.first = min(lane.first, item.order)
        insort(lane.items, item, key=_order)
        self._resize(lane, 1, item.size)

    def has(self, key: Key) -> bool:
        """Return True if items of this lane wait."""
        return key in self._lanes and bool(self._lanes[key].items)

    @property
    def is_empty(self) -> bool:
        """True if there are no items."""
        return not self._lanes

    def is_failing(self, key: Key) -> bool:
        """Return True if the first item of this lane has failed alone, and was not sent since then."""
        return key in self._failing

    def is_before_last(self, key: Key, order: tuple[int, int]) -> bool:
        """Return True if an item with this ``order`` comes before one of its lane that waits."""
        lane = self._lanes.get(key)
        return lane is not None and bool(lane.items) and order < lane.items[-1].order

    def held(self) -> tuple[int, int]:
        """Return the number and the size of all items, except those in lanes that fail."""
        failing = [self._lanes[key] for key in self._failing]
        return self.count - sum(lane.count for lane in failing), self.size - sum(lane.size for lane in failing)

    def next_batch(self, now: float) -> Batch | None:
        """Return what to send now, or None. Call ``succeeded``, ``failed`` or ``end`` for each batch.

        After a failure, there is one batch at a time.
        """
        if now < self.paused_until or (self.failures and self.sent_batches):
            return None
        batch, count, size = Batch(), 0, 0
        for key, lane in self._ready(now):
            if lane.failures and batch:
                continue  # it is sent alone, so that its failures do not concern others
            taken = 0
            before = self._last.get(key)
            for item in lane.items[: lane.limit or None]:
                if item.waits_until > now and (before is None or not _follows(item.order, before)):
                    break
                before = item.order
                if count >= self._limit or (count and size + item.size > self._max_bytes):
                    break
                taken, count, size = taken + 1, count + 1, size + item.size
            if not taken:
                continue
            batch[key] = lane.items[:taken]
            del lane.items[:taken]
            lane.is_sent = True
            if count >= self._limit or lane.failures:
                break
        if not batch:
            return None
        self.sent_batches += 1
        return batch

    def _ready(self, now: float) -> Iterator[tuple[Key, _Lane]]:
        """Yield the lanes that may be sent; of those that failed in an outage, the one that is next."""
        is_found = False
        for key, lane in self._lanes.items():
            if lane.ready_at <= now and lane.items and not lane.is_sent:
                is_found = True
                yield key, lane
        if is_found or self.failures < _OUTAGE:
            return
        failed = [
            (lane.ready_at, key) for key in self._failing if (lane := self._lanes[key]).items and not lane.is_sent
        ]
        if failed:
            _, key = min(failed)
            yield key, self._lanes[key]

    def succeeded(self, batch: Batch, now: float) -> None:
        """The receiver has accepted ``batch``."""
        was_down = self.failures >= _OUTAGE
        self.failures, self.paused_until = 0, 0.0
        self._limit = min(self._limit * 2, self._max_items)
        for key in batch:
            self._lanes[key].failures = self._lanes[key].limit = 0
        self._failing.difference_update(batch)
        self.end(batch)
        if was_down:
            for key in self._failing:
                lane = self._lanes[key]
                lane.ready_at = min(lane.ready_at, now + random.uniform(0, _SPREAD))  # noqa: S311

    def failed(self, batch: Batch, now: float, at_least: float = 0.0) -> None:
        """The receiver has not accepted ``batch``: repeat it, in smaller parts, after ``at_least`` seconds."""
        self.failures += 1
        self._limit = max(self._limit // 2, 1)
        pause = max(_pause(self.failures, _FIRST_PAUSE, _LONGEST_PAUSE), at_least)
        self.paused_until = max(self.paused_until, now + pause)
        if len(batch) == 1:
            [(key, items)] = batch.items()
            lane = self._lanes[key]
            lane.limit = max(len(items) // 2, 1)
            if len(items) == 1:
                lane.failures += 1
                self._failing.add(key)
                lane.ready_at = now + _pause(lane.failures, _FIRST_LANE_PAUSE, _LONGEST_LANE_PAUSE)
        self._put_back(batch)
        self.sent_batches -= 1

    def pause(self, until: float) -> None:
        """Send nothing until a time."""
        self.paused_until = max(self.paused_until, until)

    def postpone(self, batch: Batch, key: Key, until: float) -> None:
        """Take a lane out of ``batch``, which was not sent yet, and let its items wait until a time."""
        self._put_back({key: batch.pop(key)})
        self._lanes[key].ready_at = until

    def drop(self, batch: Batch, key: Key, items: Iterable[Item]) -> None:
        """Take items out of ``batch`` and forget them."""
        dropped = list(items)
        rest = [item for item in batch[key] if item not in dropped]
        self._forget(key, dropped)
        if dropped:
            self._note_last(key, dropped[-1].order)
        if rest:
            batch[key] = rest
        else:
            del batch[key]
            self._end(key)

    def end(self, batch: Batch) -> None:
        """Forget the items of ``batch``, which are done."""
        for key, items in batch.items():
            self._forget(key, items)
            self._note_last(key, items[-1].order)
            self._end(key)
        self.sent_batches -= 1

    def _note_last(self, key: Key, order: tuple[int, int]) -> None:
        self._last[key] = max(order, self._last.pop(key, order))
        if len(self._last) > _MAX_LAST:
            self._last.popitem(last=False)

    def _forget(self, key: Key, items: list[Item]) -> None:
        self._resize(self._lanes[key], -len(items), -sum(item.size for item in items))

    def _resize(self, lane: _Lane, count: int, size: int) -> None:
        lane.count += count
        lane.size += size
        self.count += count
        self.size += size

    def _end(self, key: Key) -> None:
        lane = self._lanes[key]
        lane.is_sent = False
        if lane.items:
            self._lanes.move_to_end(key)
        else:
            del self._lanes[key]
            self._failing.discard(key)

    def _put_back(self, items_by_key: Mapping[Key, list[Item]]) -> None:
        for key, items in items_by_key.items():
            lane = self._lanes[key]
            lane.is_sent = False
            lane.items[:0] = items
            self._lanes.move_to_end(key)


def _follows(order: tuple[int, int], last: tuple[int, int]) -> bool:
    """Return True if no item can be missing between two. Offsets count on over the epochs of a room."""
    return order[1] <= last[1] + 1


def _pause(failures: int, first: float, longest: float) -> float:
    """Return the pause after a number of failures: exponential, with jitter."""
    return min(first * 2.0 ** min(failures - 1, 30), longest) * random.uniform(0.5, 1.0)  # noqa: S311
