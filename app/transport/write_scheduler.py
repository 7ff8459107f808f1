"""Write each connection once per iteration of the event loop.

A write to a socket is a system call of 5 to 10 us, and nothing else in a delivery costs as much. The scheduler
therefore collects all frames of one loop iteration and writes them at its end, one write for each connection. Under
load the batches grow by themselves; an idle server adds no delay.

A very large fan-out, such as an event of 64 KB to 300 members, is written in slices of ``MAX_WRITE``, one in each loop
iteration, so that other clients do not wait for all of it. The frames of a connection keep their order: those that are
queued meanwhile are appended to its queue.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ..fastpath import WriteQueue, flush_all, uses_io_uring

#: How many bytes of rooms' frames one loop iteration writes, about. This takes 2 to 4 ms.
MAX_WRITE: Final = 2 * 2**20


class _Rest:
    """A fan-out that is being written: ``size`` connections of ``dirty`` in each slice, from ``position`` on."""

    __slots__ = ("deliveries", "dirty", "position", "since", "size")

    def __init__(self, dirty: list[WriteQueue], size: int, deliveries: int, since: float) -> None:
        self.dirty = dirty
        self.size = size
        self.deliveries = deliveries
        self.since = since
        self.position = 0


class WriteScheduler:
    """The connections with queued frames, on one event loop. The gateway's ``Delivery`` extends it with rooms."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        uses_io_uring()  # Detected now: a sandbox that kills processes for calling io_uring then does so at startup.
        self._dirty: list[WriteQueue] = []
        self._is_scheduled = False
        self._since = 0.0
        self._rest: _Rest | None = None
        self._has_slice = False

    @property
    def is_writing(self) -> bool:
        """True while a large fan-out is being written in slices."""
        return self._rest is not None

    def send(self, connection: WriteQueue, frame: bytes) -> None:
        """Send ``frame`` to one connection in this loop iteration, before the frames of its rooms."""
        if connection.enqueue(frame):
            self._dirty.append(connection)
            if not self._is_scheduled:
                self.schedule()

    def schedule(self) -> None:
        """Flush at the end of this loop iteration. Must not be called while a flush is scheduled."""
        self._is_scheduled = True
        self._since = time.perf_counter()
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write all queued frames, one write for each connection, or the first slice of them."""
        dirty = self._dirty
        deliveries, size = self._enqueue_room_frames(dirty)  # may call send, which appends to this list
        self._dirty = []
        self._is_scheduled = False
        if size > MAX_WRITE and len(dirty) > 1:
            self._write_in_slices(dirty, deliveries, size)
            return
        self._write(dirty)
        if deliveries:
            self._record_deliveries(deliveries, time.perf_counter() - self._since)

    def _write_in_slices(self, dirty: list[WriteQueue], deliveries: int, size: int) -> None:
        if self._rest is not None:  # only one at a time, so that a publisher cannot queue more than is written
            self._rest.size = len(self._rest.dirty)
            self._write_slice()
        self._rest = _Rest(dirty, max(len(dirty) * MAX_WRITE // size, 1), deliveries, self._since)
        self._write_slice()

    def _next_slice(self) -> None:
        self._has_slice = False
        if self._rest is not None:
            self._write_slice()

    def _write_slice(self) -> None:
        rest = self._rest
        assert rest is not None
        part = rest.dirty[rest.position : rest.position + rest.size]
        rest.position += rest.size
        is_last = rest.position >= len(rest.dirty)
        if is_last:
            self._rest = None
        elif not self._has_slice:
            self._has_slice = True
            self._loop.call_soon(self._next_slice)
        self._write(part)
        if is_last and rest.deliveries:
            self._record_deliveries(rest.deliveries, time.perf_counter() - rest.since)

    def _write(self, dirty: list[WriteQueue]) -> None:
        """Write the frames of these connections."""
        try:
            flush_all(dirty)
        except BaseException:  # one connection failed and loses its frames; those of the others must still be written
            for connection in dirty:
                if connection.queued_bytes:
                    self._dirty.append(connection)
            if self._dirty and not self._is_scheduled:
                self.schedule()
            raise

    def _enqueue_room_frames(self, dirty: list[WriteQueue]) -> tuple[int, int]:
        """Add the frames of rooms to their members' queues, and queues that were empty to ``dirty``.

        Return the number of deliveries, one for each frame and member, and their size in bytes.
        """
        return 0, 0

    def _record_deliveries(self, deliveries: int, seconds: float) -> None:
        """Record for the metrics that ``deliveries`` were written ``seconds`` after the first frame arrived."""
