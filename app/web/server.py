"""Serves a gateway over HTTP: creates the application, listens on TCP, TLS or a Unix socket, and stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web

from ..aiohttp_internals import hide_versions, http_connections
from ..certificates import ServerContext, Validity
from ..gateway.gateway import Gateway
from ..transport.connection import CLOSE_TIMEOUT
from . import tcp_sockets
from .app_state import DEV, GATEWAY
from .bad_requests import BadRequests
from .body_limit import limit_body
from .capacity import capacity, open_file_limit
from .connection_limit import CONNECTION_LIMIT, ConnectionLimit
from .host_check import host_check
from .ops.worker_metrics import PEERS, Peers
from .routes import add_routes
from .upgrade.acceptor import Acceptor
from .upgrade.tls_connection import Tls, TlsConnection

log = logging.getLogger("roomcast")

hide_versions()

#: The largest body of a request, in bytes.
MAX_BODY: Final = 1024 * 1024
#: The options of aiohttp's runner.
RUNNER_OPTIONS: Final[dict[str, Any]] = {
    "access_log": None,  # its lines would contain URLs with tokens
    "shutdown_timeout": 1,
    # ``limit_body`` refuses compressed bodies, and reads the rest of a body that nothing has read.
    "auto_decompress": False,
    "lingering_time": 0,
    # Our keepalive replaces TCP's, for which each transport would keep a socket object.
    "tcp_keepalive": False,
}


class Address(NamedTuple):
    """Where to listen: on ``unix_socket`` if it is set, otherwise on ``port`` of ``hosts``. With ``tls``, serve TLS.

    ``tcp_sockets.expand_hosts`` makes ``hosts``. ``sockets`` are sockets that the supervisor has bound to that address.
    Without any, the server binds its own.
    """

    hosts: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8000
    unix_socket: Path | None = None
    tls: ssl.SSLContext | None = None
    sockets: tuple[socket.socket, ...] = ()


def create_app(
    gateway: Gateway, *, dev: bool = False, hosts: tuple[str, ...] = (), peers: Peers | None = None
) -> web.Application:
    """Return the aiohttp application of a started ``gateway``.

    ``dev`` is for ``roomcast dev``, which serves only requests for ``hosts`` and this machine. ``peers`` are the other
    workers, if there are several.
    """
    checks = [limit_body, host_check(hosts)] if dev else [limit_body]
    app = web.Application(client_max_size=MAX_BODY, middlewares=checks)
    app[GATEWAY] = gateway
    app[DEV] = dev
    workers = 1 if peers is None else peers.total
    limits = capacity(gateway.settings.max_connections, open_file_limit(), workers)
    app[CONNECTION_LIMIT] = ConnectionLimit(gateway, limits)
    if peers is not None:
        app[PEERS] = peers
    add_routes(app)
    return app


class Server:
    """A gateway that listens at ``address``. See ``create_app`` for ``dev`` and ``peers``.

    ``start`` starts the gateway and listens. ``stop`` closes the listeners, drains the clients and stops the gateway.
    """

    #: How many connections the kernel queues until they are accepted: enough for a crowd that reconnects at once.
    BACKLOG: Final = 4096
    #: How many connections asyncio's own loop accepts in one iteration. uvloop accepts one for each socket.
    ACCEPT_AT_ONCE: Final = 100

    def __init__(self, gateway: Gateway, address: Address, *, dev: bool = False, peers: Peers | None = None) -> None:
        self.gateway: Final = gateway
        self.address: Final = address
        self._dev: Final = dev
        self._peers: Final = peers
        self._runner: web.AppRunner | None = None
        self._listeners: Final[list[asyncio.Server]] = []
        self._handshake_timeouts: asyncio.Task[None] | None = None
        self._acceptor: Acceptor | None = None
        #: The validity of the TLS certificate in use, if the context of ``address`` is a ``ServerContext``.
        self.certificate: Validity | None = None
        self._record_expiry(address.tls)

    async def start(self) -> None:
        """Start the gateway and listen. The port is bound last, so that no client connects before all is ready."""
        await self.gateway.start()
        try:
            await self._listen()
        except BaseException:
            for listener in self._listeners:
                listener.close()
            if self._runner is not None:
                await self._runner.cleanup()
            await self.gateway.close()
            raise

    async def _listen(self) -> None:
        app = create_app(self.gateway, dev=self._dev, hosts=self.address.hosts, peers=self._peers)
        keepalive = self.gateway.settings.http_keepalive
        self._runner = web.AppRunner(app, handle_signals=False, keepalive_timeout=keepalive, **RUNNER_OPTIONS)
        await self._runner.setup()
        assert self._runner.server is not None
        http = http_connections(self._runner.server, BadRequests(app), app[CONNECTION_LIMIT].remove)
        self._acceptor = Acceptor(app, self._runner.server, http)
        # In dev aiohttp accepts all connections itself, because the host check is a middleware.
        await self._bind(self._encrypt(http if self._dev else self._acceptor))
        self._handshake_timeouts = asyncio.create_task(self._acceptor.enforce_timeout())

    def _encrypt(self, factory: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return ``factory``, or with TLS a factory of protocols that do the handshake first."""
        if self.address.tls is None:
            return factory
        assert self._acceptor is not None
        timeout = self.gateway.settings.handshake_timeout
        return partial(TlsConnection, Tls(self.address.tls, timeout, self._acceptor, self.gateway.tasks, factory))

    async def _bind(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Listen."""
        loop, address, listeners = asyncio.get_running_loop(), self.address, self._listeners
        options: dict[str, Any] = {"backlog": self.ACCEPT_AT_ONCE}
        if address.unix_socket is None:
            # In a thread, because a name server may take any time.
            bind = partial(tcp_sockets.bind, address.hosts, address.port)
            for sock in list(address.sockets) or await asyncio.to_thread(bind):
                listeners.append(await loop.create_server(factory, sock=sock, **options))
                sock.listen(self.BACKLOG)  # again, because asyncio uses one number for both purposes
        elif not address.sockets:
            path = str(address.unix_socket)
            listeners.append(await loop.create_unix_server(factory, path, backlog=self.BACKLOG))
        else:
            if sys.version_info >= (3, 13):
                options["cleanup_socket"] = False  # other workers still listen on the path when this one ends
            for sock in address.sockets:
                listeners.append(await loop.create_unix_server(factory, sock=sock, **options))
                sock.listen(self.BACKLOG)

    def use_certificate(self, tls: ssl.SSLContext) -> None:
        """Present the certificate of ``tls`` to new connections. The server must serve TLS.

        The listeners keep their context, and each handshake is moved to ``tls``. Loading the files into that context
        could fail half-way, and leave a certificate without its key.
        """
        assert self.address.tls is not None
        self._record_expiry(tls)

        def switch(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = tls

        self.address.tls.sni_callback = switch

    def _record_expiry(self, tls: ssl.SSLContext | None) -> None:
        """Record when the certificate in use expires, for the log and the metrics."""
        if isinstance(tls, ServerContext) and tls.validity is not None:
            self.certificate = tls.validity
            self.gateway.counters.certificate_expires = tls.validity.end.timestamp()

    @property
    def port(self) -> int:
        """The port that is bound; 0 on a Unix socket."""
        if self.address.unix_socket is not None:
            return 0
        port: int = self._listeners[0].sockets[0].getsockname()[1]
        return port

    async def prepare_stop(self) -> None:
        """Report that this node is not ready, and serve for ``SHUTDOWN_DELAY``.

        A load balancer sends connections until it has read the report, so a node that refused them would lose them.
        """
        self.gateway.is_stopping = True
        if delay := self.gateway.settings.shutdown_delay:
            log.info("not ready any more; serving for another %g s (SHUTDOWN_DELAY)", delay)
            await asyncio.sleep(delay)

    async def stop(self) -> None:
        """Stop listening, drain the clients, and close everything."""
        for listener in self._listeners:
            listener.close()
        await self.gateway.drain()
        if self._handshake_timeouts is not None:
            self._handshake_timeouts.cancel()
        if self._acceptor is not None:
            await self._acceptor.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._wait_for_clients()
        await self.gateway.close()

    async def _wait_for_clients(self) -> None:
        """Wait up to ``CLOSE_TIMEOUT`` for the clients' answers to the close frames."""
        pause = 0.02
        for _ in range(round(CLOSE_TIMEOUT / pause)):
            if not self.gateway.keepalive.connections:
                break
            await asyncio.sleep(pause)


async def serve(
    server: Server,
    until: asyncio.Event,
    ready: Callable[[Server], None],
    draining: Callable[[], None] = lambda: None,
) -> None:
    """Run ``server`` until the event ``until`` is set.

    Calls ``ready`` when the server listens, and ``draining`` when it is about to stop listening.
    """
    if not await _start_unless(until, server):
        return
    try:
        ready(server)
        await until.wait()
        await server.prepare_stop()
    finally:
        draining()
        await server.stop()


async def _start_unless(until: asyncio.Event, server: Server) -> bool:
    """Start ``server`` and return True. If ``until`` is set meanwhile, cancel the start and return False."""
    loop = asyncio.get_running_loop()

    def cancel_start(stopping: asyncio.Task[bool]) -> None:
        if not stopping.cancelled():
            with contextlib.suppress(RuntimeError):  # the start has ended in this loop iteration
                start.reschedule(loop.time())

    stopping = asyncio.create_task(until.wait())
    stopping.add_done_callback(cancel_start)
    try:
        async with asyncio.timeout(None) as start:
            await server.start()
    except TimeoutError:
        if not start.expired():
            raise
        return False
    finally:
        stopping.cancel()
    return True
