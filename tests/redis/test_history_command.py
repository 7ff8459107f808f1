"""Tests of the command ``history`` on Redis."""

from __future__ import annotations

import pytest
from brokers import Start, on_redis
from history_replies import HistoryReplies
from redis_servers import RedisServer
from serving import Serve


class TestHistoryReplies(HistoryReplies):
    """On Redis."""

    @pytest.fixture
    def start(self, serve: Serve, redis_server: RedisServer, redis_prefix: str) -> Start:
        """Start a server."""
        return on_redis(serve, redis_server, redis_prefix)
