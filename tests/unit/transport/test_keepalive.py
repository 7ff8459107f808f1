"""Tests of ``transport.keepalive``, and of the heartbeat of connections."""

import asyncio
import socket
import time
from itertools import pairwise

import pytest
from echo_server import serving, wait_for
from wire import masked

from roomcast.gateway.delivery import Delivery
from roomcast.protocol import frames
from roomcast.protocol.frames import PING, PONG, TEXT
from roomcast.transport import connection
from roomcast.transport.connection import Connection
from roomcast.transport.keepalive import Keepalive

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")


async def test_a_silent_client_that_answers_pings_is_not_dropped():
    """It is pinged after each interval."""
    async with serving(interval=0.1) as service:
        peer, echo = await service.connect()
        for _ in range(5):
            assert await peer.frame() == (PING, b"")
            await peer.send(masked(PONG))
        assert echo.end is None


async def test_a_client_that_does_not_answer_pings_is_dropped():
    """It gets one ping, and no close frame."""
    async with serving(interval=0.1) as service:
        peer, echo = await service.connect()
        assert await peer.frame() == (PING, b"")
        await peer.wait_until_closed()
        await wait_for(echo.ended)
        assert echo.end is connection.SILENT
        assert echo.calls == ["open", "end"]


async def test_a_client_that_sends_is_not_pinged():
    """Any bytes count, also an incomplete frame."""
    async with serving() as service:
        peer, echo = await service.connect()
        data = masked(TEXT, b"slowly but")
        for byte in data:
            echo.data_received(bytes([byte]))
            service.keepalive.now += 29.0
            echo.check(service.keepalive.now)
        assert await peer.frame() == (TEXT, b"slowly but")
        await peer.send(masked(PING, b"1"))
        assert await peer.frame() == (PONG, b"1"), "the server sent no ping before"


async def test_the_ping_follows_after_one_interval_and_the_end_after_two():
    """The times are those of the keepalive, to the second."""
    async with serving(interval=30.0) as service:
        peer, echo = await service.connect()
        start = echo.last_read = float(int(echo.last_read))  # sums of whole seconds are exact
        for second in range(60):
            echo.check(start + second)
            assert echo._is_pinged == (second >= 30)
            assert echo.end is None
        echo.check(start + 60)
        assert echo.end is connection.SILENT
        await wait_for(echo.ended)
        peer.close()


@pytest.mark.slow
async def test_a_stall_of_the_server_does_not_count_as_silence():
    """After a second in which the server did not run, the pong of the client is read before the check."""
    async with serving(interval=0.2) as service:
        peer, echo = await service.connect()
        assert await peer.frame() == (PING, b"")
        await peer.send(masked(PONG) + masked(TEXT, b"here"))
        time.sleep(1.0)
        assert await peer.frame() == (TEXT, b"here")
        assert await peer.frame() == (PING, b"")
        assert echo.end is None


async def test_a_client_is_not_dropped_without_a_ping():
    """A check that is very late pings first."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.check(echo.last_read + 1000)
        assert echo.end is None
        assert await peer.frame() == (PING, b"")
        echo.check(echo.last_read + 1001)
        assert echo.end is connection.SILENT


async def test_a_client_is_not_dropped_while_reading_is_paused():
    """Its pong cannot be read during the pause."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.pause_reading()
        start = echo.last_read
        echo.check(start + 30)
        assert await peer.frame() == (PING, b"")
        echo.check(start + 60)
        echo.check(start + 90)
        assert echo.end is None
        echo.resume_reading()
        await peer.send(masked(TEXT, b"here"))
        assert await peer.frame() == (TEXT, b"here")


async def test_a_half_closed_client_that_does_not_read_is_dropped():
    """Its transport waits until the client has read all data."""
    async with serving(interval=0.2, send_buffer=4096) as service:
        peer, echo = await service.connect(receive_buffer=4096)
        echo.scheduler.send(echo, frames.text(bytes(300_000)))
        echo.scheduler.flush()
        assert echo.paused
        peer.socket.shutdown(socket.SHUT_WR)
        await wait_for(echo.ended)
        assert echo.end is connection.SILENT


async def test_all_connections_are_checked_and_the_callback_is_called():
    """There may be several chunks, and connections may end during the round."""
    loop = asyncio.get_running_loop()
    keepalive = Keepalive(loop, 0.04, 1000, 1000)
    checked: list[int] = []
    checked_all = asyncio.Event()

    class CheckedConnection(Connection):
        def __init__(self, number: int) -> None:
            super().__init__(Delivery(loop), keepalive)
            self.number = number

        def check(self, now: float) -> bool:
            assert now == keepalive.now
            checked.append(self.number)
            keepalive.connections.pop(self, None)
            return False

    connections = [CheckedConnection(number) for number in range(2 * Keepalive.CHUNK + 1)]
    keepalive.connections.update(dict.fromkeys(connections))

    async def after_check() -> None:
        checked_all.set()

    checking = asyncio.create_task(keepalive.run(after_check))
    await wait_for(checked_all)
    checking.cancel()
    assert checked == list(range(2 * Keepalive.CHUNK + 1))


async def test_many_connections_that_end_at_the_same_time() -> None:
    """Few of them end in one iteration of the event loop, because each end takes as long as many checks."""
    async with serving(interval=0.2) as service:
        peers = [await service.connect() for _ in range(60)]
        ended_by_iteration: list[int] = []
        while not all(echo.ended.is_set() for _, echo in peers):
            await asyncio.sleep(0)
            ended_by_iteration.append(sum(echo.ended.is_set() for _, echo in peers))
    steps = [after - before for before, after in pairwise([0, *ended_by_iteration])]
    assert max(steps) <= Keepalive.CHUNK // Keepalive.END_COST
