"""The threads in which plain functions of plugins run. Each plugin has threads of its own.

``asyncio.to_thread`` is not used, because Python waits for its threads before it ends the process, without a limit. A
function that hangs would therefore keep a server from stopping, and would take a thread from all other users.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from ..errors import Unavailable

log = logging.getLogger("roomcast")

#: How many functions of a plugin run at once. Threads are started when they are needed, and stay until the node stops.
MAX_THREADS: Final = 40

_CUT_OFF: Final = "the caller does not wait for this function any more"


class _Call:
    """A call of ``function`` in a thread. The caller waits for ``done``."""

    __slots__ = ("awaited", "context", "done", "function", "is_cut_off")

    def __init__(self, function: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        self.function: Final = function
        self.done: Final = done
        self.context: Final = contextvars.copy_context()
        self.context.run(_current.set, self)
        #: True if the caller was cancelled. Nothing can stop the thread, which goes on.
        self.is_cut_off = False
        #: What the function waits for in ``from_thread``.
        self.awaited: concurrent.futures.Future[Any] | None = None

    def cut_off(self) -> None:
        """Let the function end at its current or its next call of ``from_thread``."""
        self.is_cut_off = True
        awaited = self.awaited
        if awaited is not None:
            awaited.cancel()

    def __str__(self) -> str:
        function = self.function
        while isinstance(function, partial):
            function = function.func
        name = getattr(function, "__qualname__", None)
        return repr(function) if name is None else f"function {name} of module {function.__module__}"


#: The call in which a thread runs.
_current: Final[contextvars.ContextVar[_Call | None]] = contextvars.ContextVar("roomcast thread", default=None)


class Threads:
    """The threads of one plugin on a node. Create it on the event loop.

    ``patience`` is how long a call waits for a free thread, in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self._loop: Final = loop
        self._loop_thread: Final = threading.get_ident()
        self._patience: Final = patience
        self._slots: Final = asyncio.Semaphore(MAX_THREADS)
        self._started = 0
        #: The calls that run or are about to, at most one for each thread.
        self._running: Final[set[_Call]] = set()
        self._queue: Final[SimpleQueue[_Call | None]] = SimpleQueue()
        self._is_closed = False

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` in a thread, with a copy of the context variables; return its result.

        Raises the exception of ``function``, and ``Unavailable`` if all threads are busy for ``patience`` seconds. If
        the caller is cancelled, the function goes on without it.
        """
        await self._wait_for_slot()
        call = _Call(function, self._loop.create_future())
        try:
            if self._is_closed:
                raise Unavailable("The server has stopped.")
            if len(self._running) == self._started:
                # A daemon, so that a function that hangs does not keep the process from ending.
                name = f"roomcast plugin thread {self._started + 1}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
                self._started += 1
        except BaseException:
            self._slots.release()
            raise
        self._running.add(call)
        self._queue.put(call)
        try:
            return await call.done
        except asyncio.CancelledError:
            call.cut_off()
            raise

    async def _wait_for_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError:
            raise Unavailable(f"All {MAX_THREADS} threads for plain functions are busy.") from None

    def call(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` on the event loop, await the result if it can be awaited, and return it.

        Raises ``RuntimeError`` on the event loop itself, and ``CancelledError`` in a thread whose caller was cancelled.
        """
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError("from_thread is for threads; on the event loop, call the function and await its result.")
        call = _current.get()
        if call is not None and call.is_cut_off:
            raise asyncio.CancelledError(_CUT_OFF)
        future = self._submit(_call_and_await(function))
        if call is not None:
            call.awaited = future
            if call.is_cut_off:  # just now
                future.cancel()
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError(_CUT_OFF if call is not None and call.is_cut_off else "") from None
        finally:
            if call is not None:
                call.awaited = None

    def _submit(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop is closed
            work.close()
            raise

    def _work(self) -> None:
        """Carry out calls, one after the other. The target of each thread."""
        while (call := self._queue.get()) is not None:
            result = error = None
            try:
                result = call.context.run(call.function)
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._finish, call, result, error)
            except RuntimeError:  # the loop is closed
                return
            del call, result, error  # an idle thread would keep them

    def _finish(self, call: _Call, result: Any, error: BaseException | None) -> None:
        self._running.discard(call)
        self._slots.release()
        if call.done.done():
            if error is not None and not isinstance(error, asyncio.CancelledError):
                log.warning("%s failed in its thread, after its caller had stopped waiting", call, exc_info=error)
        elif error is None:
            call.done.set_result(result)
        elif isinstance(error, StopIteration):  # a future does not accept it
            failure = RuntimeError("the function raised StopIteration")
            failure.__cause__ = error
            call.done.set_exception(failure)
        else:
            call.done.set_exception(error)

    def close(self) -> None:
        """Let the threads end. Name the functions that still run; the process does not wait for them."""
        self._is_closed = True
        for call in self._running:
            log.error("%s does not end in its thread; the server stops without it", call)
        for _ in range(self._started):
            self._queue.put(None)


async def _call_and_await(function: Callable[[], Any]) -> Any:
    result = function()
    return await result if inspect.isawaitable(result) else result
