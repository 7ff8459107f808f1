"""The times and failures of the functions of plugins, by plugin and function, for the metrics."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

from ..errors import InvalidEvent, RoomcastError

#: The upper bounds of the histogram, in seconds.
BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)


class FunctionTimes:
    """The calls of one function: how many took how long, the seconds of all, and the failures.

    ``limit`` is how long a call may take, in seconds. A call that is cancelled after that is a failure.
    """

    __slots__ = ("_limit", "counts", "errors", "seconds")

    def __init__(self, limit: float) -> None:
        self._limit: Final = limit
        #: The number of calls up to each of ``BOUNDS``, and above the last one. Not cumulative.
        self.counts: Final = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.errors = 0

    async def run(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Await ``function``, and return its result. Exceptions propagate; refusals are no failures."""
        begun = perf_counter()
        try:
            return await function(*arguments)
        except RoomcastError as error:
            self.errors += isinstance(error, InvalidEvent)
            raise
        except asyncio.CancelledError:
            # Timers are rounded, so a call that took too long may seem to have ended just before.
            self.errors += perf_counter() - begun >= 0.99 * self._limit
            raise
        except Exception:
            self.errors += 1
            raise
        finally:
            self.add(perf_counter() - begun)

    def add(self, seconds: float) -> None:
        """Count a call that took this long."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class PluginTimes:
    """The times of all functions of plugins. Functions of one plugin with the same name share an entry."""

    def __init__(self, limit: float) -> None:
        self._limit: Final = limit
        #: By plugin and function.
        self.functions: Final[dict[tuple[str, str], FunctionTimes]] = {}

    def of(self, plugin: str, function: str) -> FunctionTimes:
        """Return the entry of a function. Call it once for each function, at the start."""
        return self.functions.setdefault((plugin, function), FunctionTimes(self._limit))
