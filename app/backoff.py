"""Pauses between the attempts of an operation that is retried."""

from __future__ import annotations

import asyncio
import random
from typing import Final


class Backoff:
    """Exponential back-off: each pause is twice as long as the one before, up to a maximum.

    ``first`` and ``longest`` are in seconds. ``jitter`` is the part of each pause that is random, from 0 to 1: with
    0.5, a pause takes between half of its length and its full length. The first ``immediate`` retries have no pause.
    """

    __slots__ = ("_first", "_immediate", "_jitter", "_longest", "_retries")

    def __init__(self, first: float, longest: float, *, jitter: float = 0.0, immediate: int = 0) -> None:
        self._first: Final = first
        self._longest: Final = longest
        self._jitter: Final = jitter
        self._immediate: Final = immediate
        self._retries = 0

    def next_pause(self) -> float:
        """Return how long to wait before the next retry, in seconds."""
        doublings = self._retries - self._immediate
        self._retries += 1
        if doublings < 0:
            return 0.0
        pause = min(self._first * 2.0 ** min(doublings, 64), self._longest)
        return pause * random.uniform(1 - self._jitter, 1)  # noqa: S311  # no secret

    def reset(self) -> None:
        """Begin with the first pause again, after an attempt that succeeded."""
        self._retries = 0


async def wait_at_most(event: asyncio.Event, seconds: float) -> bool:
    """Wait until ``event`` is set, which ends a pause early, but at most ``seconds``. Return True if it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
