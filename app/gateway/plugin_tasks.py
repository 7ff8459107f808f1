"""The tasks that plugins start with ``service.spawn``, and those of their periodic functions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from ..errors import Unavailable

log = logging.getLogger("roomcast")

_T = TypeVar("_T")


class PluginTasks:
    """The tasks of all plugins of one node. A failure is logged with the name of the task and its plugin."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._tasks: Final[set[asyncio.Task[Any]]] = set()
        self._is_closed = False

    def spawn(self, plugin: str, work: Coroutine[Any, Any, _T], name: str | None = None) -> asyncio.Task[_T]:
        """Run ``work`` in a task of ``plugin``; return the task. ``name`` is by default that of its function.

        Raises ``Unavailable`` if the node stops.
        """
        if self._is_closed:
            work.close()
            raise Unavailable("The server stops.")
        shown = name or getattr(work, "__qualname__", "task")
        task = self._loop.create_task(work, name=f"task {shown!r} of plugin {plugin!r}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def cancel(self, timeout: float) -> None:  # noqa: ASYNC109
        """Start no more tasks, cancel all, and wait up to ``timeout`` seconds for their end."""
        self._is_closed = True
        waiting = set(self._tasks)
        for task in waiting:
            task.cancel()
        if not waiting:
            return
        _, left = await asyncio.wait(waiting, timeout=timeout)
        for task in left:
            log.error("%s does not end, although it was cancelled; the server stops without it", task.get_name())
