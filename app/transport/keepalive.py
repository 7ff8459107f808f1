"""The heartbeat and the time limits of all connections, in one task.

A timer for each of 10,000s of connections would cost memory and CPU time. ``Keepalive`` checks all of them once a
second instead, in small chunks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from ..errors import Close
from .socket_poller import SocketPoller


class KeptAlive(Protocol):
    """The part of a connection that ``Keepalive`` uses."""

    #: Loop time of the last read.
    last_read: float

    def check(self, now: float) -> bool:
        """Ping or abort the connection if it is silent for too long; return True if it ends now.

        ``now`` is the loop time.
        """

    def close(self, close: Close) -> None:
        """Send a close frame, and end."""

    def abort(self, end: Close) -> None:
        """End without a close frame."""


class Keepalive:
    """Checks all connections, and holds the limits that they share.

    ``interval`` is the heartbeat in seconds: a connection that is silent for one interval is pinged, one that is silent
    for two is dropped. ``max_message`` and ``max_buffer`` are limits in bytes.
    """

    #: Connections checked in one iteration of the event loop; they take about 0.1 ms.
    CHUNK: Final = 250
    #: One that ends counts as this many, because its end takes about 0.08 ms. A user who reconnects and does not answer
    #: close frames can cause 600 such ends a second.
    END_COST: Final = 25

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float, max_message: int, max_buffer: int) -> None:
        self._loop = loop
        self.interval: Final = interval
        self.max_message: Final = max_message
        self.max_buffer: Final = max_buffer
        #: Reads the connections' sockets where that is possible.
        self.poller: Final = SocketPoller(loop, max_message)
        #: Loop time of the last check. Connections use it as the current time, so that a read needs no clock call.
        self.now = loop.time()
        #: Unix time of the last check, in seconds.
        self.unix_time = time.time()
        #: All open connections. A dict, because it keeps their order.
        self.connections: Final[dict[KeptAlive, None]] = {}
        #: Those that wait for the answer to their close frame, with their ends, oldest first.
        self.closing: Final[dict[KeptAlive, Close]] = {}

    def refresh(self) -> float:
        """Set ``now`` to the current time and return it. Data that is read from now on is at least as new."""
        self.now = self._loop.time()
        return self.now

    async def run(self, after_check: Callable[[], Awaitable[None]] | None = None) -> None:
        """Check all connections until cancelled: every second, or four times in an interval shorter than 4 s.

        ``after_check`` is called after each round.
        """
        period = min(1.0, self.interval / 4)
        while True:
            begun = self._loop.time()
            await asyncio.sleep(period)
            self.now = self._loop.time()
            self.unix_time = time.time()
            stall = self.now - begun - period
            if stall > period:
                self._discount(stall)
                await asyncio.sleep(0)
            left = self.CHUNK
            for connection in list(self.connections):
                left -= self.END_COST if connection.check(self.now) else 1
                if left <= 0:
                    await asyncio.sleep(0)
                    left = self.CHUNK
            if after_check is not None:
                await after_check()

    def _discount(self, stall: float) -> None:
        """Do not count ``stall``, time in which the event loop or the machine did not run, as silence of the peers."""
        for connection in self.connections:
            connection.last_read += stall
