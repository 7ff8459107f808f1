"""Code that suppresses its cancellation, as plugins should not."""

from __future__ import annotations

import asyncio
import contextlib


async def suppress_cancellation(seconds: float) -> None:
    """Wait, and suppress all cancellations meanwhile."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (rest := end - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(rest)
