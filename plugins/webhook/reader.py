"""Read the entries of the queue into lanes, on the node that delivers.

The queue may have more entries than the node keeps in memory. Reading stops while too many wait for a receiver that is
slow. A room whose next event the receiver refuses must not stop the reading for all other rooms, so its events do not
count. Its later events are left in the queue, and are read again when the room goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import orjson

from roomcast import Queue, QueueEntry, Unavailable

from .events import published_event
from .lanes import Item, Key, Lanes
from .outbox import Outbox
from .timing import Timing, wait

#: How much one call reads: entries, and bytes of payloads.
_PAGE: Final = 200
_PAGE_BYTES: Final = 1024 * 1024
#: Reading stops above this many entries, and bytes of payloads, in lanes that do not fail.
_MAX_HELD: Final = 20_000
_MAX_HELD_BYTES: Final = 64 * 2**20


class LeaseLostError(Exception):
    """Another node delivers now."""


class Published(NamedTuple):
    """The content of an item: an event, its entry, and the loop time at which the entry was appended."""

    event: dict[str, Any]
    entry: QueueEntry
    appended: float


class Reader:
    """Reads from ``queue`` into ``lanes``.

    ``check`` is called for a room whose members may have changed, and with True if the receiver must be told again.
    ``on_read`` is called after a page, and with False if the queue could not be reached.
    """

    def __init__(
        self,
        queue: Queue,
        outbox: Outbox,
        lanes: Lanes,
        timing: Timing,
        check: Callable[[str, bool], None],
        on_read: Callable[[bool], None],
    ) -> None:
        self._queue: Final = queue
        self._appended: Final = outbox.appended
        self._lanes: Final = lanes
        self._timing: Final = timing
        self._check: Final = check
        self._on_read: Final = on_read
        self._now: Final = asyncio.get_running_loop().time
        #: The ids of the entries in lanes.
        self._known: Final[set[str]] = set()
        #: The lanes of which entries were left in the queue.
        self._left: Final[set[Key]] = set()

    async def run(self) -> None:
        """Read until cancelled. Raises ``LeaseLostError``."""
        while True:
            self._appended.clear()
            is_more = False
            count, size = self._lanes.held()
            if count < _MAX_HELD and size < _MAX_HELD_BYTES:
                try:
                    is_more = await self._read_page() or self._read_again()
                except Unavailable:
                    self._on_read(False)
            if not is_more:
                await wait(self._appended, self._timing.read)

    def forget(self, entries: Iterable[QueueEntry]) -> None:
        """Forget entries that are not in the queue any more."""
        self._known.difference_update(entry.id for entry in entries)

    async def _read_page(self) -> bool:
        """Read a page. Return False if there is nothing to read."""
        entries = await self._queue.read(_PAGE, _PAGE_BYTES)
        if entries is None:
            raise LeaseLostError
        done = []
        for entry in entries:
            if entry.id in self._known:
                continue
            document = orjson.loads(entry.payload)
            if "event" in document:
                self._add_event(entry, document["event"])
                continue
            for room in document["rooms"]:
                self._check(room, document.get("again", False))
            done.append(entry)
        if done:  # the comparison of all rooms makes up for a loss
            await self._queue.remove(done)
        self._on_read(True)
        return bool(entries)

    def _read_again(self) -> bool:
        """Begin again with the oldest entry if a lane goes on of which entries were left in the queue."""
        ready = [key for key in self._left if not self._lanes.is_failing(key)]
        self._left.difference_update(ready)
        if ready:
            self._queue.rewind()
        return bool(ready)

    def _add_event(self, entry: QueueEntry, event: dict[str, Any]) -> None:
        key = ("event", event["room"])
        epoch, _, offset = event["id"].rpartition("-")
        order = (int(epoch, 36), int(offset))  # a later epoch of a room is a larger number, on every broker
        if (key in self._left or self._lanes.is_failing(key)) and not self._lanes.is_before_last(key, order):
            self._left.add(key)
            return
        self._known.add(entry.id)
        now = self._now()
        content = Published(published_event(event), entry, now - entry.age)
        patience = self._timing.gap if self._lanes.has_earlier(key, order) else self._timing.reorder
        self._lanes.add(key, Item(order, content, len(entry.payload), now + max(patience - entry.age, 0)))
