"""A function that runs once per cluster: on one node at a time, and on another one after kill -9."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from plugin_packages import install
from redis import Redis
from redis_servers import RedisServer
from shell import PATIENCE, Running

pytestmark = pytest.mark.slow

#: Each run appends its process to a list, and lasts until its process is killed, or only a moment.
SOURCE = """
import asyncio, os
from redis.asyncio import Redis

plugin = Plugin("ticker")

@plugin.every(float(os.environ["TICKER_INTERVAL"]), once_per_cluster=True)
async def tick(service):
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        await redis.rpush(os.environ["REDIS_PREFIX"] + ":!ticks", os.getpid())
    await asyncio.sleep(float(os.environ["TICKER_DURATION"]))
"""
INTERVAL = 2.0


class Nodes:
    """Two nodes on one Redis."""

    def __init__(self, redis: Redis, key: str, processes: list[Running]) -> None:
        self._redis, self._key = redis, key
        self.processes = processes

    def ticks(self) -> list[int]:
        """Return the processes of all runs so far."""
        return [int(one) for one in self._redis.lrange(self._key, 0, -1)]

    def wait_for(self, count: int) -> list[int]:
        """Wait until there were ``count`` runs."""
        end = time.monotonic() + PATIENCE
        while len(ticks := self.ticks()) < count:
            assert time.monotonic() < end, ticks
            time.sleep(0.02)
        return ticks


@contextmanager
def nodes(
    kind: str, folder: Path, redis_server: RedisServer, prefix: str, *, interval: float, duration: float
) -> Iterator[Nodes]:
    """Start two servers, or one with two workers."""
    install(folder, "ticker", SOURCE)
    given = {
        **{"PYTHONPATH": str(folder), "REDIS_URL": redis_server.url, "REDIS_PREFIX": prefix, "PLUGINS": "ticker"},
        **{"TICKER_INTERVAL": str(interval), "TICKER_DURATION": str(duration), "LIFESPAN_TIMEOUT": "1"},
    }
    with ExitStack() as stack, Redis.from_url(redis_server.url) as redis:
        if kind == "workers":
            started = [stack.enter_context(Running("serve", "--port", "0", "--workers", "2", **given))]
        else:
            started = [stack.enter_context(Running(**given)) for _ in range(2)]
        yield Nodes(redis, f"{prefix}:!ticks", started)


@pytest.mark.parametrize("kind", ["servers", "workers"])
def test_another_node_goes_on_after_kill_9(
    kind: str, tmp_path: Path, redis_server: RedisServer, redis_prefix: str
) -> None:
    """A run that takes longer than the interval is the only one, until its process is killed."""
    options = {"interval": INTERVAL, "duration": 1000}
    with nodes(kind, tmp_path, redis_server, redis_prefix, **options) as both:
        (first,) = both.wait_for(1)
        time.sleep(3 * INTERVAL)
        assert both.ticks() == [first]
        os.kill(first, signal.SIGKILL)
        _, second = both.wait_for(2)
        assert second != first
        time.sleep(INTERVAL)
        assert both.ticks() == [first, second]


def test_the_other_node_goes_on_after_a_stop(tmp_path: Path, redis_server: RedisServer, redis_prefix: str) -> None:
    """If the node of the last run stops, the next run is on the other one."""
    with nodes("servers", tmp_path, redis_server, redis_prefix, interval=INTERVAL, duration=0) as both:
        last = both.wait_for(1)[-1]
        (stopped,) = [one for one in both.processes if one.process.pid == last]
        stopped.signal(signal.SIGTERM)
        assert stopped.ended() == 0
        count = len(both.ticks())
        assert both.wait_for(count + 1)[-1] != last
