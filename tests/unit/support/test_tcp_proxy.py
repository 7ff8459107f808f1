"""The proxy of the tests of faults, in front of an echo server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tcp_proxy import Proxy


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Run a proxy in front of an echo server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


async def test_bytes_are_forwarded_and_counted(proxy: Proxy) -> None:
    """This holds for both directions."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"x" * 300_000)
    assert await reader.readexactly(300_000) == b"x" * 300_000
    assert (proxy.connections, proxy.open, proxy.sent, proxy.received) == (1, 1, 300_000, 300_000)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


async def test_latency_is_added_in_each_direction(proxy: Proxy) -> None:
    """An echo takes twice the latency. Bytes that are sent together arrive together."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.latency = 0.051  # the timers of uvloop have a resolution of 1 ms
    began = time.monotonic()
    writer.write(b"a")
    await asyncio.sleep(0)
    writer.write(b"b")
    assert await reader.readexactly(2) == b"ab"
    assert time.monotonic() - began >= 0.1
    writer.close()


async def test_a_stall_closes_nothing_and_loses_nothing(proxy: Proxy) -> None:
    """No bytes arrive during the stall. All of them arrive afterwards."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.stall(to_server=False)
    writer.write(b"later")
    arrival = asyncio.ensure_future(reader.readexactly(5))
    while proxy.sent < 5:
        await asyncio.sleep(0.001)
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert not arrival.done() and proxy.received == 0
    proxy.flow()
    assert await arrival == b"later"
    for one in (writer, other_writer):
        one.close()
    assert await other_reader.read() == b""


async def test_a_reset_ends_connections(proxy: Proxy) -> None:
    """The client gets ECONNRESET instead of an end of the stream, and may connect again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    writer.close()


async def test_a_refusing_proxy_can_be_started_again(proxy: Proxy) -> None:
    """New connections are refused, open ones stay, and the port remains the same."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"b")
    assert await reader.readexactly(1) == b"b"
    port = proxy.port
    await proxy.start()
    assert proxy.port == port
    _, again = await asyncio.open_connection("127.0.0.1", port)
    for one in (writer, again):
        one.close()
