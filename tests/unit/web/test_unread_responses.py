"""Responses that clients do not read, on real servers with plain connections, TLS and Unix sockets."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from handshakes import Running, serving
from serving import running
from waiting import PATIENCE, wait_until

from roomcast import Plugin
from roomcast.aiohttp_internals import HttpConnection, http_transports
from roomcast.web.failure_logs import FailureLogs
from roomcast.web.port import Address
from roomcast.web.server import Server
from roomcast.web.unread_responses import MIN_PROGRESS, UnreadResponses, _measure
from roomcast.web.upgrade import tls_connection

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop", "asyncio")

TIMEOUT = 10.0
FILE = b"GET /static/roomcast.js.map HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=["plain", "TLS", "Unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """The address of a server."""
    if request.param == "TLS":
        return Address(port=0, tls=request.getfixturevalue("server_tls"))
    return Address(unix_socket=tmp_path / "s") if request.param == "Unix" else Address(port=0)


class Client:
    """A client whose kernel accepts only a few KB that were not read."""

    def __init__(self, server: Server) -> None:
        unix, tls = server.address.unix_socket, server.address.tls
        self._socket = socket.socket(socket.AF_INET if unix is None else socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(str(unix) if unix else ("127.0.0.1", server.port))
        if tls is not None:
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
            self._socket = trust.wrap_socket(self._socket)

    async def send(self, data: bytes) -> None:
        """Send requests."""
        await asyncio.to_thread(self._socket.sendall, data)

    async def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes; b"" or an ``OSError`` means that the server has ended the connection."""
        return await asyncio.to_thread(self._socket.recv, size)

    async def read_response(self) -> bytes:
        """Read a whole response; return its body."""
        data = b""
        while not (head := re.search(rb"Content-Length: ([0-9]+).*?\r\n\r\n", data, re.DOTALL)) or len(data) < (
            head.end() + int(head[1])
        ):
            part = await self.read(65536)
            assert part, data[:500]
            data += part
        return data[head.end() :]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Checked:
    """A server with one HTTP connection, and a check of its own, for which the test chooses the time."""

    def __init__(self, server: Server, client: Client) -> None:
        self.server = server
        self.client = client
        self.check = UnreadResponses(server.ports[0].runner.server, TIMEOUT, FailureLogs())

    @property
    def connections(self) -> list[tuple[HttpConnection, asyncio.Transport]]:
        """The HTTP connections that have not ended."""
        return http_transports(self.server.ports[0].runner.server)

    async def wait_until_unread(self) -> None:
        """Wait until the client has to read before the server can send more."""
        await wait_until(lambda: self.connections and _measure(self.connections[0][1], 0).outstanding > MIN_PROGRESS)

    async def wait_until_dropped(self, now: float) -> None:
        """Check again and again, each time ``TIMEOUT`` later, until the connection has ended."""

        def is_dropped() -> bool:
            nonlocal now
            now += TIMEOUT
            self.check.abort_stalled(now)
            return not self.connections

        await wait_until(is_dropped)


@asynccontextmanager
async def checked(address: Address, **options) -> AsyncIterator[Checked]:
    """Run a server with one client."""
    async with running(address=address, handshake_timeout=1000.0, **options) as server:
        client = await asyncio.to_thread(Client, server)
        try:
            yield Checked(server, client)
        finally:
            client.close()


