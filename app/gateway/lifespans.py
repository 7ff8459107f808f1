"""Run the lifespans of plugins, and end their tasks before that.

Each runs from its start to its end in one task of its own, because libraries with cancel scopes, such as
``asyncio.TaskGroup``, need one task for both halves. Both halves have a time limit, so that a lifespan that hangs
cannot keep the server from starting or stopping.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from ..declarations import Lifespan
from ..errors import PluginError
from ..registry import LoadedPlugin
from ..service import Service
from .plugin_tasks import PluginTasks

log = logging.getLogger("roomcast")

#: How long a cancelled lifespan may take to end, in seconds.
_CANCEL_TIMEOUT: Final = 1.0
#: The log names a lifespan that takes longer than this, in seconds. Kubernetes kills a process after 30 s by default,
#: which may be earlier than the limit.
_REPORT_AFTER: Final = 5.0


class RunningLifespan:
    """One lifespan in its task.

    ``name`` identifies it in messages: its function and its plugin. ``timeout`` is the limit for its start, in seconds.
    """

    def __init__(self, name: str, lifespan: Lifespan, service: Service, timeout: float) -> None:
        self.name: Final = name
        self._timeout: Final = timeout
        self._started: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._stop: Final = asyncio.Event()
        self._task: Final = asyncio.create_task(self._run(lifespan, service), name=name)

    async def _run(self, lifespan: Lifespan, service: Service) -> None:
        async with lifespan(service):
            self._started.set_result(None)
            await self._stop.wait()

    async def start(self) -> None:
        """Wait until the lifespan has started. Raises ``PluginError`` if it fails or takes too long."""
        try:
            await self._wait("started", self._timeout, self._task, self._started)
        except asyncio.CancelledError:
            await self._cancel()
            raise
        if self._task.done():
            error = _failure(self._task)
            reason = "it has ended already" if error is None else f"{type(error).__name__}: {error}"
            raise PluginError(f"{self.name} failed as it started: {reason}.") from error
        if not self._started.done():
            has_ended = await self._cancel()
            more = "" if has_ended else " It does not end, although it was cancelled."
            raise PluginError(f"{self.name} did not start within {self._timeout:g} s (LIFESPAN_TIMEOUT).{more}")
        self._task.add_done_callback(self._ended)

    async def _wait(self, what: str, timeout: float, *futures: asyncio.Future[None]) -> None:  # noqa: ASYNC109
        """Wait for the first of ``futures``, for at most ``timeout`` seconds; log if that takes long."""
        first = min(timeout, _REPORT_AFTER)
        done, _ = await asyncio.wait(futures, timeout=first, return_when=asyncio.FIRST_COMPLETED)
        if done or timeout <= first:
            return
        sentence = "%s has not %s after %g s; the server waits for it, up to LIFESPAN_TIMEOUT"
        log.warning(sentence, self.name, what, first)
        await asyncio.wait(futures, timeout=timeout - first, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109
        """Let the lifespan end. Log a failure, and go on if it takes more than ``timeout`` seconds."""
        self._stop.set()
        await self._wait("stopped", timeout, self._task)
        if self._task.done():
            return
        if await self._cancel():
            log.error("%s did not stop in time (LIFESPAN_TIMEOUT is %g s), and was cancelled", self.name, self._timeout)
        else:
            log.error("%s does not stop, although it was cancelled; the server stops without it", self.name)

    async def _cancel(self) -> bool:
        """Cancel the lifespan; return False if it does not end."""
        self._task.cancel()
        done, _ = await asyncio.wait([self._task], timeout=_CANCEL_TIMEOUT)
        return bool(done)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if error := _failure(task):
            when = "as it stopped" if self._stop.is_set() else "while the server runs"
            log.error("%s failed %s", self.name, when, exc_info=error)
        elif not self._stop.is_set():
            log.error("%s has ended while the server runs", self.name)


class Lifespans:
    """The lifespans of all plugins of one node.

    ``services`` are those of the plugins, by their names. ``timeout`` is the limit for each start, and for the stop of
    all of them together, in seconds.
    """

    def __init__(self, services: Mapping[str, Service], tasks: PluginTasks, timeout: float) -> None:
        self._services: Final = services
        self._tasks: Final = tasks
        self._timeout: Final = timeout
        self._running: Final[list[RunningLifespan]] = []

    async def start(self, plugins: Iterable[LoadedPlugin]) -> None:
        """Start the lifespans one after the other. Raises ``PluginError``."""
        for loaded in plugins:
            for lifespan in loaded.plugin.lifespans:
                function = getattr(lifespan, "__name__", "lifespan")
                name = f"lifespan {function!r} of plugin {loaded.plugin.name!r} ({loaded.source})"
                running = RunningLifespan(name, lifespan, self._services[loaded.plugin.name], self._timeout)
                await running.start()
                self._running.append(running)

    async def stop(self) -> None:
        """Cancel the tasks of the plugins, then stop the lifespans in reverse order.

        Half of the time is for the tasks, so that one that does not end leaves time for the lifespans.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        await self._tasks.cancel(self._timeout / 2)
        while self._running:
            await self._running.pop().stop(max(deadline - loop.time(), 0.0))


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    """Return the exception of ``task``, which is done."""
    return asyncio.CancelledError("it was cancelled") if task.cancelled() else task.exception()
