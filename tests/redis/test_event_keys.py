"""Tests of ``key`` in events, on Redis."""

from __future__ import annotations

import pytest
from brokers import Start, on_redis
from event_keys import EventKeys
from redis_servers import RedisServer
from serving import SECRET, Serve

from roomcast.broker.redis.broker import RedisBroker
from roomcast.registry import Registry
from roomcast.settings import Settings
from roomcast.web.server import Server
from roomcast.workers.process import create_broker


class TestEventKeys(EventKeys):
    """On Redis."""

    @pytest.fixture
    def start(self, serve: Serve, redis_server: RedisServer, redis_prefix: str) -> Start:
        """Start a node."""
        self.redis, self.prefix = redis_server, redis_prefix
        return on_redis(serve, redis_server, redis_prefix)

    async def lifetimes_of_keys(self, server: Server) -> list[float]:
        """Return the TTLs in Redis."""
        async with self.redis.client() as client:
            patterns = (f"{{{self.prefix}:*}}:k:*", f"{{{self.prefix}:!claim:*}}")
            keys = [key for pattern in patterns for key in await client.keys(pattern)]
            return [await client.pttl(key) / 1000 for key in keys]


async def test_nodes_use_the_setting(redis_server: RedisServer):
    """The broker that a server creates has the lifetime of keys from ``IDEMPOTENCY_TTL``."""
    settings = Settings(redis_url=redis_server.url, idempotency_ttl=600.0, jwt_secret=SECRET)
    broker = create_broker(settings, Registry([]))
    assert isinstance(broker, RedisBroker)
    assert broker._options.key_ttl_ms == 600_000
