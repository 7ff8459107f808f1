"""One TLS connection until its handshake is complete.

The TLS of ``create_server`` hides a socket until then, so that it could be neither counted nor closed to make room for
others. This protocol reads the first bytes itself, and only then begins with TLS: a socket that sends nothing has no
TLS objects.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from ...gateway.tasks import BackgroundTasks
from ...transport.connection import CLOSE_TIMEOUT


class Waiting(Protocol):
    """Keeps the connections that have sent no request. ``acceptor.Acceptor`` implements it."""

    def add(self, connection: TlsConnection) -> None:
        """Wait for the client, up to HANDSHAKE_TIMEOUT."""

    def discard(self, connection: TlsConnection) -> None:
        """Forget a connection that was lost, or whose handshake is complete."""

    def count_tls_failure(self, reason: str) -> None:
        """Log that a client did not send valid TLS. ``reason`` is a name of OpenSSL's."""


class Tls(NamedTuple):
    """What all connections share.

    ``timeout`` is HANDSHAKE_TIMEOUT in seconds. ``new_protocol`` creates the protocol that follows the handshake.
    """

    context: ssl.SSLContext
    timeout: float
    waiting: Waiting
    tasks: BackgroundTasks
    new_protocol: Callable[[], asyncio.Protocol]


class TlsConnection(asyncio.Protocol):
    """The protocol of the socket until the client has sent something, then that of the TLS in it."""

    __slots__ = ("_decrypted", "_handshake", "_tls", "transport")

    def __init__(self, tls: Tls) -> None:
        self._tls: Final = tls
        #: The transport of the socket; None once it was lost or the handshake is complete.
        self.transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        #: What the client has sent by TLS before ``_handshake`` continues.
        self._decrypted = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client."""
        self.transport = transport  # type: ignore[assignment]
        self._tls.waiting.add(self)

    def data_received(self, data: bytes) -> None:
        """Begin the handshake, or keep what the client has sent after it."""
        if self._handshake is not None:
            self._decrypted += data
            return
        transport = self.transport
        assert transport is not None
        # The event loop calls ``connection_made`` of the TLS protocol before it passes ``data`` to that protocol.
        self._handshake = self._tls.tasks.start(self._begin(transport))
        if self._handshake is not None:
            asyncio.get_running_loop().call_soon(_pass_on, transport.get_protocol(), data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport."""
        self.transport = None
        self._tls.waiting.discard(self)

    async def _begin(self, transport: asyncio.Transport) -> None:
        """Do the handshake, and pass the encrypted transport to the next protocol."""
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._tls.context,
                server_side=True,
                ssl_handshake_timeout=self._tls.timeout,
                ssl_shutdown_timeout=CLOSE_TIMEOUT,
            )
        except OSError as error:  # the client failed, has left, or took too long; ssl.SSLError is an OSError
            encrypted = None
            if isinstance(error, ssl.SSLError):
                self._tls.waiting.count_tls_failure(error.reason or "")
        finally:
            self.connection_lost(None)
        # After a lost connection uvloop returns a transport that is closed.
        if encrypted is None or encrypted.is_closing():
            transport.abort()
            return
        protocol = self._tls.new_protocol()
        encrypted.set_protocol(protocol)
        protocol.connection_made(encrypted)
        if self._decrypted:
            protocol.data_received(self._decrypted)


def _pass_on(protocol: Any, data: bytes) -> None:
    """Pass ``data`` to ``protocol``, an ``asyncio.BufferedProtocol``, as its transport does."""
    unread = memoryview(data)
    while unread:
        buffer = protocol.get_buffer(len(unread))
        size = min(len(buffer), len(unread))
        buffer[:size] = unread[:size]
        protocol.buffer_updated(size)
        unread = unread[size:]
