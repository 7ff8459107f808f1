"""Tests of ``transport.connection`` with clients that read slowly or not at all."""

import asyncio
import contextlib
import gc
import random
import ssl
import tracemalloc

import pytest
from echo_server import Echo, serving, wait_for
from waiting import PATIENCE
from wire import closing, masked

from roomcast.errors import NORMAL, TOO_SLOW
from roomcast.protocol import frames
from roomcast.protocol.frames import CLOSE, PING, TEXT
from roomcast.transport import connection

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop", "asyncio")


async def fill(echo: Echo, size: int = 4096) -> int:
    """Write numbered messages until the connection is closed for its backlog; return their number."""
    count = 0
    while echo.end is None:
        echo.scheduler.send(echo, frames.text(b"%08d" % count + bytes(size - 8)))
        count += 1
        await asyncio.sleep(0)
        assert count < 100_000, "a client that never reads was never closed"
    return count


async def test_a_client_that_never_reads_is_closed_with_1013():
    """It is closed when its backlog exceeds ``max_buffer``. When it reads, it gets whole frames and the reason."""
    async with serving(max_buffer=100_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        count = await fill(echo)
        assert echo.end is TOO_SLOW
        assert 100_000 < echo.backlog < 100_000 + 2 * 4200
        for number in range(count):
            opcode, payload = await peer.frame()
            assert (opcode, payload[:8], len(payload)) == (TEXT, b"%08d" % number, 4096)
        assert await peer.frame() == (CLOSE, b"\x03\xf5Too Slow")
        await peer.send(closing(1013))
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)
        assert echo.calls == ["open", "closing", "end"]


async def test_a_slow_client_that_closes_gets_its_backlog():
    """The answer to its close frame follows the backlog."""
    async with serving(max_buffer=1 << 20, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        for _ in range(100):
            service.delivery.send(echo, frames.text(bytes(4096)))
        await peer.send(closing(1000))
        await wait_for(echo.closing_started)
        assert echo.backlog > 0
        for _ in range(100):
            assert await peer.frame() == (TEXT, bytes(4096))
        assert await peer.closed_with() == (1000, "")
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)


