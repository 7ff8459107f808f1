"""The test that joins and leaves take no place in the history, on Redis."""

from __future__ import annotations

import pytest
from brokers import Start, on_redis
from crowded_room import CrowdedRoom
from redis_servers import RedisServer
from serving import Serve


class TestCrowdedRoom(CrowdedRoom):
    """On Redis."""

    @pytest.fixture
    def start(self, serve: Serve, redis_server: RedisServer, redis_prefix: str) -> Start:
        """Start a server."""
        return on_redis(serve, redis_server, redis_prefix)
