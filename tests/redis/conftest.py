"""Fixtures of the tests that need Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from broker_contract import ROOM, Harness
from redis_nodes import StartNode, age_state, broker_for
from redis_servers import RedisServer

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse


@pytest.fixture
async def node(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[StartNode]:
    """``await node()`` starts another node on the shared server."""

    async def pass_time(seconds: float) -> None:
        await age_state(redis_server, redis_prefix, seconds)

    async with AsyncExitStack() as stack:

        async def start(**options: float) -> Harness:
            harness = Harness(broker_for(redis_server.url, redis_prefix, **options), pass_time)
            await harness.broker.start(harness.listener)
            stack.push_async_callback(harness.broker.close)
            return harness

        yield start


@pytest.fixture
async def subscribed(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Harness]:
    """A broker on the shared server, subscribed to ``ROOM``."""
    subscribed = Harness(RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix)), asyncio.sleep)
    await subscribed.broker.start(subscribed.listener)
    await subscribed.broker.subscribe([ROOM])
    yield subscribed
    await subscribed.broker.close()


@pytest.fixture
async def start_node(redis_prefix: str) -> AsyncIterator[StartNode]:
    """``await start_node(url)`` starts a node on any server. It waits for it for longer than a failover takes."""
    async with AsyncExitStack() as stack:

        async def start(url: str, **options: float) -> Harness:
            harness = Harness(broker_for(url, redis_prefix, **{"timeout": 1.0, "wait": 20.0, **options}), asyncio.sleep)
            await harness.broker.start(harness.listener)
            stack.push_async_callback(harness.broker.close)
            return harness

        yield start
