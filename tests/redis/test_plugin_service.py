"""Tests of ``service`` on Redis, with two nodes."""

from __future__ import annotations

from typing import Any

import pytest
from plugin_service import Nodes, PluginService, Polls, StartNodes
from redis_groups import Cluster
from redis_servers import RedisServer
from serving import Serve

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server


class TestService(PluginService):
    """On one Redis server, and on a Cluster."""

    @pytest.fixture(params=["single server", "cluster"])
    def nodes(
        self,
        request: pytest.FixtureRequest,
        serve: Serve,
        redis_server: RedisServer,
        redis_cluster: Cluster,
        redis_prefix: str,
    ) -> StartNodes:
        """Start two servers."""
        url = redis_server.url if request.param == "single server" else redis_cluster.url

        async def node(**settings: Any) -> Server:
            broker = RedisBroker(parse(url), RedisOptions(prefix=redis_prefix))
            return await serve(plugins=[Polls().plugin], broker=broker, **settings)

        async def start(**settings: Any) -> Nodes:
            return Nodes(await node(**settings), await node(**settings))

        return start
