"""A worker of ``roomcast serve --workers N``: serves as one process does, and answers to its parent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Mapping, MutableMapping, Sequence
from typing import Any, Final

import orjson

from ..errors import RoomcastError
from ..gateway.gateway import Gateway
from ..settings import Settings
from ..web.ops import metrics, worker_metrics
from ..web.server import Address, Server
from . import process
from .ipc import FAILED, GATHER, GATHERED, METRICS, PING, PONG, READY, STOP, STOPPING, Channel, Question, pack

log = logging.getLogger("roomcast")

#: What tells a process that it is a worker: its number, how many there are, its channel, its sockets. Not for people.
VARIABLE: Final = "ROOMCAST_WORKER"

#: How long the parent may take to gather the metrics of the other workers, in seconds: longer than any of these may.
GATHERING: Final = 2.0


class Worker:
    """What a worker has of its parent: its ``number``, from 1 on, its channel, and the ``sockets`` to listen on."""

    def __init__(self, number: int, count: int, files: Sequence[int]) -> None:
        self.number: Final = number
        self._count: Final = count
        self._socket, *sockets = (socket.socket(fileno=file) for file in files)
        self.sockets: Final = tuple(sockets)
        self._socket.setblocking(False)
        for one in (self._socket, *sockets):
            one.set_inheritable(False)  # or they would outlive this process in those that plugins start
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def serve(self, settings: Settings, address: Address) -> None:
        """Serve as ``run.run`` does; what keeps it from that is for the parent to say."""
        peers = worker_metrics.Peers(self.number, self._count, self._others)
        try:
            process.run(settings, address._replace(sockets=self.sockets), self._ready, watch=self._watch, peers=peers)
        except RoomcastError as error:
            with contextlib.suppress(OSError):  # nobody is there to hear it
                self._socket.sendall(pack(FAILED, str(error).replace("\n", " ").encode()))
            sys.exit(1)

    async def _watch(self, stop: asyncio.Event) -> None:
        """Open the channel: set ``stop`` when the parent says so or is gone, and tell it if that has another cause."""
        self._channel = await Channel.open(self._socket.dup())  # what failed is said when there is no loop any more
        self._gathered = Question(self._channel, GATHER, GATHERING)
        self._begin(self._hear(stop))
        self._begin(self._tell(stop))

    def _ready(self, server: Server) -> None:
        log.info("process %d serves", os.getpid())
        self._gateway = server.gateway
        self._channel.send(READY)

    async def _hear(self, stop: asyncio.Event) -> None:
        try:
            async for word, body in self._channel.messages():
                if word == PING:
                    self._channel.send(PONG)
                elif word == METRICS:
                    self._begin(self._answer(self._gateway))
                elif word == GATHERED:
                    self._gathered.answered(body)
                elif word == STOP:
                    stop.set()
        finally:
            stop.set()
            self._channel.close()
            self._gathered.answered(b"")

    async def _tell(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._channel.send(STOPPING)

    async def _answer(self, gateway: Gateway) -> None:
        """Send the metrics, or nothing if that fails, lest the parent wait for them for good."""
        text = b""
        try:
            text = worker_metrics.written(await metrics.collect(gateway))
        except Exception:
            log.exception("the metrics could not be collected")
        finally:
            self._channel.send(METRICS, text)

    async def _others(self) -> Mapping[int, str]:
        """Return the metrics of each other worker that answers, by their numbers."""
        body = await self._gathered.ask()
        return {int(number): text for number, text in orjson.loads(body or b"{}").items()}

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="roomcast worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def current_worker(environ: MutableMapping[str, str]) -> Worker | None:
    """Return the place of this process if it is a worker, and take it out of ``environ``: it is nobody else's."""
    if (text := environ.pop(VARIABLE, None)) is None:
        return None
    number, count, *files = map(int, text.split(","))
    return Worker(number, count, files)
