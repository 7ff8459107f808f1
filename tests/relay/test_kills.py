"""The relay and Redis are killed while the outbox is published: nothing is lost, duplicated or out of order.

``OUTBOX_ROWS=100000 OUTBOX_KILLS=5 pytest -s tests/relay/test_kills.py`` is the long version, which prints its figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator

import pytest_asyncio
from outbox import KEEP_ALL, Outbox, Relay
from redis_servers import RedisServer
from shell import Running

ROWS = int(os.environ.get("OUTBOX_ROWS", "3000"))
#: How often the relay and Redis are killed each.
KILLS = int(os.environ.get("OUTBOX_KILLS", "2"))
ROOMS = 50
PATIENCE = 60 + ROWS / 200


@pytest_asyncio.fixture
async def redis() -> AsyncIterator[RedisServer]:
    """Start a Redis that loses nothing."""
    async with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server


async def check(redis: RedisServer) -> None:
    """Compare the streams of the rooms with the rows: all of them, once, in the order of each room."""
    lost = duplicated = unordered = 0
    async with redis.client() as client:
        for room in range(ROOMS):
            entries = await client.xrange(f"{{roomcast:project:{room}}}:s")
            found = [json.loads(fields["p"])["data"]["task_id"] for _, fields in entries]
            lost += len(set(range(room, ROWS, ROOMS)) - set(found))
            duplicated += len(found) - len(set(found))
            unordered += found != sorted(found)
    print(f"{ROWS} rows: {lost} lost, {duplicated} duplicated, {unordered} of {ROOMS} rooms out of order")
    assert (lost, duplicated, unordered) == (0, 0, 0)


async def test_kills_of_the_relay_and_of_redis(outbox: Outbox, redis: RedisServer) -> None:
    """With SIGKILL for each of them, between parts of the work, all rows arrive once and in order."""
    with Running(REDIS_URL=redis.url, **KEEP_ALL) as server:
        relay = Relay(server.url, "--postgres", outbox.dsn)
        standby = Relay(server.url, "--postgres", outbox.dsn)
        try:
            began = time.monotonic()
            writing = asyncio.create_task(asyncio.to_thread(write, outbox))
            for number in range(2 * KILLS):
                part = ROWS * (number + 1) // (2 * KILLS + 1)
                await has_published(redis, part)
                if number % 2:
                    redis.kill()
                    await redis.start()
                    log(began, f"Redis killed after {part} rows")
                else:
                    log(began, f"relay killed after {part} rows")
                    relay.kill()
                    relay, standby = standby, Relay(server.url, "--postgres", outbox.dsn)
            await writing
            await outbox.is_empty(patience=PATIENCE)
            log(began, f"all {ROWS} rows are published, with {KILLS} kills of the relay and of Redis")
            await check(redis)
            assert (await relay.metrics())["roomcast_relay_possible_duplicates_total"] == 0
            assert relay.stop() == 0
        finally:
            for each in (relay, standby):
                each.stop()


def log(began: float, what: str) -> None:
    """Print what happened, and when."""
    print(f"{time.monotonic() - began:6.1f} s: {what}")


def write(outbox: Outbox) -> None:
    """Write all rows, in transactions of 100."""
    with outbox.connect() as connection:
        for first in range(0, ROWS, 100):
            connection.execute(
                "INSERT INTO roomcast_outbox (type, room, data) SELECT 'task.deleted', 'project:' || n %% %s, "
                "jsonb_build_object('task_id', n) FROM generate_series(%s::int, %s::int) AS n",
                (ROOMS, first, min(first + 99, ROWS - 1)),
            )
            connection.commit()


async def has_published(redis: RedisServer, rows: int) -> None:
    """Wait until about this number of events is in the streams."""
    deadline = time.monotonic() + PATIENCE
    while True:
        async with redis.client() as client:
            counts = [await client.xlen(f"{{roomcast:project:{room}}}:s") for room in range(0, ROOMS, 10)]
        if sum(counts) * ROOMS / len(counts) >= rows:
            return
        assert time.monotonic() < deadline, counts
        await asyncio.sleep(0.02)
