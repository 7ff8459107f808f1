"""The background tasks of one node. No client waits for their result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from ..errors import Unavailable
from ..fastpath.eager import EagerRunner, SuspendedCoroutine

log = logging.getLogger("roomcast")


#: How long cancelled tasks may take to end, in seconds. Code of a plugin may suppress the cancellation.
CANCEL_TIMEOUT: Final = 1.0


async def cancel_tasks(tasks: Iterable[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Cancel ``tasks`` and wait up to ``CANCEL_TIMEOUT`` for their end; return those that do not end."""
    waiting = set(tasks)
    for task in waiting:
        task.cancel()
    return (await asyncio.wait(waiting, timeout=CANCEL_TIMEOUT))[1] if waiting else waiting


class BackgroundTasks:
    """Runs coroutines in the background and logs their failures."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        #: Starts coroutines without a task for each.
        self.eager: Final = EagerRunner(loop)
        self._tasks: Final[set[asyncio.Task[Any]]] = set()
        #: The subset of ``_tasks`` that removes clients from rooms.
        self._departures: Final[set[asyncio.Task[Any]]] = set()

    @property
    def has_departures(self) -> bool:
        """True while a client is being removed from rooms."""
        return bool(self._departures)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` in a task."""
        self._keep(self._loop.create_task(work))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run ``work`` until it returns or waits; return the task of the rest, or None. Its exceptions propagate."""
        suspended = self.eager.start(work)
        return suspended.task if isinstance(suspended, SuspendedCoroutine) else None

    def start_departure(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, which removes a client from rooms, until it waits; the rest continues in a task."""
        try:
            rest = self.start(work)
        except Exception:
            log.exception("Removing a client from its rooms failed")
        else:
            if rest is not None:
                self._keep(rest)
                self._departures.add(rest)
                rest.add_done_callback(self._departures.discard)

    async def cancel(self) -> None:
        """Cancel all tasks, and wait up to ``CANCEL_TIMEOUT`` for their end."""
        await cancel_tasks(self._tasks)

    def close(self) -> None:
        """Release the eager runner."""
        self.eager.close()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, Unavailable):
            log.warning("A background task was not finished: %s", error.detail)
        else:
            log.error("A background task failed", exc_info=error)
