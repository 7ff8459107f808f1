"""One port of a server: its address, its sockets and its connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web

from ..aiohttp_internals import http_connections
from . import tcp_sockets
from .app_state import DEV, GATEWAY
from .bad_requests import BadRequests
from .connection_limit import CONNECTION_LIMIT
from .upgrade.acceptor import Acceptor
from .upgrade.tls_connection import Tls, TlsConnection

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
    Without any, the server binds its own. ``is_internal`` is True for the address in INTERNAL_ADDRESS.
    """

    hosts: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8000
    unix_socket: Path | None = None
    tls: ssl.SSLContext | None = None
    sockets: tuple[socket.socket, ...] = ()
    is_internal: bool = False


class ListenError(OSError):
    """A server cannot listen on ``address``, because of ``cause``."""

    def __init__(self, address: Address, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.address: Final = address
        self.cause: Final = cause


class Port:
    """One address at which a server listens, with the application that it serves there.

    ``open`` listens. ``stop_listening`` refuses further connections; ``close`` ends the ones that are left.
    """

    #: How many connections the kernel queues until they are accepted: enough for a crowd that reconnects at once.
    BACKLOG: Final = 4096
    #: How many connections asyncio's own loop accepts in one iteration.
    ACCEPT_AT_ONCE: Final = 100
    #: uvloop accepts one connection for each listener in one iteration, so each socket has this many listeners. The
    #: handshakes that follow share one poll and one batch of writes, and take less than 1 ms together. Not with TLS,
    #: whose handshakes take that long each.
    LISTENERS: Final = 8

    def __init__(self, app: web.Application, address: Address) -> None:
        settings = app[GATEWAY].settings
        self.app: Final = app
        self.address: Final = address
        self.runner: Final = web.AppRunner(
            app, handle_signals=False, keepalive_timeout=settings.http_keepalive, **RUNNER_OPTIONS
        )
        self._listeners: Final[list[asyncio.Server]] = []
        self._timeouts: asyncio.Task[None] | None = None
        #: Accepts the connections once the port is open.
        self.acceptor: Acceptor | None = None

    @property
    def number(self) -> int:
        """The port that is bound; 0 on a Unix socket."""
        if self.address.unix_socket is not None:
            return 0
        port: int = self._listeners[0].sockets[0].getsockname()[1]
        return port

    async def open(self) -> None:
        """Listen. Raises ``ListenError``."""
        await self.runner.setup()
        assert self.runner.server is not None
        http = http_connections(self.runner.server, BadRequests(self.app), self.app[CONNECTION_LIMIT].remove)
        self.acceptor = Acceptor(self.app, self.runner.server, http)
        try:
            # In dev aiohttp accepts all connections itself, because the host check is a middleware.
            await self._bind(self._encrypt(http if self.app[DEV] else self.acceptor, self.acceptor))
        except OSError as error:
            raise ListenError(self.address, error) from error
        self._timeouts = asyncio.create_task(self.acceptor.enforce_timeout())

    def _encrypt(self, factory: Callable[[], asyncio.Protocol], acceptor: Acceptor) -> Callable[[], asyncio.Protocol]:
        """Return ``factory``, or with TLS a factory of protocols that do the handshake first."""
        if self.address.tls is None:
            return factory
        gateway = self.app[GATEWAY]
        tls = Tls(self.address.tls, gateway.settings.handshake_timeout, acceptor, gateway.tasks, factory)
        return partial(TlsConnection, tls)

    async def _bind(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Create the listeners. Raises ``OSError``."""
        loop, address, listeners = asyncio.get_running_loop(), self.address, self._listeners
        options: dict[str, Any] = {"backlog": self.ACCEPT_AT_ONCE}
        if address.unix_socket is None:
            # In a thread, because a name server may take any time.
            bind = partial(tcp_sockets.bind, address.hosts, address.port)
            count = 1 if address.tls is not None or isinstance(loop, asyncio.BaseEventLoop) else self.LISTENERS
            for sock in list(address.sockets) or await asyncio.to_thread(bind):
                for listener in (sock, *(sock.dup() for _ in range(count - 1))):
                    listeners.append(await loop.create_server(factory, sock=listener, **options))
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

    def stop_listening(self) -> None:
        """Close the listeners."""
        for listener in self._listeners:
            listener.close()

    async def close(self) -> None:
        """Stop listening, drop the connections that have sent nothing, and end the requests."""
        self.stop_listening()
        if self._timeouts is not None:
            self._timeouts.cancel()
        if self.acceptor is not None:
            await self.acceptor.close()
        await self.runner.cleanup()
