"""An event loop for tests of timers: its time passes only when the test lets it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class ManualTimer:
    """A call at a time. ``function`` is None after ``cancel``."""

    def __init__(self, when: float, number: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.when = when
        self.number = number
        self.function: Callable[..., Any] | None = function
        self.args = args

    def __lt__(self, other: ManualTimer) -> bool:
        return (self.when, self.number) < (other.when, other.number)

    def cancel(self) -> None:
        self.function = None


class ManualLoop:
    """The part of an event loop that calls functions now or later. It has no I/O."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._later: list[ManualTimer] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        self._soon.append((function, args))

    def call_at(self, when: float, function: Callable[..., Any], *args: Any) -> ManualTimer:
        timer = ManualTimer(when, next(self._numbers), function, args)
        heapq.heappush(self._later, timer)
        return timer

    def call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> ManualTimer:
        return self.call_at(self.now + delay, function, *args)

    @property
    def timers(self) -> int:
        """The number of calls that wait for a time."""
        return sum(timer.function is not None for timer in self._later)

    def run(self) -> None:
        """Run everything that is due now."""
        while True:
            while self._later and self._later[0].when <= self.now:
                timer = heapq.heappop(self._later)
                if timer.function is not None:
                    self._soon.append((timer.function, timer.args))
            if not self._soon:
                return
            soon, self._soon = self._soon, []
            for function, args in soon:
                function(*args)

    def advance(self, seconds: float) -> None:
        """Run everything that is due until ``seconds`` have passed, each at its time."""
        self.run()
        end = self.now + seconds
        while self._later and self._later[0].when <= end:
            self.now = max(self.now, self._later[0].when)
            self.run()
        self.now = end
