"""The time that tests wait for a server, which is real time even if a ``Clock`` controls the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from .clock import Clock

#: How long ``next`` waits for an event, in seconds.
EVENT_TIMEOUT: Final = 5.0
#: How long a command waits for its reply, in seconds. A server cancels a handler after 10 seconds by default.
REPLY_TIMEOUT: Final = 15.0


@asynccontextmanager
async def real_timeout(seconds: float) -> AsyncIterator[None]:
    """Raise ``TimeoutError`` if the body takes more than ``seconds`` of real time, as ``asyncio.timeout`` does."""
    loop = asyncio.get_running_loop()
    if not Clock.controls(loop):
        async with asyncio.timeout(seconds):
            yield
        return

    def expire() -> None:
        with suppress(RuntimeError):  # the body has ended in this loop iteration
            timeout.reschedule(loop.time())

    def expire_from_thread() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(expire)

    timer = threading.Timer(seconds, expire_from_thread)
    timer.daemon = True
    async with asyncio.timeout(None) as timeout:
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
