"""Tests of ``gateway.listener``."""

from __future__ import annotations

import asyncio

import pytest
from serving import Serve, connect

from roomcast.gateway import listener
from roomcast.gateway.listener import WAIT_FOR_FEW, WAIT_FOR_MOST
from roomcast.transport.connection import Connection
from roomcast.web.server import Server

ROOM = "channel:1"


async def test_a_resync_of_the_personal_room_has_no_room(serve: Serve) -> None:
    """Otherwise clients would try to join the room, which is not possible."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        for room in ("user:1", ROOM):
            server.gateway.listener.on_resync(room, "gone-7")
            frame = await alice.recv_type("resync")
            assert (frame.get("room"), frame["data"]["last_id"]) == (room if room == ROOM else None, "gone-7")


class ManualTime:
    """The time of a loop in which each sleep takes at least 1 ms, and its ``asyncio`` module."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps = 0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += max(seconds, 0.001)
        await asyncio.sleep(0)


@pytest.fixture
async def crowd(serve: Serve) -> tuple[Server, list[Connection]]:
    """Return a server with ten connections in a room. No connection has a socket."""
    server = await serve()
    gateway = server.gateway
    connections = [Connection(gateway.delivery, gateway.keepalive) for _ in range(10)]
    for connection in connections:
        gateway.delivery.join(ROOM, connection)
    return server, connections


@pytest.mark.parametrize(
    ("behind", "limit"), [(0, 0.0), (1, WAIT_FOR_FEW), (5, WAIT_FOR_FEW), (6, WAIT_FOR_MOST), (10, WAIT_FOR_MOST)]
)
async def test_a_publisher_waits_for_members(crowd, monkeypatch, behind: int, limit: float) -> None:
    """It waits longer for most members than for a few, and the time for both is limited."""
    server, connections = crowd
    time = ManualTime()
    monkeypatch.setattr(listener, "asyncio", time)
    monkeypatch.setattr(server.gateway.listener, "_loop", time)
    for connection in connections[:behind]:
        connection.paused = True
    await server.gateway.listener.wait_for_members(ROOM)
    assert time.sleeps >= 1
    assert limit <= time.now <= limit + 0.003


async def test_a_publisher_continues_when_the_members_have_received_the_events(crowd, monkeypatch) -> None:
    """It does not wait longer than necessary."""
    server, connections = crowd
    time = ManualTime()
    monkeypatch.setattr(listener, "asyncio", time)
    monkeypatch.setattr(server.gateway.listener, "_loop", time)
    for connection in connections:
        connection.paused = True
    waiting = asyncio.create_task(server.gateway.listener.wait_for_members(ROOM))
    while time.sleeps < 10:
        await asyncio.sleep(0)
    assert not waiting.done()
    for connection in connections:
        connection.paused = False
    await waiting
    assert time.now < WAIT_FOR_MOST / 2


async def test_a_publisher_waits_for_connections_of_a_user(serve: Serve) -> None:
    """The members of a personal room count too. A room without members takes no time."""
    server = await serve()
    gateway = server.gateway
    connection = Connection(gateway.delivery, gateway.keepalive)
    connection.paused = True
    assert gateway.delivery.share_behind("user:7") == 0.0
    gateway.delivery.join_personal("user:7", connection)
    assert gateway.delivery.share_behind("user:7") == 1.0
    gateway.delivery.leave_personal("user:7", connection)
    assert gateway.delivery.share_behind(ROOM) == 0.0
