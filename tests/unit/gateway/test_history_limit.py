"""Tests of ``gateway.history_limit``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from broker_contract import ROOM, RecordingListener
from serving import new_gateway

from roomcast.broker.base import PAGE_EVENT_OVERHEAD
from roomcast.broker.memory import MemoryBroker
from roomcast.gateway import history_limit
from roomcast.gateway.history_limit import LimitedHistory

SIZE = 1000


@pytest_asyncio.fixture
async def history(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LimitedHistory]:
    """Reads a room with three events. The burst is one event, and the rate 10 events a second."""
    monkeypatch.setattr(history_limit, "READ_BURST", SIZE)
    monkeypatch.setattr(history_limit, "READ_RATE", 10 * SIZE)
    broker = MemoryBroker()
    await broker.start(RecordingListener())
    for _ in range(3):
        await broker.publish(ROOM, bytes(SIZE - PAGE_EVENT_OVERHEAD))
    yield new_gateway(broker=broker).history
    await broker.close()


async def test_pages_beyond_the_burst_wait(history: LimitedHistory) -> None:
    """A page that exceeds the limit is read later, so the rate is kept; other users do not wait."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert len((await history.read(1, ROOM)).events) == 3
    waiting = asyncio.create_task(history.read(1, ROOM, limit=1))
    assert len((await history.read(2, ROOM)).events) == 3
    assert not waiting.done()
    assert len((await waiting).events) == 1
    assert loop.time() - begun >= 0.19


async def test_all_connections_of_a_user_share_the_limit(history: LimitedHistory) -> None:
    """Concurrent reads do not exceed the rate by more than one page each."""
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def read_twice() -> None:
        await history.read("alice", ROOM)
        await history.read("alice", ROOM)

    await asyncio.gather(read_twice(), read_twice())
    # The first three pages are 9 events; the last page waits until all but the burst of them are paid.
    assert loop.time() - begun >= 0.49


async def test_a_cancelled_wait(history: LimitedHistory) -> None:
    """It ends at once and charges nothing."""
    await history.read(1, ROOM)
    used_until = history._used_until[1]
    waiting = asyncio.create_task(history.read(1, ROOM))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert history._used_until == {1: used_until}


async def test_users_within_the_limit_leave_nothing(history: LimitedHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of a user is dropped when it is paid, and pages without events leave none."""
    monkeypatch.setattr(history_limit, "READ_RATE", 1e12)
    for user_id in range(100):
        await history.read(user_id, ROOM)
        await history.read(user_id, "channel:empty")
    await history.read("last", "channel:empty")
    assert len(history._used_until) <= 1
