"""For tests of the handshake: servers whose insides can be seen, and clients that send heads as they are told."""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.web import RequestHandler
from wire import PATIENCE, Peer

from roomcast.auth.identity import make_token
from roomcast.broker.memory import MemoryBroker
from roomcast.gateway.gateway import Gateway
from roomcast.protocol.frames import TEXT
from roomcast.registry import load
from roomcast.settings import Settings
from roomcast.web.server import Address, Server
from roomcast.web.upgrade.acceptor import PendingConnection

ANY_PORT = Address(port=0)
SECRET = "correct horse battery staple, twice over"
TOKEN = make_token(SECRET, user_id=1, username="alice", rooms=["*"])
PATH = "/api/v1/ws/connect"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3, as is its answer:
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HEADERS = {
    "Host": "localhost",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


def request(path: str = f"{PATH}?token={TOKEN}", method: str = "GET", **headers: str | None) -> bytes:
    """A handshake's head; ``headers`` replace its own (underscores are hyphens), or with None take them away."""
    wanted: dict[str, str | None] = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{name}: {value}" for name, value in wanted.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


class Running:
    """A server of one test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.gateway = server.gateway
        self.broker = server.gateway.broker
        self.peers: list[Peer] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}{PATH}"

    @property
    def at_aiohttp(self) -> list[RequestHandler]:
        """The connections that aiohttp has."""
        return self.server._runner.server.connections

    @property
    def greeting(self) -> int:
        """How many connections are not handed over yet, at the entrance and with aiohttp."""
        acceptor = self.server._acceptor
        return len(acceptor._silent) + len(acceptor._handshakes) + len(self.at_aiohttp)

    def visitor(self) -> PendingConnection | RequestHandler:
        """The one connection whose handshake is under way."""
        fronts = [
            one for one in gc.get_objects() if type(one) is PendingConnection and one._acceptor is self.server._acceptor
        ]
        (only,) = [*self.at_aiohttp, *(one for one in fronts if one.transport is not None)]
        return only

    async def asking(self, way: str, **change: Any) -> Peer:
        """A client that has sent a handshake, in one piece or in two: the entrance takes those, and aiohttp these."""
        peer, head = await self.peer(), request(**change)
        if way == "in two":
            await peer.send(head[:50])
            async with asyncio.timeout(PATIENCE):
                while not self.at_aiohttp:
                    await asyncio.sleep(0)
            head = head[50:]
        await peer.send(head)
        return peer

    async def peer(self) -> Peer:
        """A client that has said nothing yet."""
        peer = await Peer.connect(("127.0.0.1", self.server.port))
        self.peers.append(peer)
        return peer

    async def shaken(self, **headers: str | None) -> Peer:
        """A client that was answered 101 and greeted."""
        peer = await self.peer()
        await peer.send(request(**headers))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await event(peer))["type"] == "connected"
        return peer

    async def settled(self) -> None:
        """Wait until the entrance and aiohttp have forgotten everybody, which takes a few turns."""
        async with asyncio.timeout(PATIENCE):
            while self.greeting:
                await asyncio.sleep(0)

    async def emptied(self) -> None:
        """Wait until the last WebSocket is gone."""
        async with asyncio.timeout(PATIENCE):
            while self.gateway.keepalive.connections:
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serving(
    *, broker: MemoryBroker | None = None, address: Address = ANY_PORT, **settings: Any
) -> AsyncIterator[Running]:
    """A started server, stopped at the end."""
    values = {"jwt_secret": SECRET, "drain_seconds": 0.0, **settings}
    server = Server(Gateway(Settings(**values), load(), broker or MemoryBroker()), address)
    await server.start()
    running = Running(server)
    try:
        yield running
    finally:
        for peer in running.peers:
            peer.close()
        await server.stop()


async def event(peer: Peer) -> dict[str, Any]:
    """The next event."""
    opcode, payload = await peer.frame()
    assert opcode == TEXT
    return json.loads(payload)


class Slow(MemoryBroker):
    """A broker that lets nobody in before the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
        self.asked.set()
        await self.gate.wait()
        return await super().admit(user_id, connection, limit)


#: How a head comes: the entrance takes the handshake, or aiohttp does.
WAYS = pytest.mark.parametrize("way", ["whole", "in two"])
