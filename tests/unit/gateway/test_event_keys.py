"""Tests of ``key`` in events, on the embedded broker."""

from __future__ import annotations

import time

import pytest
from brokers import Start, on_memory
from event_keys import EventKeys
from serving import Serve

from roomcast.broker.memory import MemoryBroker
from roomcast.web.server import Server


class TestEventKeys(EventKeys):
    """On the embedded broker."""

    @pytest.fixture
    def start(self, serve: Serve) -> Start:
        """Start a server."""
        return on_memory(serve)

    async def lifetimes_of_keys(self, server: Server) -> list[float]:
        """Return those of the entries in memory."""
        broker = server.gateway.broker
        assert isinstance(broker, MemoryBroker)
        now = time.monotonic()
        entries = [*broker._keys._entries.values(), *broker._claims._entries.values()]
        return [expiry - now for expiry, _ in entries]
