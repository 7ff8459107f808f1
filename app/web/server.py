"""Serves a gateway over HTTP: creates the applications of its ports, and stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import web

from ..aiohttp_internals import hide_versions
from ..certificates import ServerContext, Validity
from ..gateway.gateway import Gateway
from ..transport.connection import CLOSE_TIMEOUT
from .api.ticket_limit import TICKET_LIMIT
from .app_state import DEV, GATEWAY, PART, Part
from .body_limit import limit_body
from .capacity import capacity, open_file_limit
from .connection_limit import CONNECTION_LIMIT, ConnectionLimit
from .failure_logs import FAILURE_LOGS
from .host_check import host_check
from .ops.worker_metrics import PEERS, Peers
from .port import Address, Port
from .response_pace import ResponsePace
from .routes import add_routes
from .wrong_keys import WRONG_KEYS

log = logging.getLogger("roomcast")

hide_versions()

#: The largest body of a request, in bytes.
MAX_BODY: Final = 1024 * 1024


def create_app(
    gateway: Gateway,
    *,
    part: Part = Part.ALL,
    dev: bool = False,
    hosts: tuple[str, ...] = (),
    peers: Peers | None = None,
) -> web.Application:
    """Return the aiohttp application of a started ``gateway``, which serves ``part`` of the server.

    ``dev`` is for ``roomcast dev``, which serves only requests for ``hosts`` and this machine. ``peers`` are the other
    workers, if there are several.
    """
    checks = [limit_body, host_check(hosts)] if dev else [limit_body]
    app = web.Application(client_max_size=MAX_BODY, middlewares=checks)
    app.on_response_prepare.append(ResponsePace())
    app[GATEWAY] = gateway
    app[PART] = part
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
    With an ``internal`` address, only what users need is at ``address``. The internal port is open until all clients
    have left, so that operators can watch the drain.
    """

    def __init__(
        self,
        gateway: Gateway,
        address: Address,
        *,
        internal: Address | None = None,
        dev: bool = False,
        peers: Peers | None = None,
    ) -> None:
        self.gateway: Final = gateway
        self.address: Final = address
        self._internal_address: Final = internal
        self._dev: Final = dev
        self._peers: Final = peers
        #: The open ports: that of ``address`` first, then the internal one if there is one.
        self.ports: Final[list[Port]] = []
        #: The validity of the TLS certificate in use, if the context of ``address`` is a ``ServerContext``.
        self.certificate: Validity | None = None
        self._record_expiry(address.tls)

    async def start(self) -> None:
        """Start the gateway and listen. The ports are bound last, so that no client connects before all is ready."""
        await self.gateway.start()
        try:
            self._add_ports()
            for port in self.ports:
                await port.open()
        except BaseException:
            for port in self.ports:
                await port.close()
            await self.gateway.close()
            raise

    def _add_ports(self) -> None:
        part = Part.ALL if self._internal_address is None else Part.PUBLIC
        app = create_app(self.gateway, part=part, dev=self._dev, hosts=self.address.hosts, peers=self._peers)
        self.ports.append(Port(app, self.address))
        if self._internal_address is not None:
            internal = create_app(self.gateway, part=Part.INTERNAL, peers=self._peers)
            # The limits are those of the whole server.
            internal[CONNECTION_LIMIT] = app[CONNECTION_LIMIT]
            internal[WRONG_KEYS] = app[WRONG_KEYS]
            internal[FAILURE_LOGS] = app[FAILURE_LOGS]
            internal[TICKET_LIMIT] = app[TICKET_LIMIT]
            self.ports.append(Port(internal, self._internal_address))

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
        """The port of ``address`` that is bound; 0 on a Unix socket."""
        return self.ports[0].number

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
        public, *internal = self.ports
        public.stop_listening()
        await self.gateway.drain()
        await public.close()
        await self._wait_for_clients()
        for port in internal:
            await port.close()
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
