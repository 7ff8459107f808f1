"""The test that joins and leaves take no place in the history, on the embedded broker."""

from __future__ import annotations

import pytest
from brokers import Start, on_memory
from crowded_room import CrowdedRoom
from serving import Serve


class TestCrowdedRoom(CrowdedRoom):
    """On the embedded broker."""

    @pytest.fixture
    def start(self, serve: Serve) -> Start:
        """Start a server."""
        return on_memory(serve)
