"""Handshakes that wait for the broker, and their cancellation when the client has left or the time is over.

A handshake takes a lease of its user, a subscription of the user's personal room, and its history. All are released if
its task is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Final, Protocol

from aiohttp import web

log = logging.getLogger("roomcast.handshake")

#: How long ``close`` waits for handshakes to finish, and once more after it has cancelled them, in seconds.
_CLOSE_TIMEOUT: Final = 1.0


class Request(Protocol):
    """The part of ``handshake.UpgradeRequest`` that is needed here."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport; None after it was lost."""


class PendingHandshakes:
    """Cancels handshakes whose client has left, and those that take longer than ``timeout`` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout: Final = timeout
        #: By task: the request, and the time at which its connection was made; infinity once the task was cancelled.
        self._requests: Final[dict[asyncio.Task[None], tuple[Request, float]]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, task: asyncio.Task[None], request: Request, since: float) -> None:
        """Watch ``task``, the handshake of ``request``. ``since`` is on the clock ``time.monotonic``."""
        self._requests[task] = (request, since)

    def remove(self, task: asyncio.Task[None]) -> None:
        """Forget a task that has ended."""
        del self._requests[task]

    def cancel_stale(self) -> None:
        """Cancel the tasks whose client has left or whose time is over. Call it regularly."""
        overdue = time.monotonic() - self._timeout
        for task, (request, since) in list(self._requests.items()):
            # Once only: another cancellation would interrupt the release of what the handshake has taken.
            if since <= overdue or (request.transport is None and since != math.inf):
                self._requests[task] = (request, math.inf)
                task.cancel()

    async def close(self) -> None:
        """Wait up to ``_CLOSE_TIMEOUT`` for running handshakes, then close their connections and cancel them."""
        if not self._requests:
            return
        _, late = await asyncio.wait(self._requests, timeout=_CLOSE_TIMEOUT)
        for task in late:
            request, _ = self._requests.get(task, (None, 0.0))
            if request is not None and request.transport is not None:
                request.transport.close()
            task.cancel()
        if late:  # they release what they have taken, unless the broker does not answer
            await asyncio.wait(late, timeout=_CLOSE_TIMEOUT)


PENDING_HANDSHAKES: Final = web.AppKey("pending_handshakes", PendingHandshakes)
