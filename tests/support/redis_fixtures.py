"""Fixtures that start Redis servers. ``conftest.py`` imports them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from redis_groups import Cluster, SentinelTrio
from redis_servers import FreshRedis, RedisServer, run


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Start one server for the whole run. Tests must not harm it, and use their own ``redis_prefix``."""
    server = RedisServer()
    try:
        run(server.start())
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def sentinel_trio() -> Iterator[SentinelTrio]:
    """Start a primary, a replica and three sentinels for a module. A test that kills a primary restarts it."""
    yield from _shared(SentinelTrio())


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[Cluster]:
    """Start a Cluster of six servers for a module. A test that kills a server restarts it."""
    yield from _shared(Cluster())


def _shared(group: SentinelTrio | Cluster) -> Iterator[Any]:
    try:
        run(group.__aenter__())
        yield group
    finally:
        group.close()


@pytest.fixture
def redis_prefix() -> str:
    """Return a prefix that no other test uses."""
    return f"test-{random.getrandbits(48):x}"


@pytest_asyncio.fixture
async def fresh_redis() -> AsyncIterator[FreshRedis]:
    """Start servers for one test: ``await fresh_redis(appendonly="yes")`` (see ``RedisServer``)."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> RedisServer:
            return await stack.enter_async_context(RedisServer(**options))

        yield start
