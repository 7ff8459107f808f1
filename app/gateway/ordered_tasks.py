"""Background work in order: for each key, one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final

from .tasks import cancel_tasks

_Work = tuple[Callable[..., Awaitable[None]], tuple[Any, ...], "asyncio.Future[None]"]


class OrderedTasks:
    """Runs functions in the background: those with the same key one after the other, the others at the same time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        #: Only keys with work. The first item is running.
        self._queues: Final[dict[Hashable, deque[_Work]]] = {}
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        #: The number of functions that run or wait.
        self.count = 0

    def start(self, key: Hashable, function: Callable[..., Awaitable[None]], *arguments: Any) -> asyncio.Future[None]:
        """Call ``function``, which must not raise, after the earlier ones with this ``key``.

        Return a future that is done when it has returned. It is cancelled if the node stops before that.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        self.count += 1
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
            task = self._loop.create_task(self._run(key, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append((function, arguments, done))
        return done

    def drop_last(self, key: Hashable, above: int) -> bool:
        """Drop the last function that waits under ``key`` if more than ``above`` run or wait; return True if so.

        Its future is done.
        """
        queue = self._queues.get(key)
        if queue is None or len(queue) <= above:
            return False
        *_, done = queue.pop()
        self.count -= 1
        if not done.done():
            done.set_result(None)
        return True

    async def _run(self, key: Hashable, queue: deque[_Work]) -> None:
        try:
            while queue:
                function, arguments, done = queue[0]
                await function(*arguments)
                queue.popleft()
                self.count -= 1
                if not done.done():
                    done.set_result(None)
        finally:
            del self._queues[key]
            self.count -= len(queue)
            for _, _, done in queue:
                done.cancel()

    async def finish(self, seconds: float) -> None:
        """Wait until nothing runs or waits, for at most ``seconds``."""
        deadline = self._loop.time() + seconds
        while self._tasks and (rest := deadline - self._loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=rest)

    async def cancel(self) -> None:
        """Cancel what runs, and drop what waits."""
        await cancel_tasks(self._tasks)
