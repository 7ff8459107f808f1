"""A clock that stands still until a test advances it: for the TTL of a history, a throttle, a grace period, a job.

``Clock`` replaces the time of an event loop. Everything on the loop that waits then waits for ``advance``: timers,
``asyncio.sleep`` and ``asyncio.timeout`` of the server, of plugins and of the test itself. The embedded broker reads
the same clock. Sockets, threads and other processes are not affected, and neither are ``time.time`` and
``time.monotonic``.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections.abc import Callable
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

#: After this many iterations of the event loop in which no callback was scheduled, nothing more happens at this time.
#: A frame through a socket of this machine takes one or two iterations.
_QUIET: Final = 5
#: ``advance`` goes on after this many iterations, for tasks that never wait.
_MOST: Final = 1000

_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, Clock] = WeakKeyDictionary()


class _Timer:
    """A call at a time: the part of ``asyncio.TimerHandle`` that its users call."""

    def __init__(
        self, when: float, number: int, function: Callable[[], object], context: contextvars.Context | None
    ) -> None:
        self._when = when
        self._number = number
        self._function = function
        self._is_cancelled = False
        self.context = context

    def __lt__(self, other: _Timer) -> bool:
        return (self._when, self._number) < (other._when, other._number)

    def when(self) -> float:
        """Return the time of the call."""
        return self._when

    def cancelled(self) -> bool:
        """Return True if the call was cancelled."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Do not call the function."""
        self._is_cancelled = True

    def run(self) -> None:
        """Call the function unless the call was cancelled."""
        if not self._is_cancelled:
            self._function()


class Clock:
    """The time of a server with the embedded broker. It stands still until ``advance``.

    ``running`` and the fixture ``gateway`` attach it to their event loop. When the server stops, the time goes on by
    itself.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now = 0.0
        self._timers: list[_Timer] = []
        self._numbers = itertools.count()
        #: How many callbacks were scheduled.
        self._scheduled = 0
        #: The difference between this clock and the loop's own, since the time goes on by itself. None before.
        self._lead: float | None = None

    @staticmethod
    def controls(loop: asyncio.AbstractEventLoop) -> bool:
        """Return True if the time of ``loop`` stands still until a clock is advanced."""
        clock = _clocks.get(loop)
        return clock is not None and clock._lead is None

    def time(self) -> float:
        """Return the time of this clock, in seconds. It is also that of ``loop.time()``."""
        return self._now if self._lead is None else self._real_time() + self._lead

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass: everything that waits for a time within them happens, in order, each at its time.

        Returns when nothing more happens at the new time without an answer from outside of the event loop: a thread,
        another process. Wait for the results of those with ``next``.

        Raises ``RuntimeError`` if no running server has this clock, and ``ValueError`` if ``seconds`` is negative.
        """
        if self._loop is not asyncio.get_running_loop() or self._lead is not None:
            raise RuntimeError("no server that runs here has this clock; start it with running(..., clock=clock)")
        if seconds < 0:
            raise ValueError(f"a clock can only be advanced, not set back by {-seconds:g} s")
        end = self._now + seconds
        await self._settle()
        while self._timers and self._timers[0].when() <= end:
            self._now = max(self._now, self._timers[0].when())
            while self._timers and self._timers[0].when() <= self._now:
                timer = heapq.heappop(self._timers)
                if not timer.cancelled():
                    self._loop.call_soon(timer.run, context=timer.context)
            await self._settle()
        self._now = end
        await self._settle()

    async def _settle(self) -> None:
        """Run the event loop until nothing more happens at this time."""
        quiet = 0
        for _ in range(_MOST):
            before = self._scheduled
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._scheduled - before <= 1 else 0  # this task itself counts as one
            if quiet == _QUIET:
                return

    # The event loop.

    def attach(self) -> None:
        """Replace the time of the running event loop. Servers that start on it later read this clock."""
        loop = asyncio.get_running_loop()
        if loop in _clocks:
            raise RuntimeError("this event loop has a clock already; give the same clock to all servers")
        self._loop = loop
        self._now = loop.time()
        _clocks[loop] = self
        replacements = {
            "time": self.time,
            "call_soon": self._call_soon,
            "call_later": self._call_later,
            "call_at": self._call_at,
        }
        for name, function in replacements.items():
            setattr(loop, name, function)

    def release(self) -> None:
        """Let the time go on by itself, so that the server can stop, and tasks can end."""
        if self._lead is not None:
            return
        self._lead = self._now - self._real_time()
        timers, self._timers = self._timers, []
        for timer in timers:
            if not timer.cancelled():
                self._call_at_real_time(timer.when(), timer.run, context=timer.context)

    def _own(self, name: str) -> Callable[..., Any]:
        """Return the loop's own method."""
        return cast("Callable[..., Any]", getattr(type(self._loop), name).__get__(self._loop))

    def _real_time(self) -> float:
        return cast(float, self._own("time")())

    def _call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        self._scheduled += 1
        return cast(asyncio.Handle, self._own("call_soon")(callback, *args, context=context))

    def _call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Timer | asyncio.TimerHandle:
        return self._call_at(self.time() + delay, callback, *args, context=context)

    def _call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Timer | asyncio.TimerHandle:
        if self._lead is not None:
            return self._call_at_real_time(when, callback, *args, context=context)
        timer = _Timer(when, next(self._numbers), lambda: callback(*args), context or contextvars.copy_context())
        heapq.heappush(self._timers, timer)
        return timer

    def _call_at_real_time(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        # asyncio's own loop computes delays with ``time``, which is replaced; uvloop computes them without it.
        if isinstance(self._loop, asyncio.BaseEventLoop):
            return cast(asyncio.TimerHandle, self._own("call_at")(when, callback, *args, context=context))
        delay = max(when - self.time(), 0.0)
        return cast(asyncio.TimerHandle, self._own("call_later")(delay, callback, *args, context=context))
