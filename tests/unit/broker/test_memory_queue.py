"""The queue of the embedded broker: what the contract does not cover, because it needs a clock that tests advance."""

from __future__ import annotations

import pytest
from broker_contract import QUEUE_LIMITS, ManualClock

from roomcast.broker.memory_queue import MemoryQueue


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the queue."""
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> MemoryQueue:
    """An empty queue."""
    return MemoryQueue("q", QUEUE_LIMITS, clock, lambda: None)


async def test_ages(queue: MemoryQueue, clock: ManualClock) -> None:
    """An entry's age counts from when it was appended."""
    await queue.append([b"x"])
    await clock.pass_time(20)
    await queue.acquire(30)
    [entry] = await queue.read(10, 1000) or ()
    assert entry.age == (await queue.info()).oldest_age == 20


async def test_an_expired_lease(queue: MemoryQueue, clock: ManualClock) -> None:
    """A lease that was not extended ends; the next one reads from the beginning."""
    await queue.append([b"x"])
    await queue.acquire(30)
    entries = await queue.read(10, 1000)
    await clock.pass_time(20)
    await queue.acquire(30)
    assert await queue.read(10, 1000) == []
    await clock.pass_time(30)
    assert await queue.read(10, 1000) is None
    assert not await queue.write_states({"a": "1"})
    await queue.acquire(30)
    again = await queue.read(10, 1000)
    assert entries and again
    assert again[0].id == entries[0].id
