"""Many calls without holding up the loop."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.broker.redis.scripts import BATCH, in_batches


async def test_batches_run_one_after_the_other() -> None:
    """All is done, in order, at most BATCH at a time, and others run in between."""
    done: list[int] = []
    under_way = most = 0

    async def work(item: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        done.append(item)
        under_way -= 1

    await in_batches(work, range(3 * BATCH + 1))
    assert (done, most) == (list(range(3 * BATCH + 1)), BATCH)
    await in_batches(work, ())
    assert len(done) == 3 * BATCH + 1


async def test_a_failure_ends_it() -> None:
    """What a call raises is raised, and no further batch begins."""
    begun: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        await in_batches(work, range(3 * BATCH))
    assert len(begun) == BATCH
