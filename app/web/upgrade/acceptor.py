"""Accepts all connections of the server: answers plain WebSocket handshakes itself, passes the others on to aiohttp.

For each request aiohttp creates a protocol handler, two tasks, a timer and a request object, and consults its router. A
WebSocket needs none of them, and they take 100 of the 350 µs that a connection costs with its first join (uvloop 0.23,
Python 3.11).

Only the common case is handled here: a whole handshake request in one piece that can be answered with 101. aiohttp's
own parser parses it. All other requests are passed on with the same bytes, as if aiohttp had accepted the connection:
other paths, requests in pieces, requests with a body, and requests that are answered with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web
from multidict import CIMultiDictProxy

from ...aiohttp_internals import MAX_EARLY_BYTES, MAX_HEAD, has_received_request, parse_upgrade_request
from ..app_state import GATEWAY
from ..connection_limit import CONNECTION_LIMIT
from ..failure_logs import FAILURE_LOGS
from ..json_errors import Failure
from ..origins import ORIGINS
from ..request_head import is_host
from ..unread_responses import UnreadResponses
from . import handshake
from .pending_handshakes import PENDING_HANDSHAKES
from .tls_connection import TlsConnection

_REQUEST_START: Final = b"GET " + handshake.PATH.encode()
_HEAD_END: Final = b"\r\n\r\n"


class PendingConnection(asyncio.Protocol):
    """One connection until its handshake is answered or it is passed on. Implements ``handshake.UpgradeRequest``."""

    __slots__ = ("_acceptor", "_early", "handshake", "headers", "host", "query", "transport", "upgrade")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        #: The bytes that followed the request; None until a request was read.
        self._early: bytearray | None = None
        #: The task of the handshake, if that waits for the broker.
        self.handshake: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request."""
        self.transport = transport  # type: ignore[assignment]
        self._acceptor.add(self)

    def data_received(self, data: bytes) -> None:
        """Begin the handshake, or buffer what arrives while the handshake waits for the broker."""
        if self._early is None:
            self._acceptor.receive(self, data)
            return
        self._early += data
        if len(self._early) >= MAX_EARLY_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport, and cancel a handshake that waits for the broker."""
        self.transport = None
        self._acceptor.discard(self)
        if self.handshake is not None:
            self.handshake.cancel()

    # handshake.UpgradeRequest

    def read_request(self, data: bytes) -> bool:
        """Read the request in ``data``; return False if aiohttp has to handle it."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if not len(_HEAD_END) <= end <= MAX_HEAD or not data.startswith(_REQUEST_START):
            return False
        message = parse_upgrade_request(self, data[:end])
        if message is None or message.path.partition("?")[0] != handshake.PATH:
            return False
        if "Expect" in message.headers or "Content-Encoding" in message.headers:
            return False
        self.headers: CIMultiDictProxy[str] = message.headers
        self.host: str = message.headers["Host"]  # the parser refuses HTTP/1.1 without it
        if not is_host(self.host):
            return False
        self.query: Mapping[str, str] = message.url.query
        self.upgrade: bool = message.upgrade
        self._early = bytearray(data[end:])
        return True

    @property
    def connection(self) -> PendingConnection:
        """See ``UpgradeRequest``."""
        return self

    @property
    def remote(self) -> str | None:
        """See ``RequestHead``."""
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return None if peer is None else str(peer[0] if isinstance(peer, tuple | list) else peer)

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """See ``UpgradeRequest``."""
        transport, self.transport = self.transport, None
        assert transport is not None
        self._acceptor.limit.remove(self)
        return transport, bytes(self._early or b"")


