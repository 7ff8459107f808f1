"""The timeout of tests, and a function that waits for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable

#: How long tests wait for something on loopback before they fail, in seconds.
PATIENCE = 10.0


async def wait_until(
    condition: Callable[[], object], what: str = "the condition is true", *, patience: float = PATIENCE
) -> None:
    """Call ``condition``, a plain or an async function, until it returns a true value."""
    try:
        async with asyncio.timeout(patience):
            while True:
                result = condition()
                if await result if isawaitable(result) else result:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {patience:g} s: {what}") from None
