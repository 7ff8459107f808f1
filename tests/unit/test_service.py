"""Tests of ``service`` on the embedded broker."""

from __future__ import annotations

from typing import Any

import pytest
from plugin_service import Nodes, PluginService, Polls, StartNodes
from serving import Serve


class TestService(PluginService):
    """On the embedded broker, where both nodes are the same."""

    @pytest.fixture
    def nodes(self, serve: Serve) -> StartNodes:
        """Start one server."""

        async def start(**settings: Any) -> Nodes:
            server = await serve(plugins=[Polls().plugin], **settings)
            return Nodes(server, server)

        return start