class Acceptor:
    """The protocol factory of the listeners.

    ``app`` contains the gateway. ``http`` is aiohttp's server of ``app``, ``new_handler`` creates its connections.
    """

    def __init__(self, app: web.Application, http: web.Server, new_handler: Callable[[], web.RequestHandler]) -> None:
        self._gateway: Final = app[GATEWAY]
        self._app: Final = app
        self._origins: Final = app[ORIGINS]
        self._http: Final = http
        self._new_handler: Final = new_handler
        #: The connections that have sent no request, with the time at which each was made, oldest first.
        self._silent: Final[dict[PendingConnection | TlsConnection, float]] = {}
        #: The connections of aiohttp that have not sent a whole request, with the time at which each was made.
        self._incomplete: dict[web.RequestHandler, float] = {}
        self._handshakes: Final = app[PENDING_HANDSHAKES]
        self._unread_responses: Final = UnreadResponses(
            http, self._gateway.settings.handshake_timeout, app[FAILURE_LOGS]
        )
        self.limit: Final = app[CONNECTION_LIMIT]
        self._is_closed = False

    def __call__(self) -> PendingConnection:
        """Return the protocol of a new connection."""
        return PendingConnection(self)

    def add(self, connection: PendingConnection | TlsConnection) -> None:
        """Wait for the request, or the TLS handshake, of a new connection."""
        assert connection.transport is not None
        if self._is_closed:
            connection.transport.close()
        self._silent[connection] = time.monotonic()
        self.limit.add(connection, connection.transport)

    def discard(self, connection: PendingConnection | TlsConnection) -> None:
        """Forget a connection that was lost."""
        self._silent.pop(connection, None)
        self.limit.remove(connection)

    def count_tls_failure(self, reason: str) -> None:
        """See ``tls_connection.Waiting``."""
        hint = "; this port serves TLS, use https:// and wss://" if "HTTP" in reason else ""
        self._app[FAILURE_LOGS].add_refusal(f"TLS {reason}", f"a TLS handshake failed: {reason or 'no reason'}{hint}")

    def receive(self, connection: PendingConnection, data: bytes) -> None:
        """Handle the first ``data`` of a connection: begin the handshake, or pass the connection on."""
        since = self._silent.pop(connection, None)
        if since is None:  # it was dropped
            return
        accept: bytes | None = None
        if connection.read_request(data):
            with contextlib.suppress(Failure):
                accept = handshake.check_request(connection, self._origins)
        if accept is None:  # outside the block above: aiohttp would log the suppressed exception with its own
            self._pass_on(connection, data, since)
            return
        task = self._gateway.tasks.start(self._admit(connection, accept))
        if task is not None:  # it waits for the broker
            connection.handshake = task
            self._handshakes.add(task, connection, since)
            task.add_done_callback(self._handshakes.remove)

    def _pass_on(self, connection: PendingConnection, data: bytes, since: float) -> None:
        """Give the connection, which was made at ``since``, to aiohttp as if that had received ``data``."""
        handler = self._new_handler()
        self.limit.replace(connection, handler)
        transport, _ = connection.detach_transport()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)
        if not has_received_request(handler):
            self._incomplete[handler] = since

    async def _admit(self, connection: PendingConnection, accept: bytes) -> None:
        try:
            await handshake.admit(self._app, connection, accept)
        except Exception as error:
            self._app[FAILURE_LOGS].add_exception("a handshake failed", error)
        finally:
            if connection.transport is not None:  # the handshake has neither admitted nor refused it
                connection.transport.close()

    async def enforce_timeout(self) -> None:
        """Close connections that are not admitted or passed on within ``HANDSHAKE_TIMEOUT``.

        aiohttp has no limit for requests that are not whole, and none for responses that are not read.
        """
        timeout = self._gateway.settings.handshake_timeout
        while True:
            await asyncio.sleep(min(1.0, timeout / 4))
            now = time.monotonic()
            previous, self._incomplete = self._incomplete, {}
            for handler in self._http.connections:
                if not has_received_request(handler):
                    since = self._incomplete[handler] = previous.get(handler, now)
                    if now - since >= timeout:
                        self.limit.drop(handler, "silent")
                        handler.force_close()
            for connection, since in list(self._silent.items()):
                if now - since < timeout:
                    break
                del self._silent[connection]
                self.limit.drop(connection, "silent")
            self._handshakes.cancel_stale()
            self._unread_responses.abort_stalled(now)
            self.limit.check()

    async def close(self) -> None:
        """Drop silent connections, and end the handshakes."""
        self._is_closed = True
        for connection in list(self._silent):
            del self._silent[connection]
            if connection.transport is not None:
                connection.transport.close()
        await self._handshakes.close()
