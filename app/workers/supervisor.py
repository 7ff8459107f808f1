"""``roomcast serve --workers N``: the supervisor of several processes that serve one port.

The supervisor binds the port and starts the workers. Each worker runs the same command again; ``worker.VARIABLE`` in
its environment makes it a worker. A worker that dies is started again, and one that hangs is killed.

Each worker has a channel (``ipc.py``) to the supervisor. A worker reports that it is ready, or why it cannot start, and
answers pings. The supervisor sends the order to stop. The end of the channel counts as that order, so workers stop when
the supervisor is killed. The order is a message and not a signal, because systemd signals all processes of a service at
once: a worker would get a second signal, which ends it without a drain.

Metrics are sent over the same channels. Sockets at paths would need a writable directory, which not every container
has, and a cleanup after crashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, Final

from .. import registry
from ..backoff import Backoff, wait_at_most
from ..errors import SettingsError
from ..registry import Registry
from ..settings import Settings
from ..web.port import Address, ListenError
from . import process
from .ipc import GATHER, GATHERED, READY, RELOAD, STOPPING, Channel
from .listen_errors import StartError, explain_listen_error
from .listening_sockets import ListeningSockets
from .process_end import end_despite_threads
from .process_signals import HANGUP, IGNORED_SIGNALS, STOP_SIGNALS, end_by, log_ignored, log_stop
from .worker import VARIABLE
from .worker_process import HEARTBEAT, MAX_MISSED, WorkerProcess

log = logging.getLogger("roomcast")

#: The back-off of a worker begins again after it has run for this many seconds.
STEADY: Final = 60.0
#: The pauses before a worker is started again, in seconds. The first restart has none.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
#: How long to read the last messages of a worker that has ended, in seconds.
_DRAIN_TIMEOUT: Final = 1.0


def check(count: int, settings: Settings, system: str = os.name) -> None:
    """Raise ``SettingsError`` if ``count`` workers are not possible with these settings or on this system."""
    if count == 1:
        return
    if settings.redis_url is None:
        raise SettingsError(
            f"--workers {count} needs REDIS_URL: workers exchange their events through Redis, and the embedded broker "
            "serves one process only. Set REDIS_URL, or run one worker."
        )
    if system != "posix":
        raise SettingsError(
            f"--workers {count} does not work on Windows, where processes cannot share a port. Run several "
            "`roomcast serve`, each on a port of its own, behind a proxy."
        )


class _Slot:
    """One of the workers. Its number and sockets stay the same when another process replaces it."""

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.process: asyncio.subprocess.Process | None = None
        #: The running process as seen over its channel.
        self.worker: WorkerProcess | None = None
        #: True once one of its processes was ready.
        self.has_served = False
        #: The reason that the last process gave for its failed start.
        self.failure = ""


class Supervisor:
    """Keeps ``count`` workers running until a stop signal arrives, then drains them. A second one kills them.

    ``ports`` are the sockets of the public port, and those of the internal port if there is one. Workers serve the
    internal port while they drain, so it is closed when they have ended.
    """

    def __init__(self, settings: Settings, plugins: Registry, ports: Sequence[ListeningSockets], count: int) -> None:
        self._settings: Final = settings
        self._plugins: Final = plugins
        self._ports: Final = ports
        self._public: Final = ports[0]
        self._slots: Final = [_Slot(number) for number in range(1, count + 1)]
        self._stopping: Final = asyncio.Event()
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    async def run(self) -> None:
        """Run the workers until the stop. Raises ``StartError`` if a worker could not start the first time."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_stop, number)
        for number in HANGUP:
            loop.add_signal_handler(number, self._reload)
        for number in IGNORED_SIGNALS:
            loop.add_signal_handler(number, log_ignored, number)
        tasks = [asyncio.create_task(self._keep_running(slot)) for slot in self._slots]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._stop()
            await asyncio.wait(tasks)
            for port in self._ports:
                port.close_all()
        for task in tasks:
            task.result()
        log.info("roomcast has stopped")

    def _on_stop(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            log_stop(number)
            self._stop()
            return
        for slot in self._slots:
            if slot.process is not None and slot.process.returncode is None:
                slot.process.kill()
        end_by(number)

    def _reload(self) -> None:
        """Let each worker read its files again. A worker that starts reads them anyway."""
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.channel.send(RELOAD)

    def _stop(self) -> None:
        """Stop the workers. Close the public port when the workers drain: before that, both accept connections.

        Sockets accept connections as long as any process has them open.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.stop()
        if delay := self._settings.shutdown_delay:
            asyncio.get_running_loop().call_later(delay, self._public.close_all)
        else:
            self._public.close_all()

    def _close_sockets(self, slot: _Slot) -> None:
        for port in self._ports:
            port.close(slot.number)

    # One worker.

    async def _keep_running(self, slot: _Slot) -> None:
        """Run a worker, and start it again each time it has ended."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, immediate=1)
        while not self._stopping.is_set():
            started = time.monotonic()
            end = await self._run_worker(slot)
            if self._stopping.is_set():
                self._close_sockets(slot)  # connections in its queue would wait until the other workers stop
                return
            if not slot.has_served:
                reason = f"Worker {slot.number} {end} before it could serve; the log above says why."
                raise StartError(slot.failure or reason)
            if time.monotonic() - started >= STEADY:
                backoff.reset()
            await self._pause(slot, end, backoff.next_pause())

    async def _pause(self, slot: _Slot, end: str, pause: float) -> None:
        """Wait ``pause`` seconds before a worker is started again. ``end`` describes how the last process ended."""
        if pause:
            self._close_sockets(slot)
        failure = f" ({slot.failure})" if slot.failure else ""
        when = f"in {pause:g} s" if pause else "now"
        log.warning("worker %d %s%s; it is started again %s", slot.number, end, failure, when)
        await wait_at_most(self._stopping, pause)

    async def _run_worker(self, slot: _Slot) -> str:
        """Run a worker until it ends. Return how it ended, in words that follow "worker 1"."""
        slot.failure = ""
        own_end, worker_end = socket.socketpair()
        try:
            with worker_end:
                slot.process = child = await self._spawn(slot, worker_end)
        except OSError as error:
            own_end.close()
            return f"could not be started ({error})"
        slot.worker = worker = WorkerProcess(await Channel.open(own_end), partial(self._on_message, slot))
        if self._stopping.is_set():
            worker.stop()
        receiving = asyncio.create_task(worker.receive())
        watching = asyncio.create_task(self._kill_when_hung(slot, worker, child))
        status = await child.wait()
        watching.cancel()
        # ``receive`` returns when the process ends. A process that a plugin has forked may keep the channel open.
        await asyncio.wait([receiving], timeout=_DRAIN_TIMEOUT)
        receiving.cancel()
        worker.channel.close()
        slot.worker, slot.failure = None, worker.failure
        end = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"(process {child.pid}) {end}"

    async def _kill_when_hung(self, slot: _Slot, worker: WorkerProcess, child: asyncio.subprocess.Process) -> None:
        """Kill a worker that hangs, so that its clients reconnect and its share of new connections is served again."""
        await worker.wait_until_hung()
        log.error(
            "worker %d (process %d) has not answered for %g s: it is stopped, or something blocks its event loop; "
            "it is killed",
            *(slot.number, child.pid, HEARTBEAT * MAX_MISSED),
        )
        with contextlib.suppress(ProcessLookupError):
            child.kill()

    async def _spawn(self, slot: _Slot, channel: socket.socket) -> asyncio.subprocess.Process:
        """Run this command again as the worker of ``slot``.

        The worker gets a process group of its own. Otherwise Ctrl-C would reach it too, and it would stop twice.
        """
        sockets = [port.of(slot.number) for port in self._ports]
        files = [sock.fileno() for sock in (channel, *chain(*sockets))]
        options: dict[str, Any] = {"pass_fds": files, "process_group": 0, "stdin": subprocess.DEVNULL}
        environ = os.environ | {VARIABLE: ",".join(map(str, (slot.number, len(self._slots), len(sockets[0]), *files)))}
        return await asyncio.create_subprocess_exec(sys.executable, *sys.orig_argv[1:], env=environ, **options)

    # Messages.

    def _on_message(self, slot: _Slot, worker: WorkerProcess, kind: str) -> None:
        if kind == STOPPING:
            self._public.close(slot.number)
        elif kind == GATHER:
            task = asyncio.create_task(self._gather_metrics(worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind == READY and not slot.has_served:
            slot.has_served = True
            if all(each.has_served for each in self._slots):
                urls = [process.urls_of(port.address, port.port) for port in self._ports]
                process.log_start(urls, self._settings, self._plugins, len(self._slots))

    async def _gather_metrics(self, asking: WorkerProcess) -> None:
        """Send the metrics of all other workers to the one that asks."""
        others = {
            slot.number: slot.worker for slot in self._slots if slot.worker is not None and slot.worker is not asking
        }
        texts = await asyncio.gather(*(worker.metrics() for worker in others.values()))
        asking.channel.send(GATHERED, json.dumps(dict(zip(others, texts, strict=True))).encode())


@end_despite_threads()
def supervise(settings: Settings, address: Address, internal: Address | None, count: int) -> None:
    """Serve with ``count`` workers until a stop signal arrives. Raises what ``process.run`` raises."""
    plugins = registry.load(names=settings.plugins)
    # A wrong REDIS_URL, option of a room type or setting of a plugin is reported once, not by each worker.
    process.broker_name(settings)
    plugins.room_options(settings)
    plugins.plugin_settings(settings)
    ports = [ListeningSockets(each) for each in (address, internal) if each is not None]
    try:
        for port in ports:
            port.check_port()
            for number in range(1, count + 1):
                port.of(number)
    except ListenError as error:
        raise StartError(explain_listen_error(error) or f"roomcast cannot listen: {error}.") from error
    asyncio.run(Supervisor(settings, plugins, ports, count).run())
