"""Listens, and stops: TCP, TLS or a Unix socket; drain on a signal."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web

from ..aiohttp_internals import hide_versions
from ..gateway.gateway import Gateway
from ..transport.connection import CLOSE_TIMEOUT
from . import host_check, routes
from .app_keys import DEV, GATEWAY
from .ops.worker_metrics import PEERS, Peers
from .upgrade.acceptor import Acceptor

log = logging.getLogger("roomcast")

hide_versions()


class Address(NamedTuple):
    """Where to listen: ``host`` and ``port``, or ``unix_socket``; with ``tls`` if it is given.

    With ``sockets``, which are bound there already, on these instead.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    unix_socket: Path | None = None
    tls: ssl.SSLContext | None = None
    sockets: tuple[socket.socket, ...] = ()


class Server:
    """A gateway behind HTTP. ``start`` listens; ``stop`` drains, closes and stops.

    With ``peers`` it is one of several workers.
    """

    #: How many connections the kernel holds that were not accepted yet: enough for a crowd that comes back at once.
    BACKLOG: Final = 4096

    def __init__(self, gateway: Gateway, address: Address, *, dev: bool = False, peers: Peers | None = None) -> None:
        self.gateway: Final = gateway
        self.address: Final = address
        self._dev = dev
        self._peers = peers
        self._runner: web.AppRunner | None = None
        self._listeners: list[asyncio.Server] = []
        self._deadlines: asyncio.Task[None] | None = None
        self._acceptor: Acceptor | None = None

    async def start(self) -> None:
        """Start the gateway and listen. The port is bound last, so that nobody is let in before all is there."""
        await self.gateway.start()
        try:
            await self._listen()
        except BaseException:
            if self._runner is not None:
                await self._runner.cleanup()
            await self.gateway.close()
            raise

    async def _listen(self) -> None:
        guards = [host_check.guard(self.address.host)] if self._dev else []
        app = web.Application(client_max_size=1024 * 1024, middlewares=guards)
        app[GATEWAY] = self.gateway
        app[DEV] = self._dev
        if self._peers is not None:
            app[PEERS] = self._peers
        routes.add(app)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=30,
            shutdown_timeout=1,
            lingering_time=2,  # of reading on after an early answer; by default 10 s, even past the server's end
            tcp_keepalive=False,  # the heartbeat does that; for it each transport would keep a socket object
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._acceptor = Acceptor(app, self._runner.server)
        self._listeners = await self._bind(self._runner.server if self._dev else self._acceptor)
        self._deadlines = asyncio.create_task(self._acceptor.enforce_timeout())

    async def _bind(self, factory: Callable[[], asyncio.Protocol]) -> list[asyncio.Server]:
        """Listen. aiohttp's own sites have no deadline for TLS, which would leave a silent client a minute."""
        loop, address = asyncio.get_running_loop(), self.address
        options: dict[str, Any] = {"ssl": address.tls, "backlog": self.BACKLOG}
        if address.tls is not None:
            options["ssl_handshake_timeout"] = self.gateway.settings.handshake_timeout
        if address.unix_socket is None:
            if not address.sockets:
                return [await loop.create_server(factory, address.host, address.port, **options)]
            return [await loop.create_server(factory, sock=one, **options) for one in address.sockets]
        if not address.sockets:
            return [await loop.create_unix_server(factory, str(address.unix_socket), **options)]
        if sys.version_info >= (3, 13):
            options["cleanup_socket"] = False  # others serve the path still when this process ends
        return [await loop.create_unix_server(factory, sock=one, **options) for one in address.sockets]

    @property
    def port(self) -> int:
        """The port that was bound, when port 0 asked for any; 0 on a Unix socket."""
        if self.address.unix_socket is not None:
            return 0
        port: int = self._listeners[0].sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening, drain the connections, and close everything."""
        for listener in self._listeners:
            listener.close()
        await self.gateway.drain()
        if self._deadlines is not None:
            self._deadlines.cancel()
        if self._acceptor is not None:
            await self._acceptor.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._until_gone()
        await self.gateway.close()

    async def _until_gone(self) -> None:
        """Give the clients time to read their close and to answer it."""
        pause = 0.02
        for _ in range(round(CLOSE_TIMEOUT / pause)):
            if not self.gateway.keepalive.connections:
                break
            await asyncio.sleep(pause)


async def serve(server: Server, until: asyncio.Event, ready: Callable[[Server], None]) -> None:
    """Run ``server`` until the event is set; ``ready`` is called once it listens."""
    await server.start()
    try:
        ready(server)
        await until.wait()
    finally:
        await server.stop()
