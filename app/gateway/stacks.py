"""Describe for the log where the code of a plugin is: in a stack, a task or a thread."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from ..fastpath.eager import resumed_coroutine

#: Built-in plugins count as the code of others.
_BUILT_IN_PLUGINS = ("roomcast.plugins",)


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield ``frame`` and its callers, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def describe_frames(frames: Iterable[FrameType]) -> str:
    """Describe a stack, whose innermost frame is first.

    The description has the innermost frame of a plugin or library, and what that has called of Python or roomcast.
    """
    innermost, suspect = None, None
    for frame in frames:
        innermost = innermost or frame
        if _is_foreign(frame):
            suspect = frame
            break
    if innermost is None:
        return "a function without Python code"
    if suspect is None or suspect is innermost:
        return _place(innermost)
    return f"{_place(suspect)}, which called {_place(innermost)}"


def describe_task(task: asyncio.Task[Any]) -> str:
    """Return the name of a task, and where it waits."""
    frames: list[FrameType] = []
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        inner = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        if frame is not None:
            frames.append(frame)
            inner = resumed_coroutine(frame) or inner
        coroutine = inner
    return f"task {task.get_name()!r} (in {describe_frames(reversed(frames))})"


def describe_thread(thread: threading.Thread) -> str:
    """Return the name of a thread, and where it is."""
    frame = sys._current_frames().get(thread.ident or 0)
    return f"thread {thread.name!r} (in {describe_frames(stack(frame))})"


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}"


def _is_foreign(frame: FrameType) -> bool:
    """Return True if the code of ``frame`` is neither roomcast's nor of the standard library."""
    module = str(frame.f_globals.get("__name__", ""))
    if module.startswith(_BUILT_IN_PLUGINS):
        return True
    package = module.partition(".")[0]
    return package != "roomcast" and package not in sys.stdlib_module_names
