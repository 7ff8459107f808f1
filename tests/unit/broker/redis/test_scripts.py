"""Running many calls in batches."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.broker.redis.scripts import BATCH, in_batches


async def test_batches_run_one_after_the_other() -> None:
    """All items are processed in order, at most BATCH at a time, and other tasks run between batches."""
    done: list[int] = []
    running = most = 0

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        done.append(item)
        running -= 1

    await in_batches(work, range(3 * BATCH + 1))
    assert (done, most) == (list(range(3 * BATCH + 1)), BATCH)
    await in_batches(work, ())
    assert len(done) == 3 * BATCH + 1


async def test_an_error_ends_in_batches() -> None:
    """An error is raised, and no further batch begins."""
    begun: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        await in_batches(work, range(3 * BATCH))
    assert len(begun) == BATCH
