"""Call one hook: with a time limit, so that a hook that fails or hangs concerns nothing else."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, NoReturn

from ..errors import InvalidEvent, Refused, Unavailable
from ..failure_log import EXCEPTION_LINES, FailureLog, place_of
from ..plugin_hooks import Hook
from .plugin_times import PluginTimes

log = logging.getLogger("roomcast.hooks")

#: How long a hook that was cancelled may take to end, in seconds. Then the log has its name.
_CANCEL_TIMEOUT: Final = 5.0


class HookCalls:
    """Calls the hooks of one node. ``timeout`` is how long one may take, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, times: PluginTimes, timeout: float) -> None:
        self._loop: Final = loop
        self._times: Final = times
        self._timeout: Final = timeout
        self._failures: Final = FailureLog(log, EXCEPTION_LINES)
        #: The tasks of hooks that were cancelled and have not ended. Nothing waits for them.
        self._cancelled: Final[set[asyncio.Task[Any]]] = set()

    async def notify(self, hook: Hook, *arguments: Any) -> None:
        """Call a hook, and log its failure. Never raises, except if this is cancelled."""
        try:
            await self._run(hook, arguments)
        except Unavailable as unavailable:
            self._log(hook, f"could not finish: {unavailable.detail}", None)
        except Exception as error:
            self._log(hook, "failed", error)

    async def decide(self, hook: Hook, what: str, *arguments: Any) -> Any:
        """Call a hook before ``what``; return its result.

        Raises ``Refused`` if it refuses, ``Unavailable`` if it fails: then it has not decided.
        """
        try:
            return await self._run(hook, arguments)
        except InvalidEvent as error:  # an event that the hook published; that is a fault of its plugin
            self.failed(hook, what, error)
        except Refused:
            raise
        except Unavailable as unavailable:
            self._log(hook, f"could not finish: {unavailable.detail}", None)
            raise
        except Exception as error:
            self.failed(hook, what, error)

    def failed(self, hook: Hook, what: str, error: Exception) -> NoReturn:
        """Log that a hook has failed, and raise ``Unavailable``, because it has not decided about ``what``."""
        self._log(hook, "failed", error)
        raise Unavailable(f"A check of {what} failed.", f"The {hook} failed before {what}.") from None

    async def _run(self, hook: Hook, arguments: tuple[Any, ...]) -> Any:
        """Call a hook in a task of its own, because it may suppress its cancellation."""
        times = self._times.of(hook.plugin, hook.name)
        task = self._loop.create_task(times.run(hook.function, *arguments), name=str(hook))
        try:
            await asyncio.wait((task,), timeout=self._timeout)
        except asyncio.CancelledError:
            self._cancel(task)
            raise
        if not task.done():
            self._cancel(task)
            raise Unavailable("A plugin took too long.", f"it took over {self._timeout:g} s (HANDLER_TIMEOUT)")
        if task.cancelled():
            raise RuntimeError("it awaited a cancelled task")
        return task.result()

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        self._cancelled.add(task)
        report = self._loop.call_later(_CANCEL_TIMEOUT, self._report, task)

        def ended(task: asyncio.Task[Any]) -> None:
            report.cancel()
            self._cancelled.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("The %s failed after it was cancelled", task.get_name(), exc_info=error)

        task.add_done_callback(ended)

    def _report(self, task: asyncio.Task[Any]) -> None:
        log.error(
            "The %s does not end, although it was cancelled. It must let CancelledError through.", task.get_name()
        )

    def _log(self, hook: Hook, text: str, error: Exception | None) -> None:
        cause = f"{hook} {text if error is None else place_of(error)}"
        self._failures.add(cause, f"The {hook} {text}", error)
