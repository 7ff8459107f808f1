"""Tests of ``transport.connection``: how much is read after the end of a connection is decided."""

import asyncio
import ssl

import pytest
from echo_server import Echo, serving, wait_for
from wire import closing, masked

from roomcast.errors import SERVICE_RESTART, TOO_MANY_MESSAGES
from roomcast.protocol.frames import CONTINUATION, PING, PONG, TEXT, FrameReader
from roomcast.transport import connection
from roomcast.transport.connection import MAX_READ_AFTER_END

pytest_plugins = ("certificates", "loops")
LOOPS = ("uvloop", "asyncio")

FLOODS = {
    "messages": masked(TEXT, b"{}") * 5000,
    "empty messages": masked(TEXT) * 5000,
    "pings": masked(PING) * 5000,
    "pongs": masked(PONG, b"x" * 125) * 400,
    "fragments": masked(TEXT, b"x", fin=False) + masked(CONTINUATION, fin=False) * 5000,
    "a part of a message": masked(TEXT, bytes(50_000))[:-1],
    "junk": b"\xff" * 50_000,
}
ALL_FLOODS = pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes that were given to frame readers, for each call."""
    sizes: list[int] = []
    feed = FrameReader.feed

    def counting_feed(reader, data):
        sizes.append(len(data))
        return feed(reader, data)

    monkeypatch.setattr(FrameReader, "feed", counting_feed)
    return sizes


def is_read(echo: Echo) -> bool:
    """Return True if the poller or the transport reads the socket of ``echo``."""
    return echo._polled_fd >= 0 or (echo._transport is not None and echo._transport.is_reading())


async def send_until_full(peer, data: bytes) -> None:
    """Send ``data`` again and again until neither kernel accepts more; the server must not read it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await asyncio.get_running_loop().sock_sendall(peer.socket, data)


@ALL_FLOODS
async def test_a_closing_connection_is_read_no_further_than_the_limit(flood: bytes, parsed: list[int]) -> None:
    """A client that goes on to send can no longer do so when the kernel's buffers are full."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        await send_until_full(peer, flood)
        assert not is_read(echo)
        assert sum(parsed) <= MAX_READ_AFTER_END
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.closes_cleanly(), "the client sees the end, although it has not answered"
        assert not echo.ended.is_set()


class ClosesAtOnce(Echo):
    """Closes at the first message or ping."""

    def on_text(self, payload: bytearray) -> None:
        self.close(TOO_MANY_MESSAGES)

    def on_ping(self, payload: bytes) -> None:
        self.close(TOO_MANY_MESSAGES)


@ALL_FLOODS
async def test_the_rest_of_a_read_counts(flood: bytes, parsed: list[int]) -> None:
    """If the end is decided within the data of one read, no more than the limit of its rest is parsed."""
    async with serving(ClosesAtOnce) as service:
        peer, echo = await service.connect()
        first = masked(PING)
        echo.data_received(first + flood)
        assert echo.end is TOO_MANY_MESSAGES
        assert sum(parsed) <= len(first + flood) + MAX_READ_AFTER_END
        assert sum(parsed[1:]) <= MAX_READ_AFTER_END
        assert not is_read(echo)
        assert await peer.closed_with() == (4429, "Too Many Messages")


async def test_an_answer_within_the_limit_ends_the_connection() -> None:
    """A client may send what it has queued before it answers the close frame."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        queued = masked(TEXT, b"x" * 94)
        await peer.send(queued * 20)
        assert await peer.closed_with() == (1012, "Service Restart")
        await peer.send(queued * 20 + closing(1012))
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)
        assert echo.received == []


async def test_a_close_frame_in_the_read_that_ends_the_connection_counts() -> None:
    """Both close frames are there, so the server hangs up at once."""
    async with serving(ClosesAtOnce) as service:
        peer, echo = await service.connect()
        await peer.send(masked(PING) + masked(TEXT, b"x") + closing(1000))
        assert await peer.closed_with() == (4429, "Too Many Messages")
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)


async def test_a_connection_that_is_no_longer_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``CLOSE_TIMEOUT`` its socket is closed."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.2)
    async with serving(interval=0.2) as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        await peer.send(FLOODS["messages"])
        await wait_for(echo.ended)
        await peer.wait_until_closed()


@ALL_FLOODS
@pytest.mark.parametrize("violates", [True, False], ids=["violation", "close"])
async def test_the_limit_applies_to_tls(flood: bytes, violates: bool, certificate, server_tls, parsed) -> None:
    """A client of an encrypted connection cannot keep the server busy either."""
    async with serving(tls=server_tls) as service:
        trust = ssl.create_default_context(cafile=certificate)
        _, writer = await asyncio.open_connection(*service.address, ssl=trust)
        echo = await service.accepted.get()
        if violates:
            writer.write(b"\xff\xff")
            await wait_for(echo.closing_started)
        else:
            echo.close(SERVICE_RESTART)
        sent = 0
        parsed.clear()
        while sent < 40_000_000 and not writer.is_closing():
            writer.write(flood)
            sent += len(flood)
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except (TimeoutError, ConnectionError):
                break
        else:
            assert writer.is_closing(), "the server reads everything"
        assert sum(parsed) <= MAX_READ_AFTER_END
        writer.transport.abort()
