"""Tests of ``join_room`` with ``last`` on Redis, with two nodes."""

from __future__ import annotations

import pytest
from brokers import Start, on_redis
from join_history import JoinWithLast
from redis_servers import RedisServer
from serving import Serve


class TestJoinWithLast(JoinWithLast):
    """On Redis."""

    @pytest.fixture
    def start(self, serve: Serve, redis_server: RedisServer, redis_prefix: str) -> Start:
        """Start a node."""
        return on_redis(serve, redis_server, redis_prefix)
