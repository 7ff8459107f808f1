"""TLS connections on real servers: the handshake in any pieces, and sockets that do not complete it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from handshakes import Running, request, serving
from wire import PATIENCE, Peer

from roomcast.web.port import Address

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop", "asyncio")

LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


class TlsPeer:
    """A client that does the TLS handshake itself, so that it can stop or send any pieces."""

    def __init__(self, peer: Peer, certificate: Path) -> None:
        self.peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=certificate)
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    def hello(self) -> bytes:
        """Return the first bytes that a client sends."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    async def finish(self, *, then: bytes = b"", piece: int = 65536) -> None:
        """Complete the handshake, and send ``then`` with its last bytes, all in pieces."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._send(piece)
                await self._receive()
        if then:
            self.tls.write(then)
        await self._send(piece)

    async def read(self) -> bytes:
        """Return the next decrypted bytes."""
        while True:
            try:
                return self.tls.read()
            except ssl.SSLWantReadError:
                await self._receive()

    async def _send(self, piece: int) -> None:
        data = self._outgoing.read()
        for start in range(0, len(data), piece):
            await self.peer.send(data[start : start + piece])
            await asyncio.sleep(0)

    async def _receive(self) -> None:
        async with asyncio.timeout(PATIENCE):
            self._incoming.write(await asyncio.get_running_loop().sock_recv(self.peer.socket, 65536))


@pytest.fixture
async def encrypted(server_tls: ssl.SSLContext) -> AsyncIterator[Running]:
    """Run a server with TLS, a short HANDSHAKE_TIMEOUT, and up to 5 unauthenticated sockets of one address."""
    options = {"handshake_timeout": 0.5, "max_unauthenticated_per_address": 5}
    async with serving(address=Address(port=0, tls=server_tls), **options) as running:
        yield running


async def accepted(running: Running, count: int) -> None:
    """Wait until the server has ``count`` connections that have sent no request."""
    async with asyncio.timeout(PATIENCE):
        while len(running.server.ports[0].acceptor._silent) != count:
            await asyncio.sleep(0)


@pytest.mark.parametrize("piece", [1, 100, 65536])
async def test_the_handshake_arrives_in_pieces(encrypted, certificate, piece):
    """A request that arrives with the end of the handshake is answered."""
    client = TlsPeer(await encrypted.peer(), certificate)
    await client.finish(then=LIVE, piece=piece)
    assert (await client.read()).startswith(b"HTTP/1.1 200 ")


async def test_a_websocket_is_opened_with_the_end_of_the_handshake(encrypted, certificate):
    """The acceptor answers it, as without TLS."""
    client = TlsPeer(await encrypted.peer(), certificate)
    await client.finish(then=request())
    received = b""
    while b'"connected"' not in received:
        received += await client.read()
    assert received.startswith(b"HTTP/1.1 101 ")
    assert encrypted.aiohttp_requests == 0
    assert not encrypted.server.ports[0].acceptor.limit._unauthenticated


@pytest.mark.parametrize("state", ["nothing", "a part of the hello", "the hello", "no request"])
async def test_a_client_that_stops_is_dropped(encrypted, certificate, state):
    """HANDSHAKE_TIMEOUT closes its socket, whatever it has sent, and does not wait for an answer by TLS."""
    client = TlsPeer(await encrypted.peer(), certificate)
    if state == "no request":
        await client.finish()
    elif state != "nothing":
        await client.peer.send(client.hello()[: 20 if state == "a part of the hello" else None])
    await client.peer.wait_until_closed()
    await encrypted.wait_until_released()
    assert not encrypted.server.ports[0].acceptor.limit._unauthenticated


async def test_bytes_that_are_not_tls_close_the_connection(encrypted, caplog):
    """A request without TLS is not answered, and the log has nothing about it."""
    peer = await encrypted.peer()
    await peer.send(LIVE)
    await peer.wait_until_closed()
    await encrypted.wait_until_released()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_silent_sockets_have_a_limit(encrypted, certificate):
    """The oldest ones are closed, during the handshake too, and others are served."""
    peers = [await encrypted.peer() for _ in range(2)]
    await accepted(encrypted, 2)
    begun = TlsPeer(await encrypted.peer(), certificate)
    await begun.peer.send(begun.hello())
    await begun._receive()
    for _ in range(5):
        await encrypted.peer()
    for peer in [*peers, begun.peer]:
        await peer.wait_until_closed()
    client = TlsPeer(await encrypted.peer(), certificate)
    await client.finish(then=LIVE)
    assert (await client.read()).startswith(b"HTTP/1.1 200 ")
    assert encrypted.gateway.counters.closed_sockets["address"] >= 3


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_client_that_leaves_is_forgotten(encrypted, certificate, has_begun):
    """Nothing is left of a connection that was lost before the end of the handshake."""
    client = TlsPeer(await encrypted.peer(), certificate)
    if has_begun:
        await client.peer.send(client.hello())
        await client._receive()
    else:
        await accepted(encrypted, 1)
    client.peer.close()
    await encrypted.wait_until_released()
    assert not encrypted.server.ports[0].acceptor.limit._unauthenticated


async def test_the_shutdown_does_not_wait_for_handshakes(server_tls, certificate):
    """Sockets before and during the handshake are closed at once."""
    address = Address(port=0, tls=server_tls)
    async with serving(address=address, handshake_timeout=1000.0) as running:
        silent = await running.peer()
        begun = TlsPeer(await running.peer(), certificate)
        await begun.peer.send(begun.hello())
        await begun._receive()
        await accepted(running, 2)
        async with asyncio.timeout(PATIENCE):
            await running.server.stop()
        await silent.wait_until_closed()
        await begun.peer.wait_until_closed()
