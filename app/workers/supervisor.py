"""``roomcast serve --workers N``: several processes that serve one port, and one that minds them.

The parent binds the port and starts the workers, each of which is this very command, told by ``VARIABLE`` which worker
it is and which of its open files are its channel to the parent and the sockets to listen on. A worker that dies is
started again; one that hangs is killed for it.

Over the channel a worker says that it is ready, or why it is not, and that it still answers; the parent says when to
stop, and so does the channel's end. So a parent that was killed takes its workers along, and where all processes are
signalled at once, as systemd does, none of them takes what its parent has to say for the second signal, which would
cut its clients off.

The workers' metrics go that way, too: sockets at paths would need a directory that can be written, which not every
container has, and somebody to remove it after a crash.
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
from functools import partial
from typing import Any, Final

from .. import registry
from ..errors import SettingsError
from ..registry import Registry
from ..settings import Settings
from ..web.server import Address
from . import process
from .ipc import GATHER, GATHERED, READY, STOPPING, Channel
from .listening_sockets import ListeningSockets
from .worker import VARIABLE
from .worker_process import HEARTBEAT, MAX_MISSED, WorkerProcess

log = logging.getLogger("roomcast")

#: A worker that lived so long, in seconds, did not die of its start.
STEADY: Final = 60.0
#: After the first death one is started again at once; if it dies soon, after a pause that doubles, in seconds.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
#: How long what a worker said last may take to be read after its end, in seconds.
_LAST_WORDS: Final = 1.0


def check(count: int, settings: Settings, system: str = os.name) -> None:
    """Raise ``SettingsError`` if there cannot be ``count`` workers here."""
    if count == 1:
        return
    if settings.redis_url is None:
        raise SettingsError(
            f"--workers {count} needs REDIS_URL, by which processes hear of each other's events; without it the "
            "embedded broker is used, and that serves one process. Run one worker."
        )
    if system != "posix":
        raise SettingsError(
            f"--workers {count} does not work on Windows, where processes do not share a port; run one "
            "`roomcast serve` for each, on ports of their own, behind a proxy."
        )


class _Worker:
    """One of the workers, over all its lives."""

    def __init__(self, number: int, sockets: list[socket.socket]) -> None:
        self.number: Final = number
        self.sockets = sockets
        self.process: asyncio.subprocess.Process | None = None
        self.life: WorkerProcess | None = None
        #: Whether any of its lives was ready; and what it said of its failure in the last.
        self.served = False
        self.sentence = ""


class Supervisor:
    """Keeps ``count`` workers running until SIGTERM or SIGINT, then lets them drain; a second signal ends all."""

    def __init__(
        self, settings: Settings, address: Address, plugins: Registry, door: ListeningSockets, count: int
    ) -> None:
        self._settings: Final = settings
        self._address: Final = address
        self._plugins: Final = plugins
        self._door: Final = door
        self._workers: Final = [_Worker(number, door.open()) for number in range(1, count + 1)]
        self._stopping: Final = asyncio.Event()
        self._gathering: Final[set[asyncio.Task[None]]] = set()

    async def run(self) -> None:
        """Return after the stop. Raises ``StartError`` if a worker ended before it ever served."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        try:
            await asyncio.wait(keeping, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._stop()
            await asyncio.wait(keeping)
        for each in keeping:
            each.result()
        log.info("roomcast has stopped")

    def _signalled(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            log.info("%s: closing connections, then stopping; a second one stops at once", number.name)
            self._stop()
            return
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                worker.process.kill()
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _stop(self) -> None:
        """Close the door at once, for a socket listens as long as anybody has it open; then tell the workers."""
        self._stopping.set()
        self._door.close_all()
        for worker in self._workers:
            self._door.close(worker.sockets)
            if worker.life is not None:
                worker.life.stop()

    async def _keep(self, worker: _Worker) -> None:
        """Run a worker, and again whenever it has died."""
        soon = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            how = await self._live(worker)
            if self._stopping.is_set():
                return
            if not worker.served:
                reason = f"Worker {worker.number} {how} before it could serve; the log above says why."
                raise process.StartError(worker.sentence or reason)
            soon = soon + 1 if time.monotonic() - begun < STEADY else 1
            await self._pause(worker, how, soon)

    async def _pause(self, worker: _Worker, how: str, soon: int) -> None:
        """Wait before the start after the death number ``soon`` in a row."""
        pause = min(FIRST_PAUSE * 2 ** min(soon - 2, 10), LONGEST_PAUSE) if soon > 1 else 0.0
        if pause:
            self._door.close(worker.sockets)
        said = f" ({worker.sentence})" if worker.sentence else ""
        when = f"in {pause:g} s" if pause else "now"
        log.warning("worker %d %s%s; it is started again %s", worker.number, how, said, when)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stopping.wait()

    async def _live(self, worker: _Worker) -> str:
        """Run a worker to its end, and return how it ended, as the end of a sentence."""
        worker.sentence = ""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                worker.process = process = await self._spawn(worker, theirs)
        except OSError as error:
            ours.close()
            return f"could not be started ({error})"
        life = WorkerProcess(await Channel.open(ours), partial(self._heard, worker))
        worker.life = life
        if self._stopping.is_set():
            life.stop()
        hearing = asyncio.create_task(life.hear())
        minding = asyncio.create_task(self._mind(worker, life, process))
        status = await process.wait()
        minding.cancel()
        # It ends by itself, but for a process that a plugin forked off and that has the channel, too.
        await asyncio.wait([hearing], timeout=_LAST_WORDS)
        hearing.cancel()
        life.channel.close()
        worker.life, worker.sentence = None, life.sentence
        end = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"(process {process.pid}) {end}"

    async def _mind(self, worker: _Worker, life: WorkerProcess, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that hangs: its clients go elsewhere, and those that the kernel gives it are served again."""
        await life.hang()
        log.error(
            "worker %d (process %d) has not answered for %g s: it is stopped, or something blocks its event loop; "
            "it is killed",
            *(worker.number, process.pid, HEARTBEAT * MAX_MISSED),
        )
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def _spawn(self, worker: _Worker, channel: socket.socket) -> asyncio.subprocess.Process:
        """Start this command again, as ``worker``.

        In a process group of its own: Ctrl-C is for the parent, or the workers would get two signals of one.
        """
        if not worker.sockets:
            worker.sockets = self._door.open()
        files = [one.fileno() for one in (channel, *worker.sockets)]
        options: dict[str, Any] = {"pass_fds": files, "process_group": 0, "stdin": subprocess.DEVNULL}
        environ = os.environ | {VARIABLE: ",".join(map(str, (worker.number, len(self._workers), *files)))}
        return await asyncio.create_subprocess_exec(sys.executable, *sys.orig_argv[1:], env=environ, **options)

    def _heard(self, worker: _Worker, life: WorkerProcess, word: str) -> None:
        if word == STOPPING:
            self._door.close(worker.sockets)
        elif word == GATHER:
            task = asyncio.create_task(self._gather(life))
            self._gathering.add(task)
            task.add_done_callback(self._gathering.discard)
        elif word == READY and not worker.served:
            worker.served = True
            if all(each.served for each in self._workers):
                where = process.url(self._address, self._door.port)
                process.announce(where, self._settings, self._plugins, len(self._workers))

    async def _gather(self, asker: WorkerProcess) -> None:
        """Tell a worker the metrics of all others."""
        lives = {each.number: each.life for each in self._workers if each.life is not None and each.life is not asker}
        texts = await asyncio.gather(*(life.metrics() for life in lives.values()))
        asker.channel.send(GATHERED, json.dumps(dict(zip(lives, texts, strict=True))).encode())


def supervise(settings: Settings, address: Address, count: int) -> None:
    """Serve with ``count`` workers until SIGTERM or SIGINT; raise what ``run.run`` does."""
    plugins = registry.load()
    process.broker_name(settings)  # whether it can be read is better said once
    door = ListeningSockets(address)
    try:
        door.probe()
        supervisor = Supervisor(settings, address, plugins, door, count)
    except OSError as error:
        raise process.StartError(process.why_not(address, error) or f"roomcast cannot listen: {error}.") from error
    asyncio.run(supervisor.run())
