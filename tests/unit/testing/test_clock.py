"""Tests of the clock that stands still, on both event loops."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from marshmallow import Schema

from roomcast import Context, Plugin, Refused
from roomcast.testing import Clock, running

pytest_plugins = ("loops", "roomcast.testing")

LOOPS = ("uvloop", "asyncio")
ROOM = "channel:1"

slow = Plugin("slow")


class Nothing(Schema):
    """No data."""


@slow.command("slow.wait", Nothing, access="anyone")
async def wait(ctx: Context, data: dict[str, Any]) -> None:
    """Wait for an hour."""
    await asyncio.sleep(3600)


@pytest.fixture
def roomcast_plugins() -> list[Plugin]:
    """Return the plugin of this module."""
    return [slow]


@pytest.fixture
def roomcast_settings() -> dict[str, Any]:
    """Return the times that the tests use, which are longer than a test could wait."""
    return {"history_ttl": 3600, "presence_grace": 300, "handler_timeout": 60}


async def test_a_history_expires(connect, clock, gateway) -> None:
    """An event is stored until its TTL has passed, and not longer."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    await alice.command("send_message", {"content": "Hi"}, room=ROOM)
    await clock.advance(3599)
    assert len(await gateway.service.history(ROOM)) == 1
    await clock.advance(2)
    assert await gateway.service.history(ROOM) == []


async def test_a_grace_period_ends(connect, clock) -> None:
    """A lost user is announced after the grace period, and not before."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join(ROOM)
    await bob.lose()
    await clock.advance(299)
    await alice.nothing("user_left")
    await clock.advance(2)
    await alice.next("user_left")


async def test_a_throttle_ends(connect, clock) -> None:
    """The first event is sent at once, the newest later one after the throttle, and none between."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join(ROOM)
    for typing in (True, False, True, False):
        await alice.command("typing", {"typing": typing}, room=ROOM)
    assert (await bob.next("typing"))["data"]["typing"] is True
    await clock.advance(0.9)
    await bob.nothing("typing")
    await clock.advance(0.2)
    assert (await bob.next("typing"))["data"]["typing"] is False
    await clock.advance(60)
    await bob.nothing("typing")


async def test_a_handler_times_out(connect, clock) -> None:
    """A command that waits is cancelled after the timeout of handlers."""
    alice = await connect("alice")
    waiting = asyncio.ensure_future(alice.command("slow.wait"))
    await alice.nothing()
    await clock.advance(59)
    assert not waiting.done()
    await clock.advance(2)
    with pytest.raises(Refused) as refused:
        await waiting
    assert refused.value.code == "timeout"


async def test_connections_survive_a_long_time(connect, clock) -> None:
    """Clients answer each ping of the server, although hours pass at once."""
    users = [await connect(f"user{number}", rooms=["*"]) for number in range(20)]
    for user in users:
        await user.join(ROOM)
    await clock.advance(2 * 3600)
    await users[0].command("send_message", {"content": "Hi"}, room=ROOM)
    for user in users:
        await user.next("message")


async def test_everything_happens_in_order_and_at_its_time(gateway, clock) -> None:
    """Each timer sees the time for which it was set, and may set further ones."""
    loop, begun = asyncio.get_running_loop(), clock.time()
    seen = []

    async def tick() -> None:
        for _ in range(5):
            await asyncio.sleep(10)
            seen.append(("tick", loop.time() - begun))

    task = asyncio.ensure_future(tick())
    loop.call_later(25, lambda: seen.append(("timer", loop.time() - begun)))
    cancelled = loop.call_at(begun + 26, seen.append, "cancelled")
    await clock.advance(0)
    cancelled.cancel()
    assert (cancelled.cancelled(), cancelled.when()) == (True, begun + 26)
    await clock.advance(35)
    assert [(name, round(at, 6)) for name, at in seen] == [("tick", 10), ("tick", 20), ("timer", 25), ("tick", 30)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await clock.advance(10)
            await asyncio.Event().wait()
    task.cancel()


async def test_the_time_stands_still(gateway, clock) -> None:
    """Neither work nor real time moves the clock."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.to_thread(time.sleep, 0.02)
    assert loop.time() == clock.time() == before
    await clock.advance(1.5)
    assert loop.time() == clock.time() == before + 1.5


async def test_next_waits_in_real_time(connect, clock) -> None:
    """A failed test does not hang: ``next`` and ``closed`` give up after real time, and a success leaves no timer."""
    alice = await connect("alice", rooms=["*"])
    with pytest.raises(AssertionError, match=r"no message arrived within 0\.05 s"):
        await alice.next("message", timeout=0.05)
    with pytest.raises(AssertionError, match="was not closed"):
        await alice.closed(timeout=0.05)
    await alice.nothing()


async def test_a_server_stops_while_time_stands_still(clock) -> None:
    """When the server stops, the time goes on, also for what waits, and the clock cannot be advanced any more."""
    async with running(clock=clock, drain_seconds=0.2) as gateway:
        alice = await gateway.connect("alice")
        waiting = asyncio.ensure_future(asyncio.sleep(10.05))
        await clock.advance(10)
        assert not waiting.done()
        at = clock.time()
    await waiting
    assert clock.time() >= at + 0.05
    assert await alice.closed() is not None
    with pytest.raises(RuntimeError, match="no server that runs here has this clock"):
        await clock.advance(1)
    await asyncio.sleep(0.01)


async def test_wrong_uses(gateway, clock) -> None:
    """A clock does not go back, and belongs to one event loop, which has one clock."""
    with pytest.raises(ValueError, match="not set back by 1 s"):
        await clock.advance(-1)
    with pytest.raises(RuntimeError, match="no server that runs here has this clock"):
        await Clock().advance(1)
    with pytest.raises(RuntimeError, match="has a clock already"):
        async with running(clock=Clock()):
            raise AssertionError("it started")


async def test_a_task_that_never_waits_does_not_stop_the_clock(gateway, clock) -> None:
    """``advance`` returns although another task is always busy."""

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = asyncio.ensure_future(spin())
    await clock.advance(1)
    task.cancel()
