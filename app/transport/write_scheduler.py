"""Write each connection once per iteration of the event loop.

A write to a socket is a system call of 5 to 10 us, and nothing else in a delivery costs as much. The scheduler
therefore collects all frames of one loop iteration and writes them at its end, one write for each connection. Under
load the batches grow by themselves; an idle server adds no delay.

A very large fan-out, such as an event of 64 KB to 300 members, is written in slices of ``MAX_WRITE``, one in each loop
iteration, so that other clients do not wait for all of it. Further large fan-outs wait behind it, and small ones are
written at once. The frames of a connection keep their order: those that are queued meanwhile are appended to its queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from ..fastpath import WriteQueue, flush_all, uses_io_uring

#: How many bytes of rooms' frames one loop iteration writes, about. This takes 2 to 4 ms.
MAX_WRITE: Final = 2 * 2**20
#: To how many connections one loop iteration writes if there are more. This takes about 10 ms.
MAX_CONNECTIONS: Final = 2000
#: How many bytes may wait for the connection that has waited for longest. If there are more, all of the rest is written
#: at once: otherwise publishers without a limit could queue more and more. It is the default of WS_MAX_BUFFER.
MAX_QUEUED: Final = 2**20


class _Rest:
    """The connections whose turn has not come, and the fan-outs that are being written."""

    __slots__ = ("_fan_outs", "_written", "connections")

    def __init__(self) -> None:
        self.connections: deque[WriteQueue] = deque()
        self._written = 0
        #: For each fan-out what ``_written`` is at its end, its deliveries, and when its first frame arrived.
        self._fan_outs: deque[tuple[int, int, float]] = deque()

    def add(self, connections: Iterable[WriteQueue], deliveries: int, since: float) -> None:
        """Add a fan-out. Connections that wait already have its frames in their queues."""
        self.connections.extend(connections)
        self._fan_outs.append((self._written + len(self.connections), deliveries, since))

    def take(self) -> list[WriteQueue]:
        """Remove the connections of the next slice."""
        waiting = self.connections
        takes_all = waiting[0].queued_bytes > MAX_QUEUED
        part: list[WriteQueue] = []
        size = 0
        while waiting and (takes_all or (size < MAX_WRITE and len(part) < MAX_CONNECTIONS)):
            connection = waiting.popleft()
            size += connection.queued_bytes
            part.append(connection)
        self._written += len(part)
        return part

    def take_finished(self) -> list[tuple[int, float]]:
        """Remove the fan-outs that are written; return the deliveries of each, and when its first frame arrived."""
        finished = []
        while self._fan_outs and self._fan_outs[0][0] <= self._written:
            finished.append(self._fan_outs.popleft()[1:])
        return finished


class WriteScheduler:
    """The connections with queued frames, on one event loop. The gateway's ``Delivery`` extends it with rooms."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        uses_io_uring()  # Detected now: a sandbox that kills processes for calling io_uring then does so at startup.
        self._dirty: list[WriteQueue] = []
        self._is_scheduled = False
        self._since = 0.0
        self._rest: Final = _Rest()

    @property
    def is_writing(self) -> bool:
        """True while a large fan-out is being written in slices."""
        return bool(self._rest.connections)

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
        deliveries, size, urgent = self._enqueue_room_frames(dirty)  # may call send, which appends to this list
        self._dirty = []
        self._is_scheduled = False
        is_large = (size > MAX_WRITE and (len(dirty) > 1 or self.is_writing)) or len(dirty) > MAX_CONNECTIONS
        if is_large and self.is_writing:
            self._rest.add(dirty[urgent:], deliveries, self._since)
            self._write(dirty[:urgent])
            return
        if is_large:
            self._rest.add(dirty, deliveries, self._since)
            self._write_slice()
            return
        self._write(dirty)
        if deliveries:
            self._record_deliveries(deliveries, time.perf_counter() - self._since)

    def _write_slice(self) -> None:
        """Write a slice of the fan-outs that wait, and the next one in the next loop iteration."""
        part = self._rest.take()
        if self.is_writing:
            self._loop.call_soon(self._write_slice)
        self._write(part)
        for deliveries, since in self._rest.take_finished():
            self._record_deliveries(deliveries, time.perf_counter() - since)

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

    def _enqueue_room_frames(self, dirty: list[WriteQueue]) -> tuple[int, int, int]:
        """Add the frames of rooms to their members' queues, and queues that were empty to ``dirty``.

        Return the number of deliveries, one for each frame and member, and their size in bytes. The last number is how
        many of ``dirty`` need not wait while large fan-outs are being written.
        """
        return 0, 0, len(dirty)

    def _record_deliveries(self, deliveries: int, seconds: float) -> None:
        """Record for the metrics that ``deliveries`` were written ``seconds`` after the first frame arrived."""
