"""For tests of the handshake: servers with access to their internals, and clients that send any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.web import RequestHandler
from serving import ANY_PORT, PATH, running, token_for
from waiting import PATIENCE
from wire import Peer

from roomcast.broker.memory import MemoryBroker
from roomcast.web.port import Address
from roomcast.web.server import Server
from roomcast.web.upgrade.acceptor import PendingConnection

TOKEN = token_for()
#: The key of RFC 6455 section 1.3, and the header that answers it.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HEADERS = {
    "Host": "localhost",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}

#: The number of parts in which the request is sent. The acceptor handles requests in one part, aiohttp those in two.
IN_PARTS = pytest.mark.parametrize("parts", [1, 2], ids=["one part", "two parts"])


def request(path: str = f"{PATH}?token={TOKEN}", method: str = "GET", **headers: str | None) -> bytes:
    """Return a handshake request. ``headers`` replace its headers, or remove them if they are None.

    Underscores in their names stand for hyphens.
    """
    wanted: dict[str, str | None] = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{name}: {value}" for name, value in wanted.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


class Running:
    """A running server, and the clients that a test has connected to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.gateway = server.gateway
        self.broker = server.gateway.broker
        self.peers: list[Peer] = []

    @property
    def url(self) -> str:
        """The URL of the WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.server.port}{PATH}"

    @property
    def aiohttp_handlers(self) -> list[RequestHandler]:
        """The connections that aiohttp handles."""
        return self.server.ports[0].runner.server.connections

    @property
    def aiohttp_requests(self) -> int:
        """The number of requests that aiohttp has handled."""
        count: int = self.server.ports[0].runner.server.requests_count
        return count

    @property
    def pending(self) -> int:
        """The number of connections that are not admitted yet, in the acceptor and in aiohttp."""
        acceptor = self.server.ports[0].acceptor
        return len(acceptor._silent) + len(acceptor._handshakes) + len(self.aiohttp_handlers)

    def pending_connection(self) -> PendingConnection | RequestHandler:
        """Return the only connection whose handshake is in progress."""
        found = [
            one
            for one in gc.get_objects()
            if type(one) is PendingConnection and one._acceptor is self.server.ports[0].acceptor
        ]
        (only,) = [*self.aiohttp_handlers, *(one for one in found if one.transport is not None)]
        return only

    async def peer(self) -> Peer:
        """Connect a client that sends nothing."""
        peer = await Peer.connect(("127.0.0.1", self.server.port))
        self.peers.append(peer)
        return peer

    async def start_handshake(self, parts: int = 1, **change: Any) -> Peer:
        """Connect a client that sends ``request(**change)`` in one or two parts."""
        peer, head = await self.peer(), request(**change)
        if parts == 2:
            await peer.send(head[:50])
            async with asyncio.timeout(PATIENCE):
                while not self.aiohttp_handlers:
                    await asyncio.sleep(0)
            head = head[50:]
        await peer.send(head)
        return peer

    async def connected(self, **headers: str | None) -> Peer:
        """Connect a client and read its ``connected`` frame."""
        peer = await self.peer()
        await peer.send(request(**headers))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.event())["type"] == "connected"
        return peer

    async def wait_until_released(self) -> None:
        """Wait until the acceptor and aiohttp have released all connections."""
        async with asyncio.timeout(PATIENCE):
            while self.pending:
                await asyncio.sleep(0)

    async def wait_until_ended(self) -> None:
        """Wait until the last WebSocket has ended."""
        async with asyncio.timeout(PATIENCE):
            while self.gateway.keepalive.connections:
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serving(
    *, broker: MemoryBroker | None = None, address: Address = ANY_PORT, **settings: Any
) -> AsyncIterator[Running]:
    """Run a server, and close its clients at the end."""
    async with running(broker=broker, address=address, **settings) as server:
        run = Running(server)
        try:
            yield run
        finally:
            for peer in run.peers:
                peer.close()


class GatedBroker(MemoryBroker):
    """A broker whose ``admit`` sets ``asked``, then waits until the test sets ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
        self.asked.set()
        await self.gate.wait()
        return await super().admit(user_id, connection, limit)


@contextlib.asynccontextmanager
async def raw(server: Server) -> AsyncIterator[Peer]:
    """Yield a client that sends arbitrary bytes, after its handshake and ``connected``."""
    peer = await Peer.connect(("127.0.0.1", server.port))
    try:
        await peer.send(request())
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.event())["type"] == "connected"
        yield peer
    finally:
        peer.close()
