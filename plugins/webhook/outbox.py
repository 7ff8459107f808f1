"""Append entries to the queue, also while the broker cannot be reached for a while."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

import orjson

from roomcast import Queue, Unavailable

log = logging.getLogger("roomcast.webhooks")

#: How many entries, and bytes of them, wait on a node while the broker cannot be reached. Beyond that, the oldest are
#: dropped.
MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 64 * 2**20
#: How many entries are appended at once, and after how many bytes no more.
_BATCH: Final = 500
_BATCH_BYTES: Final = 2**20
#: The pause after a failure, in seconds.
_PAUSE: Final = 0.5
#: How long the first entry waits for further ones, in seconds.
_COLLECT: Final = 0.02


#: A payload, and the future that is done when it is in the queue.
_Entry = tuple[bytes, asyncio.Future[None]]


class Outbox:
    """Appends the entries of this node in order, several at once. ``dropped`` counts those that were lost."""

    def __init__(self, queue: Queue) -> None:
        self._queue: Final = queue
        self._waiting: Final[deque[_Entry]] = deque()
        self._bytes = 0
        self._rooms: dict[str, None] = {}
        self._changed: Final = asyncio.Event()
        #: Set whenever entries were appended.
        self.appended: Final = asyncio.Event()
        self.dropped = 0

    def add(self, entry: dict[str, Any]) -> asyncio.Future[None]:
        """Append an entry soon. The future is done when it is in the queue; cancelling it does not withdraw it."""
        done = asyncio.get_running_loop().create_future()
        payload = orjson.dumps(entry)
        self._waiting.append((payload, done))
        self._bytes += len(payload)
        while len(self._waiting) > MAX_WAITING or (self._bytes > MAX_WAITING_BYTES and len(self._waiting) > 1):
            _, oldest = self._take()
            oldest.cancel()
            if not self.dropped:
                log.error("The broker cannot be reached, and too many webhooks wait for it: the oldest are dropped")
            self.dropped += 1
        self._changed.set()
        return done

    def check(self, room: str) -> None:
        """Let the node that delivers look soon if ``room`` has members. Repeated calls become one entry."""
        self._rooms[room] = None
        self._changed.set()

    async def run(self) -> None:
        """Append entries until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_COLLECT)
            self._changed.clear()
            self._add_rooms()
            while self._waiting:
                await self._append(self._take_batch())

    async def finish(self) -> None:
        """Append what waits, once. Call it after ``run`` has ended."""
        self._add_rooms()
        while self._waiting:
            await self._queue.append([payload for payload, _ in self._take_batch()])

    def _take(self) -> _Entry:
        entry = self._waiting.popleft()
        self._bytes -= len(entry[0])
        return entry

    def _take_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while self._waiting and len(batch) < _BATCH and size < _BATCH_BYTES:
            batch.append(self._take())
            size += len(batch[-1][0])
        return batch

    def _put_back(self, entries: list[_Entry]) -> None:
        self._waiting.extendleft(reversed(entries))
        self._bytes += sum(len(payload) for payload, _ in entries)

    def _add_rooms(self) -> None:
        if self._rooms:
            rooms, self._rooms = list(self._rooms), {}
            self.add({"rooms": rooms})

    async def _append(self, entries: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        try:
            await self._queue.append([payload for payload, _ in entries])
        except asyncio.CancelledError:
            self._put_back(entries)
            raise
        except Exception as error:  # the task must go on
            if not isinstance(error, Unavailable):
                log.exception("Webhooks could not be queued; it is tried again")
            self._put_back(entries)
            await asyncio.sleep(_PAUSE)
        else:
            self.appended.set()
            for _, done in entries:
                if not done.done():
                    done.set_result(None)
