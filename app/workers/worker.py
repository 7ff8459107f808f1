"""The worker's side of ``roomcast serve --workers N``: runs a server process and talks to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, Final

import orjson

from .. import output
from ..errors import RoomcastError
from ..settings import Settings
from ..web.ops import metrics, worker_metrics
from ..web.port import Address
from ..web.server import Server
from . import process
from .ipc import FAILED, GATHER, GATHERED, METRICS, PING, PONG, READY, RELOAD, STOP, STOPPING, Channel, Question, encode
from .process_signals import Control
from .reload import LoadTls

log = logging.getLogger("roomcast")

#: The environment variable that makes a process a worker: its number, the number of workers, the number of sockets of
#: the public port, and the file descriptors of its channel, of these sockets and of those of the internal port. The
#: supervisor sets it. It is not a setting.
VARIABLE: Final = "ROOMCAST_WORKER"

#: How long the supervisor may take to gather the metrics of the other workers, in seconds. Longer than the
#: ``METRICS_TIMEOUT`` that it gives to each of them.
GATHER_TIMEOUT: Final = 2.0
#: How long a worker that serves waits for its log to be written before it reports that, in seconds.
_FLUSH_TIMEOUT: Final = 1.0


class Worker:
    """This process as worker ``number`` (from 1) of ``count``.

    ``files`` are the file descriptors of its channel to the supervisor and of the sockets to listen on: those of the
    public port, which are ``public`` in number, and those of the internal port.
    """

    def __init__(self, number: int, count: int, public: int, files: Sequence[int]) -> None:
        self.number: Final = number
        self._count: Final = count
        self._socket, *sockets = (socket.socket(fileno=file) for file in files)
        self.sockets: Final = tuple(sockets[:public])
        self.internal_sockets: Final = tuple(sockets[public:])
        self._socket.setblocking(False)
        for sock in (self._socket, *sockets):
            sock.set_inheritable(False)  # otherwise processes that plugins start would keep them open
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def serve(self, settings: Settings, address: Address, internal: Address | None, load_tls: LoadTls | None) -> None:
        """Serve as ``process.run`` does. Report a failed start to the supervisor, and exit."""
        peers = worker_metrics.Peers(self.number, self._count, self._gather_metrics)
        try:
            process.run(
                settings,
                address._replace(sockets=self.sockets),
                self._on_ready,
                internal=internal and internal._replace(sockets=self.internal_sockets),
                load_tls=load_tls,
                on_start=self._connect,
                peers=peers,
            )
        except RoomcastError as error:
            log.debug("the start failed", exc_info=error)
            with contextlib.suppress(OSError):  # the supervisor is gone
                self._socket.sendall(encode(FAILED, str(error).replace("\n", " ").encode()))
            sys.exit(1)

    async def _connect(self, control: Control) -> None:
        """Open the channel to the supervisor, and receive its messages. Report to it when this process drains."""
        # A duplicate, because ``serve`` reports a failure after the loop has closed the channel.
        self._channel = await Channel.open(self._socket.dup())
        self._peer_metrics = Question(self._channel, GATHER, GATHER_TIMEOUT)
        self._spawn(self._receive(control))
        self._spawn(self._report_drain(control.draining))

    def _on_ready(self, server: Server) -> None:
        log.info("process %d serves", os.getpid())
        self._scrape = metrics.Scrape(partial(metrics.collect, server.gateway), worker_metrics.encode_metrics)
        self._spawn(self._report_ready())

    async def _report_ready(self) -> None:
        """Write the log first, so that the supervisor's line about the start follows those of the workers."""
        await asyncio.to_thread(output.flush, _FLUSH_TIMEOUT)
        self._channel.send(READY)

    async def _receive(self, control: Control) -> None:
        """Handle the supervisor's messages. Stop this process when it orders that, or when the channel ends."""
        try:
            async for kind, body in self._channel.messages():
                if kind == PING:
                    self._channel.send(PONG)
                elif kind == METRICS:
                    self._spawn(self._send_metrics())
                elif kind == GATHERED:
                    self._peer_metrics.resolve(body)
                elif kind == RELOAD:
                    control.reload.set()
                elif kind == STOP:
                    control.stop.set()
        finally:
            control.stop.set()
            self._channel.close()
            self._peer_metrics.resolve(b"")

    async def _report_drain(self, draining: asyncio.Event) -> None:
        await draining.wait()
        self._channel.send(STOPPING)

    async def _send_metrics(self) -> None:
        """Send the metrics, or an empty body if that fails: the supervisor asks again only after an answer."""
        text = b""
        try:
            text = await self._scrape.text()
        except Exception:
            log.exception("cannot collect the metrics")
        finally:
            self._channel.send(METRICS, text)

    async def _gather_metrics(self) -> Mapping[int, str]:
        """Return the metrics of the other workers that answer, by the workers' numbers."""
        body = await self._peer_metrics.ask()
        return {int(number): text for number, text in orjson.loads(body or b"{}").items()}

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name="roomcast worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def current_worker(environ: MutableMapping[str, str]) -> Worker | None:
    """Return the worker that this process is, or None. Remove ``VARIABLE``, so that child processes do not get it."""
    if (text := environ.pop(VARIABLE, None)) is None:
        return None
    number, count, public, *files = map(int, text.split(","))
    return Worker(number, count, public, files)
