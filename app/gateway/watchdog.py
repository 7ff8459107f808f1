"""Find what blocks the event loop.

A handler that sleeps, computes or waits for a file without ``await`` stops all clients of its node, and leaves no
trace. A thread watches for that: it names the function in the log while the loop is blocked, and measures the delay.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any, Final

from ..plugin_functions import called_function
from ..registry import Registry
from .stacks import describe_frames, stack

log = logging.getLogger("roomcast")

#: How often the loop is asked to answer, in seconds. It is blocked if it has not answered when it should be asked again
#: ``PATIENCE`` times. The watchdog counts its own waits, so that a suspended machine is not taken for a block.
PERIOD: Final = 0.25
PATIENCE: Final = 2
#: How long the longest delay is reported, in seconds: between one and two windows.
WINDOW: Final = 30.0


class Watchdog:
    """Watches the running event loop with a thread. Create and start it on the loop."""

    def __init__(self, registry: Registry) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._functions: Final = _declared_functions(registry)
        self._thread_id: Final = threading.get_ident()
        self._cpu_clock: Final = _cpu_clock_of_this_thread()
        self._is_stopped: Final = threading.Event()
        #: The code that runs the loop. It calls everything else, and blocks nothing.
        self._base: frozenset[CodeType] = frozenset()
        #: The longest delay of this window and of the previous one, and the end of this window.
        self._longest = self._previous = 0.0
        self._window_end = time.monotonic() + WINDOW
        #: How often the loop was blocked for at least ``PATIENCE`` periods.
        self.stalls = 0

    @property
    def longest_delay(self) -> float:
        """The longest time that the loop took to answer in the last 30 to 60 s, in seconds."""
        return max(self._longest, self._previous)

    def start(self) -> None:
        """Start to watch."""
        self._loop.call_soon(self._learn_base)
        threading.Thread(target=self._run, name="roomcast watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop to watch. The thread ends within ``PERIOD``."""
        self._is_stopped.set()

    def _learn_base(self) -> None:
        own = inspect.currentframe()
        self._base = frozenset(frame.f_code for frame in stack(own and own.f_back))

    def _run(self) -> None:
        answered = threading.Event()
        while not self._is_stopped.wait(PERIOD):
            answered.clear()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop is closed
                return
            waits, is_reported = 0, False
            while not self._is_stopped.is_set():
                begun, used = time.monotonic(), self._cpu_time()
                if answered.wait(PERIOD):
                    break
                waits += self._periods(time.monotonic() - begun, self._cpu_time() - used)
                if waits >= PATIENCE and not is_reported and not answered.is_set():
                    self._report(time.monotonic() - asked)
                    is_reported = True
            delay = time.monotonic() - asked
            self._record(asked + delay, delay)
            if is_reported:
                log.warning("The event loop runs again, after it was blocked for about %.1f s", delay)

    def _periods(self, waited: float, used: float) -> int:
        """Return for how many periods a wait of ``waited`` s counts, in which the loop used ``used`` s of CPU time.

        A function of C that keeps Python's lock, such as a regular expression, stops this thread, too, and prolongs its
        wait. So does a suspended machine. The difference is that the loop's thread has used the CPU.
        """
        return PATIENCE if waited >= PATIENCE * PERIOD and used >= waited / 2 else 1

    def _cpu_time(self) -> float:
        """Return the CPU time of the loop's thread, in seconds; 0 where the system has no such clock."""
        return 0.0 if self._cpu_clock is None else time.clock_gettime(self._cpu_clock)

    def _record(self, now: float, delay: float) -> None:
        if now >= self._window_end:
            self._previous, self._longest = self._longest, 0.0
            self._window_end = now + WINDOW
        self._longest = max(self._longest, delay)

    def _report(self, seconds: float) -> None:
        """Log what the loop's thread is doing."""
        self.stalls += 1
        frame = sys._current_frames().get(self._thread_id)
        frames = list(itertools.takewhile(lambda one: one.f_code not in self._base, stack(frame)))
        log.warning(
            "The event loop has been blocked for %.1f s, and no client is served: it runs %s. Use `await` for "
            "everything that waits, and a thread for what blocks (see docs/plugins.md).",
            seconds,
            self._describe(frames),
        )

    def _describe(self, frames: list[FrameType]) -> str:
        """Describe a stack, whose innermost frame is first: the function that a plugin declared, and where it is."""
        declared = next((names for one in frames if (names := self._functions.get(one.f_code))), None)
        where = describe_frames(frames)
        return where if declared is None else f"the {' or '.join(declared)}, now in {where}"


def _cpu_clock_of_this_thread() -> int | None:
    if not hasattr(time, "pthread_getcpuclockid"):  # Windows and macOS
        return None
    return time.pthread_getcpuclockid(threading.get_ident())


def _declared_functions(registry: Registry) -> dict[CodeType, list[str]]:
    """Return the functions of all plugins in words, by their code. Several may share it, such as partial functions."""
    found: dict[CodeType, list[str]] = {}
    for loaded in registry:
        plugin = loaded.plugin
        functions: list[tuple[str, Any]] = [
            *((f"handler of command {one.type}", one.handler) for one in plugin.commands.values()),
            *((f"rule of room type {one.type}", one.rule) for one in plugin.rooms.values()),
            *((f"handler of route {one.method} {one.path}", one.handler) for one in plugin.routes),
            *((f"{one.kind} hook of {one.target}".removesuffix(" of "), one.function) for one in plugin.hooks),
            *((f"lifespan {getattr(one, '__name__', '')!r}", one) for one in plugin.lifespans),
        ]
        for what, function in functions:
            code = getattr(called_function(inspect.unwrap(function)), "__code__", None) if function else None
            if code is not None:
                found.setdefault(code, []).append(f"{what} of plugin {plugin.name!r}")
    return found
