"""Write each connection once per iteration of the event loop.

A write to a socket is a system call of 5 to 10 us, and nothing else in a delivery costs as much. The scheduler
therefore collects all frames of one loop iteration and writes them at its end, one write for each connection. Under
load the batches grow by themselves; an idle server adds no delay.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ..fastpath import WriteQueue, flush_all, uses_io_uring


class WriteScheduler:
    """The connections with queued frames, on one event loop. The gateway's ``Delivery`` extends it with rooms."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        uses_io_uring()  # Detected now: a sandbox that kills processes for calling io_uring then does so at startup.
        self._dirty: list[WriteQueue] = []
        self._is_scheduled = False
        self._since = 0.0

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
        """Write all queued frames, one write for each connection."""
        dirty = self._dirty
        deliveries = self._enqueue_room_frames(dirty)  # may call send, which appends to this list
        self._dirty = []
        self._is_scheduled = False
        try:
            flush_all(dirty)
        except BaseException:  # one connection failed and loses its frames; those of the others must still be written
            for connection in dirty:
                if connection.queued_bytes:
                    self._dirty.append(connection)
            if self._dirty and not self._is_scheduled:
                self.schedule()
            raise
        if deliveries:
            self._record_deliveries(deliveries, time.perf_counter() - self._since)

    def _enqueue_room_frames(self, dirty: list[WriteQueue]) -> int:
        """Add the frames of rooms to their members' queues, and queues that were empty to ``dirty``.

        Return the number of deliveries: one for each frame and member.
        """
        return 0

    def _record_deliveries(self, deliveries: int, seconds: float) -> None:
        """Record for the metrics that ``deliveries`` were written ``seconds`` after the first frame arrived."""
