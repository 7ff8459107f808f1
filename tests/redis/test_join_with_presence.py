"""Tests of ``join_room`` with ``presence``, ``members`` and ``set_presence`` on Redis, with two nodes."""

from __future__ import annotations

from typing import Any

import pytest
from join_presence import JoinWithPresence, Start
from redis_servers import RedisServer
from serving import Serve

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server


class TestJoinWithPresence(JoinWithPresence):
    """On Redis."""

    @pytest.fixture
    def start(self, serve: Serve, redis_server: RedisServer, redis_prefix: str) -> Start:
        """Start a node of its own."""

        async def start(*, history_bytes: int = 2**21, **settings: Any) -> Server:
            options = RedisOptions(prefix=redis_prefix, history_bytes=history_bytes)
            return await serve(broker=RedisBroker(parse(redis_server.url), options), **settings)

        return start
