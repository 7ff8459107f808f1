"""Counts what somebody has tried of late, so that a key is not found by trying."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final


class Attempts:
    """At most ``most`` attempts in ``window`` seconds of ``clock`` for each name; ``names`` of them are remembered."""

    def __init__(
        self, most: int, window: float, *, names: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most: Final = most
        self._window: Final = window
        self._names: Final = names
        self._clock: Final = clock
        #: When each name tried, at most ``most`` times; the name that tried last stands last.
        self._tried: Final[dict[str, deque[float]]] = {}

    def wait(self, name: str) -> float:
        """Return for how many seconds ``name`` may not try; 0 if it may now."""
        tried = self._tried.get(name)
        if tried is None or len(tried) < self._most:
            return 0.0
        return max(tried[0] + self._window - self._clock(), 0.0)

    def add(self, name: str) -> None:
        """Count an attempt."""
        now = self._clock()
        tried = self._tried.pop(name, None) or deque(maxlen=self._most)
        tried.append(now)
        self._tried[name] = tried
        while len(self._tried) > self._names or next(iter(self._tried.values()))[-1] + self._window <= now:
            del self._tried[next(iter(self._tried))]
