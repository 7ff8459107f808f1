"""A server of ``transport.Connection`` without handshakes and gateway, which returns every text message."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable

from waiting import PATIENCE
from wire import Peer

from roomcast.errors import NORMAL
from roomcast.gateway.delivery import Delivery
from roomcast.protocol import frames
from roomcast.transport.connection import Connection, Keepalive


class Echo(Connection):
    """Returns every text message, and records what happens to the connection."""

    def __init__(self, delivery: Delivery, keepalive: Keepalive) -> None:
        super().__init__(delivery, keepalive)
        self.received: list[bytes] = []
        self.text_received = asyncio.Event()
        self.closing_started = asyncio.Event()
        self.ended = asyncio.Event()
        self.calls: list[str] = []

    def on_open(self) -> None:
        self.calls.append("open")

    def on_text(self, payload: bytearray) -> None:
        self.received.append(bytes(payload))
        self.text_received.set()
        self.scheduler.send(self, frames.text(bytes(payload)))

    def on_closing(self) -> None:
        self.calls.append("closing")
        self.closing_started.set()

    def on_end(self) -> None:
        self.calls.append("end")
        self.ended.set()


class EchoServer:
    """Connections behind a listening socket."""

    def __init__(self, connection_type: type[Connection], keepalive: Keepalive, delivery: Delivery) -> None:
        self.connection_type = connection_type
        self.delivery = delivery
        self.keepalive = keepalive
        self.accepted: asyncio.Queue[Echo] = asyncio.Queue()
        self.peers: list[Peer] = []
        self.address = ("", 0)
        #: Called with each transport before its connection takes it over.
        self.before_take_over: Callable[[asyncio.Transport], None] = lambda transport: None

    def accept(self) -> asyncio.Protocol:
        service = self

        class Handshake(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:
                # Later, because the transport must be reading, as after a handshake.
                asyncio.get_running_loop().call_soon(self.hand_over, transport)

            def hand_over(self, transport: asyncio.Transport) -> None:
                service.before_take_over(transport)
                opened = service.connection_type(service.delivery, service.keepalive)
                opened.take_over(transport, b"")
                service.accepted.put_nowait(opened)

        return Handshake()

    async def connect(self, *, receive_buffer: int | None = None) -> tuple[Peer, Echo]:
        peer = await Peer.connect(self.address, receive_buffer=receive_buffer)
        self.peers.append(peer)
        async with asyncio.timeout(PATIENCE):
            return peer, await self.accepted.get()


@contextlib.asynccontextmanager
async def serving(
    connection_type: type[Connection] = Echo,
    *,
    interval: float = 30.0,
    max_message: int = 65536,
    max_buffer: int = 1 << 20,
    send_buffer: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[EchoServer]:
    """Yield a server on a free port, whose sockets have a kernel buffer of ``send_buffer`` bytes."""
    loop = asyncio.get_running_loop()
    service = EchoServer(connection_type, Keepalive(loop, interval, max_message, max_buffer), Delivery(loop))
    sock = socket.socket()
    if send_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    sock.bind(("127.0.0.1", 0))
    service.address = sock.getsockname()
    server = await loop.create_server(service.accept, sock=sock, ssl=tls)
    checking = asyncio.create_task(service.keepalive.run())
    try:
        yield service
    finally:
        checking.cancel()
        for open_ in list(service.keepalive.connections):
            open_.abort(NORMAL)
        for peer in service.peers:
            peer.close()
        server.close()
        async with asyncio.timeout(PATIENCE):
            await server.wait_closed()


async def wait_for(event: asyncio.Event) -> None:
    """Wait for ``event``, which must be set soon."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()
