"""Tests of unread messages on Redis, with two nodes."""

from __future__ import annotations

import pytest
from brokers import Start, on_redis
from redis_servers import RedisServer
from serving import Serve
from unread_messages import UnreadMessages


class TestUnreadMessages(UnreadMessages):
    """On Redis."""

    @pytest.fixture
    def start(self, serve: Serve, redis_server: RedisServer, redis_prefix: str) -> Start:
        """Start a node."""
        return on_redis(serve, redis_server, redis_prefix)
