"""End a process although code of plugins does not end.

asyncio waits for all tasks and for the threads of ``asyncio.to_thread`` when a loop is closed, and Python waits for all
other threads when the process ends, both without a limit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from .. import output
from ..gateway.stacks import describe_task, describe_thread
from ..gateway.tasks import CANCEL_TIMEOUT, cancel_tasks

log = logging.getLogger("roomcast")

#: How long threads may take to end when the process does, in seconds. Libraries send then what they have collected.
THREAD_TIMEOUT: Final = 5.0
#: How the names of the threads of ``asyncio.to_thread`` begin.
EXECUTOR_THREADS: Final = "asyncio"

_LEFT: Final = "%s does not end; the process ends without it"


async def end_tasks() -> bool:
    """End the tasks that are left and the threads of ``asyncio.to_thread``, and return True.

    If some do not end within a second, log them and return False. The caller must then call ``end_now``.
    """
    stuck = await cancel_tasks(asyncio.all_tasks() - {asyncio.current_task()})
    for task in stuck:
        log.error("%s does not end, although it was cancelled; the process ends without it", describe_task(task))
    loop = asyncio.get_running_loop()
    own = {thread for thread in threading.enumerate() if thread.name.startswith(f"{EXECUTOR_THREADS}_")}
    threads = loop.create_task(loop.shutdown_default_executor())
    await asyncio.wait([threads], timeout=CANCEL_TIMEOUT)
    if not threads.done():
        for thread in own:
            if thread.is_alive():
                log.error(_LEFT, describe_thread(thread))
    return not stuck and threads.done()


@contextmanager
def end_despite_threads() -> Iterator[None]:
    """At the end of the block, limit the time for which threads may keep this process from ending.

    The block must be the last that the process does. Its threads have ``THREAD_TIMEOUT`` from then on. Those of
    executors end by themselves when Python ends, so it is too early to tell which ones are stuck.
    """
    status = 1
    try:
        yield
        status = 0
    finally:
        if any(_is_waited_for(thread) for thread in threading.enumerate()):
            threading.Thread(target=_end_later, args=(status,), name="roomcast process end", daemon=True).start()


def _is_waited_for(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()


def _end_later(status: int) -> None:
    time.sleep(THREAD_TIMEOUT)
    for thread in threading.enumerate():
        if _is_waited_for(thread):
            log.error(_LEFT, describe_thread(thread))
    end_now(status)


def end_now(status: int) -> NoReturn:
    """End the process at once, without waiting for anything but the log."""
    output.flush()
    sys.stderr.flush()
    os._exit(status)