async def test_a_client_that_does_not_read_is_dropped(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    """Until the timeout nothing happens, then the connection is ended, with all requests behind the response."""
    caplog.set_level("INFO")
    async with checked(address) as one:
        await one.client.send(FILE * 50)
        await one.wait_until_unread()
        for now in (0.0, TIMEOUT / 2, TIMEOUT - 0.01):
            one.check.abort_stalled(now)
            assert one.connections
        await one.wait_until_dropped(TIMEOUT)
        assert "did not read a response for 10 s" in caplog.text


async def test_a_slow_client_that_makes_progress_gets_everything(address: Address) -> None:
    """A client that reads a little within each timeout keeps its connection, and can send the next request."""
    big = Plugin("big", "For this test")

    @big.route("GET", "/file", auth="public")
    async def send(service, request: web.Request) -> web.Response:
        return web.Response(body=bytes(2_000_000))

    async with checked(address, plugins=[big]) as one:
        await one.client.send(b"GET /plugins/big/file HTTP/1.1\r\nHost: a\r\n\r\n")
        await one.wait_until_unread()
        (_, transport), now, size = one.connections[0], 0.0, 0

        async def read_until_progress() -> None:
            nonlocal size
            before = _measure(transport, 0).read
            while (progress := _measure(transport, 0)).outstanding and progress.read - before < MIN_PROGRESS:
                if size < 2_000_000:
                    size += len(await one.client.read(4096))
                else:  # the kernel acknowledges the rest
                    await asyncio.sleep(0.005)

        one.check.abort_stalled(now)
        while _measure(transport, 0).outstanding:
            await read_until_progress()
            now += TIMEOUT - 0.01
            one.check.abort_stalled(now)
            assert one.connections, f"dropped after {size} bytes"
        assert now > 2 * TIMEOUT
        while size < 2_000_000:
            size += len(await one.client.read(65536))
        await one.client.send(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while b"200 OK" not in received:
            received += await one.client.read(65536)


async def test_a_client_that_reads_byte_by_byte_is_dropped(address: Address) -> None:
    """Less than ``MIN_PROGRESS`` within the timeout is no progress."""
    async with checked(address) as one:
        await one.client.send(FILE * 50)
        await one.wait_until_unread()
        for count in range(1000):
            one.check.abort_stalled(count * TIMEOUT)
            if not one.connections:
                break
            await one.client.read(10)
        await wait_until(lambda: not one.connections)


async def test_a_client_that_has_read_everything_stays(address: Address) -> None:
    """The check ends when nothing is outstanding, also while the response is being produced."""
    events = Plugin("events", "For this test")
    gate = asyncio.Event()

    @events.route("GET", "/slow", auth="public")
    async def stream(service, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a")
        await gate.wait()
        return response

    async with checked(address, plugins=[events]) as one:
        await one.client.send(FILE)
        await one.client.read_response()
        await one.client.send(b"GET /plugins/events/slow HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while not received.endswith(b"\r\n\r\n1\r\na\r\n"):
            received += await one.client.read(65536)
        ((connection, transport),) = one.connections
        await wait_until(lambda: not _measure(transport, 0).outstanding)
        for now in range(5):
            one.check.abort_stalled(now * TIMEOUT)
        assert connection.is_responding
        gate.set()
        await wait_until(lambda: not connection.is_responding)
        await wait_until(lambda: not _measure(transport, 0).outstanding)
        one.check.abort_stalled(6 * TIMEOUT)
        assert not connection.may_be_unread
        assert one.connections


async def test_a_connection_that_is_closing_is_dropped(address: Address) -> None:
    """A transport that aiohttp has closed waits for the client, without an end."""
    async with checked(address) as one:
        await one.client.send(FILE * 50)
        await one.wait_until_unread()
        one.connections[0][0].force_close()
        assert one.connections
        await one.wait_until_dropped(0.0)


@pytest.mark.parametrize("header", ["Connection: close\r\n", ""])
async def test_tls_is_not_closed_before_a_slow_client_has_read(
    header: str, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the end of the response nor HTTP_KEEPALIVE cuts off what TLS has encrypted already."""
    monkeypatch.setattr(tls_connection, "CLOSE_TIMEOUT", 0.1)
    size = 3_000_000
    big = Plugin("big", "For this test")

    @big.route("GET", "/file", auth="public")
    async def send(service, request: web.Request) -> web.Response:
        return web.Response(body=bytes(size))

    async with checked(Address(port=0, tls=server_tls), plugins=[big], http_keepalive=0.1) as one:
        await one.client.send(f"GET /plugins/big/file HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode())
        await one.wait_until_unread()
        await asyncio.sleep(1)
        received = 0
        while received < size:
            part = await one.client.read(65536)
            assert part, f"cut off after {received} bytes"
            received += len(part)


async def test_few_pipelined_requests_are_read() -> None:
    """While a response is sent, at most four requests are parsed; the rest follows, in order."""
    gate = asyncio.Event()
    slow = Plugin("slow", "For this test")

    @slow.route("GET", "/{number}", auth="public")
    async def wait(service, request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(text=request.match_info["number"])

    numbers = range(40)
    async with checked(Address(port=0), plugins=[slow]) as one:
        requests = [b"GET /plugins/slow/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in numbers]
        await one.client.send(b"".join(requests))
        await wait_until(lambda: one.connections and one.connections[0][0].is_responding)
        for _ in range(20):
            await asyncio.sleep(0)
        assert one.connections[0][0]._request_count <= 5
        gate.set()
        received = b""
        while received.count(b"HTTP/1.1 200") < len(numbers) or not received.endswith(b"39"):
            received += await one.client.read(65536)
        assert re.findall(rb"\r\n\r\n([0-9]+)", received) == [b"%d" % number for number in numbers]


async def test_a_websocket_is_not_checked() -> None:
    """A handshake takes the connection out of the check; ``WS_MAX_BUFFER`` limits what a client does not read."""
    async with serving() as run:
        assert isinstance(run, Running)
        peer = await run.start_handshake(2)
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        await wait_until(lambda: not http_transports(run.server.ports[0].runner.server))
