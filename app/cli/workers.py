"""``roomcast serve --workers N``: several processes that serve one port, and one that minds them.

The parent binds the port and starts the workers, each of which is this very command, told by ``VARIABLE`` which worker
it is and which of its open files are its channel to the parent and the sockets to listen on. A worker that dies is
started again.

Over the channel a worker says that it is ready, or why it is not; its end means to stop. So a parent that was killed
takes its workers along, and where all processes are signalled at once, as systemd does, none of them takes what its
parent has to say for the second signal, which would cut its clients off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from .. import registry
from ..errors import RoomcastError, SettingsError
from ..registry import Registry
from ..settings import Settings
from ..web.server import Address, Server
from . import run

log = logging.getLogger("roomcast")

#: What tells a process that it is a worker: its number, then its channel and its sockets. Not for people to set.
VARIABLE: Final = "ROOMCAST_WORKER"

#: What a worker says, a line each. Any other line is the sentence of its failure.
READY: Final = b"ready\n"
STOPPING: Final = b"stopping\n"

#: Linux spreads connections over all sockets that share a port by SO_REUSEPORT; macOS gives them to one.
SPREADS: Final = sys.platform.startswith("linux")

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


# In a worker.


class Place:
    """What a worker has of its parent: its ``number``, from 1 on, its channel, and the ``sockets`` to listen on."""

    def __init__(self, number: int, files: Sequence[int]) -> None:
        self.number: Final = number
        self._channel, *sockets = (socket.socket(fileno=file) for file in files)
        self.sockets: Final = tuple(sockets)
        self._channel.setblocking(False)
        self._teller: asyncio.Task[None] | None = None
        for one in (self._channel, *sockets):
            one.set_inheritable(False)  # or they would outlive this process in those that plugins start

    def serve(self, settings: Settings, address: Address) -> None:
        """Serve as ``run.run`` does; what keeps it from that is for the parent to say."""
        try:
            run.run(settings, address._replace(sockets=self.sockets), self._ready, watch=self._watch)
        except RoomcastError as error:
            self._say(str(error).replace("\n", " ").encode() + b"\n")
            sys.exit(1)

    def _ready(self, server: Server) -> None:
        log.info("process %d serves", os.getpid())
        self._say(READY)

    def _watch(self, stop: asyncio.Event) -> None:
        """Stop when the parent says so or is gone; tell it of a stop that has another cause."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._channel)
            stop.set()

        async def tell() -> None:
            await stop.wait()
            self._say(STOPPING)

        loop.add_reader(self._channel, ended)  # nothing is ever sent this way
        self._teller = loop.create_task(tell(), name="roomcast worker")

    def _say(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody is there to hear it
            self._channel.sendall(line)


def place(environ: MutableMapping[str, str]) -> Place | None:
    """Return the place of this process if it is a worker, and take it out of ``environ``: it is nobody else's."""
    if (text := environ.pop(VARIABLE, None)) is None:
        return None
    number, *files = map(int, text.split(","))
    return Place(number, files)


# In the parent.


class Door:
    """The port or the Unix socket that all workers serve.

    On Linux each worker has a socket of its own for the port (SO_REUSEPORT), and the kernel deals connections out
    evenly, by a hash of their addresses: of 400 that came at once, 187 to 213 went to each of two. From one socket for
    all each takes what it can get, which was 126 to 274, and what a crowd has come back to it stays with for hours.

    The parent keeps a copy of each socket: connections that a worker had not accepted when it died wait for the next to
    take its place, and are not reset. While none is to come for a while, the copy is closed, and all go to the others.
    Unix sockets and other systems know no such thing; there all share one, whose queue outlives every worker.
    """

    def __init__(self, address: Address) -> None:
        self._address: Final = address
        self._spreads: Final = SPREADS and address.unix_socket is None
        self._shared: Final[list[socket.socket]] = []
        self._inode = 0
        self.port = address.port

    def open(self) -> list[socket.socket]:
        """Return the sockets for one worker, bound; who listens on them first opens the door. Raises ``OSError``."""
        if self._shared:
            return self._shared
        if self._address.unix_socket is not None:
            self._shared.append(self._bind_unix())
            return self._shared
        if self._spreads:
            return self._bind(share=True)
        self._shared.extend(self._bind(share=False))
        return self._shared

    def probe(self) -> None:
        """Raise ``OSError`` if somebody listens at the port: with SO_REUSEPORT alone we would share it with them."""
        if self._spreads and self.port:
            self.close(self._bind(share=False))

    def close(self, sockets: list[socket.socket]) -> None:
        """Let connections come to the other workers from now on; no effect on a socket of all."""
        if sockets is not self._shared:
            while sockets:
                sockets.pop().close()

    def close_all(self) -> None:
        """Close what all share, and remove a Unix socket's path."""
        while self._shared:
            self._shared.pop().close()
        if self._address.unix_socket is not None:
            run.remove_socket(self._address.unix_socket, self._inode)

    def _bind_unix(self) -> socket.socket:
        path = self._address.unix_socket
        assert path is not None
        run.make_way(path)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        self._inode = path.stat().st_ino
        return sock

    def _bind(self, *, share: bool) -> list[socket.socket]:
        """Bind to all addresses of the host, as asyncio does; with port 0, to the one that the first was given."""
        infos = socket.getaddrinfo(
            self._address.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets: list[socket.socket] = []
        try:
            for family, type, protocol, _, name in dict.fromkeys(infos):
                sockets.append(sock := socket.socket(family, type, protocol))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if share:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((name[0], self.port, *name[2:]))
                self.port = sock.getsockname()[1]
        except BaseException:
            self.close(sockets)
            raise
        return sockets


class _Worker:
    """One of the workers, over all its lives."""

    def __init__(self, number: int, sockets: list[socket.socket]) -> None:
        self.number: Final = number
        self.sockets = sockets
        self.process: asyncio.subprocess.Process | None = None
        self.channel: asyncio.StreamWriter | None = None
        #: Whether any of its lives was ready; and in the present one, what it said of its failure.
        self.served = False
        self.sentence = ""


class Supervisor:
    """Keeps ``count`` workers running until SIGTERM or SIGINT, then lets them drain; a second signal ends all."""

    def __init__(self, settings: Settings, address: Address, plugins: Registry, door: Door, count: int) -> None:
        self._settings: Final = settings
        self._address: Final = address
        self._plugins: Final = plugins
        self._door: Final = door
        self._workers: Final = [_Worker(number, door.open()) for number in range(1, count + 1)]
        self._stopping: Final = asyncio.Event()

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
        """Close the door at once, for a socket listens as long as anybody has it open; then end the channels."""
        self._stopping.set()
        self._door.close_all()
        for worker in self._workers:
            self._door.close(worker.sockets)
            if worker.channel is not None:
                worker.channel.close()

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
                raise run.StartError(worker.sentence or reason)
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
        reader, worker.channel = await asyncio.open_connection(sock=ours)
        if self._stopping.is_set():
            worker.channel.close()
        hearing = asyncio.create_task(self._hear(worker, reader))
        status = await process.wait()
        # It ends by itself, but for a process that a plugin forked off and that has the channel, too.
        await asyncio.wait([hearing], timeout=_LAST_WORDS)
        hearing.cancel()
        worker.channel.close()
        end = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"(process {process.pid}) {end}"

    async def _spawn(self, worker: _Worker, channel: socket.socket) -> asyncio.subprocess.Process:
        """Start this command again, as ``worker``.

        In a process group of its own: Ctrl-C is for the parent, or the workers would get two signals of one.
        """
        if not worker.sockets:
            worker.sockets = self._door.open()
        files = [one.fileno() for one in (channel, *worker.sockets)]
        options: dict[str, Any] = {"pass_fds": files, "process_group": 0, "stdin": subprocess.DEVNULL}
        environ = os.environ | {VARIABLE: ",".join(map(str, (worker.number, *files)))}
        return await asyncio.create_subprocess_exec(sys.executable, *sys.orig_argv[1:], env=environ, **options)

    async def _hear(self, worker: _Worker, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            if line == STOPPING:
                self._door.close(worker.sockets)
            elif line != READY:
                worker.sentence = line.decode().rstrip("\n")
            elif not worker.served:
                worker.served = True
                if all(each.served for each in self._workers):
                    where = run.url(self._address, self._door.port)
                    run.announce(where, self._settings, self._plugins, len(self._workers))


def supervise(settings: Settings, address: Address, count: int) -> None:
    """Serve with ``count`` workers until SIGTERM or SIGINT; raise what ``run.run`` does."""
    plugins = registry.load()
    run.broker_name(settings)  # whether it can be read is better said once
    door = Door(address)
    try:
        door.probe()
        supervisor = Supervisor(settings, address, plugins, door, count)
    except OSError as error:
        raise run.StartError(run.why_not(address, error) or f"roomcast cannot listen: {error}.") from error
    asyncio.run(supervisor.run())
