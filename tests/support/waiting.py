"""The timeout of tests, and a function that waits for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from inspect import isawaitable

#: How long tests wait for something on loopback before they fail, in seconds.
PATIENCE = 10.0


async def wait_until(
    condition: Callable[[], object], what: str = "the condition is true", *, patience: float = PATIENCE
) -> None:
    """Call ``condition``, a plain or an async function, until it returns a true value."""
    clock = asyncio.get_running_loop().time
    end = clock() + patience
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            # redis-py can lose the cancellation at the end (gh-86296), or raise an error instead of it.
            while clock() < end:
                result = condition()
                if await result if isawaitable(result) else result:
                    return
                await asyncio.sleep(0.005)
    raise AssertionError(f"not within {patience:g} s: {what}")