async def test_a_client_that_does_not_read_its_close_frame_is_dropped(monkeypatch):
    """Its backlog is released after ``CLOSE_TIMEOUT``."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.1)
    async with serving(interval=0.1, max_buffer=100_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        await fill(echo)
        await wait_for(echo.ended)
        assert echo.end is TOO_SLOW
        assert echo.backlog == 0
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                await peer.frame()


async def test_a_backlog_within_the_limit_is_accepted():
    """It may fill and drain any number of times."""
    async with serving(max_buffer=200_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        for _ in range(5):
            for _ in range(40):
                service.delivery.send(echo, frames.text(bytes(4096)))
            await asyncio.sleep(0)
            assert echo.backlog > 50_000
            for _ in range(40):
                assert await peer.frame() == (TEXT, bytes(4096))
        assert echo.end is None


async def test_a_client_that_reads_irregularly_gets_all_frames_in_order():
    """Frames are written to the socket, buffered by the transport or deferred, alone and in groups."""
    async with serving(max_buffer=1 << 30, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        service.delivery.join("channel:1", echo)
        draw = random.Random(7)  # any seed
        sent = read = 0
        while sent < 2000:
            for _ in range(draw.choice((1, 1, 2, 60))):
                frame = frames.text(b"%08d" % sent + bytes(draw.choice((0, 10, 3000, 40_000))))
                if draw.random() < 0.5:
                    service.delivery.send(echo, frame)
                    await asyncio.sleep(0)  # frames for one connection precede those of its rooms in one iteration
                else:
                    service.delivery.deliver("channel:1", frame)
                    await asyncio.sleep(0)
                sent += 1
            while read < sent and draw.random() < 0.95:
                assert (await peer.frame())[1][:8] == b"%08d" % read
                read += 1
        echo.close(NORMAL)
        for number in range(read, sent):
            assert (await peer.frame())[1][:8] == b"%08d" % number
        assert await peer.closed_with() == (1000, "")


@pytest.mark.parametrize("size", [0, 100_000], ids=["one buffer", "enough to pause"])
async def test_unsent_data_of_the_handshake_is_not_overtaken(size):
    """An HTTP response may be in the buffer of the transport. Frames follow it, and it counts as backlog."""
    written = bytearray()

    def answer(transport: asyncio.Transport) -> None:
        while not transport.get_write_buffer_size():
            transport.write(bytes(4096))
            written.extend(bytes(4096))
        transport.write(bytes(size))
        written.extend(bytes(size))

    async with serving(max_buffer=200_000, send_buffer=16384) as service:
        service.before_take_over = answer
        peer, echo = await service.connect(receive_buffer=16384)
        assert echo.backlog > size
        data = peer.socket.recv(1 << 20)  # the kernel has space again, but the transport does not know it yet
        for number in range(3):
            service.delivery.send(echo, frames.text(b"%d" % number))
            service.delivery.flush()
        expected = bytes(written) + b"".join(frames.text(b"%d" % number) for number in range(3))
        assert data + await peer.read(len(expected) - len(data)) == expected
        peer, echo = await service.connect(receive_buffer=16384)
        await fill(echo)
        assert echo.end is TOO_SLOW
        assert echo.backlog < 200_000 + 2 * 4200


async def test_the_backlog_is_not_overtaken_if_writelines_does_not_pause(monkeypatch):
    """In Python 3.12.0 to 3.12.8 it does not call ``pause_writing`` (CVE-2024-12254)."""
    transport_type = asyncio.selector_events._SelectorSocketTransport

    def writelines(transport: asyncio.Transport, lines: list[bytes]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(transport_type, "_maybe_pause_protocol", lambda transport: None)
            transport.write(b"".join(lines))

    monkeypatch.setattr(transport_type, "writelines", writelines)
    async with serving(max_buffer=1 << 30, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        expected, data = b"", b""
        while echo._backlog is None or echo._backlog.size < 1_000_000:
            frame = frames.text(b"%08d" % len(expected) + bytes(20_000))
            expected += frame
            service.delivery.send(echo, frame)
            service.delivery.flush()
        async with asyncio.timeout(PATIENCE):
            while echo._backlog is not None:
                with contextlib.suppress(BlockingIOError):
                    data += peer.socket.recv(4096)
                await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            data += peer.socket.recv(1 << 20)  # the kernel has space again, but the transport does not know it yet
        service.delivery.send(echo, frames.text(b"last"))
        service.delivery.flush()
        expected += frames.text(b"last")
        assert data + await peer.read(len(expected) - len(data)) == expected


async def test_a_slow_client_with_tls_gets_all_frames_in_order(certificate, server_tls):
    """Only the transport writes there. Frames that it cannot write are deferred."""
    trust = ssl.create_default_context(cafile=certificate)
    async with serving(max_buffer=1 << 30, send_buffer=16384, tls=server_tls) as service:
        reader, writer = await asyncio.open_connection(*service.address, ssl=trust, limit=4096)
        async with asyncio.timeout(PATIENCE):
            echo = await service.accepted.get()
            assert echo.fd == -1
            expected = b""
            while echo._backlog is None or echo._backlog.size < 1_000_000:
                frame = frames.text(b"%08d" % len(expected) + bytes(20_000))
                expected += frame
                service.delivery.send(echo, frame)
                await asyncio.sleep(0)
            assert await reader.readexactly(len(expected)) == expected
            service.delivery.send(echo, frames.text(b"and more"))
            assert await reader.readexactly(10) == frames.text(b"and more")
        echo.close(NORMAL)
        writer.close()


async def test_a_slow_client_does_not_delay_other_members():
    """19 members read everything in order, and one that never reads is closed with 1013."""
    async with serving(max_buffer=50_000, send_buffer=16384) as service:
        everyone = [await service.connect(receive_buffer=16384) for _ in range(20)]
        for _, echo in everyone:
            service.delivery.join("channel:1", echo)
        (_, slow), *others = everyone
        for number in range(100):
            service.delivery.deliver("channel:1", frames.text(b"%04d" % number * 500))
            for peer, _ in others:
                assert await peer.frame() == (TEXT, b"%04d" % number * 500)
        assert slow.end is TOO_SLOW
        assert all(echo.end is None for _, echo in others)


async def test_the_memory_of_backlogs_is_bounded():
    """Ten clients that never read use at most ten times ``max_buffer``."""
    async with serving(max_buffer=100_000, send_buffer=16384) as service:
        everyone = [await service.connect(receive_buffer=16384) for _ in range(10)]
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(200):
                for _, echo in everyone:
                    service.delivery.send(echo, frames.text(b"%04d" % number * 1024))
                await asyncio.sleep(0)
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert all(echo.end is TOO_SLOW for _, echo in everyone)
        assert used < 10 * (100_000 + 8 * 4200)


async def test_unread_pongs_count_as_backlog():
    """A client may send pings and never read the pongs."""
    async with serving(max_buffer=50_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):
                while echo.end is None:
                    await peer.send(masked(PING, b"x" * 125) * 50)

        async with asyncio.timeout(PATIENCE):
            await flood()
        assert echo.end is TOO_SLOW
