"""Find what blocks the event loop.

A handler that sleeps, computes or waits for a file without ``await`` stops all clients of its node, and leaves no
trace. A thread watches for that: it names the function in the log while the loop is blocked, and measures the delay.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from ..registry import Registry

log = logging.getLogger("roomcast")

#: How often the loop is asked to answer, in seconds. It is blocked if it has not answered when it should be asked again
#: ``PATIENCE`` times. The watchdog counts its own waits, so that a suspended machine is not taken for a block.
PERIOD: Final = 0.25
PATIENCE: Final = 2
#: How long the longest delay is reported, in seconds: between one and two windows.
WINDOW: Final = 30.0

_PACKAGE: Final = str(Path(__file__).resolve().parent.parent)
_LIBRARY: Final = sysconfig.get_paths()["stdlib"]
#: Within the package, these are treated as other people's plugins.
_BUILT_IN_PLUGINS: Final = ("roomcast.plugins",)


class Watchdog:
    """Watches the running event loop with a thread. Create and start it on the loop."""

    def __init__(self, registry: Registry) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._functions: Final = _declared_functions(registry)
        self._thread_id: Final = threading.get_ident()
        self._is_stopped: Final = threading.Event()
        #: The longest delay of this window and of the previous one, and the end of this window.
        self._longest = self._previous = 0.0
        self._window_end = time.monotonic() + WINDOW

    @property
    def longest_delay(self) -> float:
        """The longest time that the loop took to answer in the last 30 to 60 s, in seconds."""
        return max(self._longest, self._previous)

    def start(self) -> None:
        """Start to watch."""
        threading.Thread(target=self._run, name="roomcast watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop to watch. The thread ends within ``PERIOD``."""
        self._is_stopped.set()

    def _run(self) -> None:
        answered = threading.Event()
        while not self._is_stopped.wait(PERIOD):
            answered.clear()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop is closed
                return
            waits = 0
            while not answered.wait(PERIOD) and not self._is_stopped.is_set():
                waits += 1
                if waits == PATIENCE:
                    self._report()
            delay = time.monotonic() - asked
            self._record(asked + delay, delay)
            if waits >= PATIENCE and answered.is_set():
                log.warning("The event loop runs again, after it was blocked for about %.1f s", delay)

    def _record(self, now: float, delay: float) -> None:
        if now >= self._window_end:
            self._previous, self._longest = self._longest, 0.0
            self._window_end = now + WINDOW
        self._longest = max(self._longest, delay)

    def _report(self) -> None:
        """Log what the loop's thread is doing."""
        frame = sys._current_frames().get(self._thread_id)
        if frame is None:
            return
        frames = list(_stack(frame))
        log.warning(
            "The event loop has been blocked for %.1f s, and no client is served: %s. Use `await` for everything that "
            "waits, and a thread for long computations (see docs/plugins.md).",
            PERIOD * PATIENCE,
            self._describe(frames),
        )

    def _describe(self, frames: list[FrameType]) -> str:
        """Describe a stack, whose innermost frame is first: who runs, and where it is."""
        suspect = next((one for one in frames if _is_foreign(one)), frames[0])
        where = f"{suspect.f_code.co_qualname}, {suspect.f_code.co_filename}:{suspect.f_lineno}"
        declared = next((name for one in frames if (name := self._functions.get(one.f_code))), None)
        return f"it runs the {declared}, now in {where}" if declared is not None else f"it runs {where}"


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_foreign(frame: FrameType) -> bool:
    """Return True if the code of ``frame`` is neither roomcast's nor the standard library's."""
    if str(frame.f_globals.get("__name__", "")).startswith(_BUILT_IN_PLUGINS):
        return True
    name = frame.f_code.co_filename
    in_library = name.startswith(_LIBRARY) and "site-packages" not in name
    return not name.startswith((_PACKAGE, "<")) and not in_library


def _declared_functions(registry: Registry) -> dict[CodeType, str]:
    """Return the functions of all plugins in words, by their code."""
    found: dict[CodeType, str] = {}
    for loaded in registry:
        plugin = loaded.plugin
        functions: list[tuple[str, Any]] = [
            *((f"handler of command {one.type}", one.handler) for one in plugin.commands.values()),
            *((f"rule of room type {one.type}", one.rule) for one in plugin.rooms.values()),
            *((f"handler of route {one.method} {one.path}", one.handler) for one in plugin.routes),
            *(("lifespan", one) for one in plugin.lifespans),
        ]
        for what, function in functions:
            while hasattr(function, "__wrapped__"):
                function = function.__wrapped__
            code = getattr(function, "__code__", None)
            if code is not None:
                found[code] = f"{what} of plugin {plugin.name!r}"
    return found
