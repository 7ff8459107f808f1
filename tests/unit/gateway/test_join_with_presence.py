"""Tests of ``join_room`` with ``presence``, ``members`` and ``set_presence`` on the embedded broker."""

from __future__ import annotations

import pytest
from join_presence import JoinWithPresence, Start
from serving import Serve

from roomcast.web.server import Server


class TestJoinWithPresence(JoinWithPresence):
    """On the embedded broker."""

    @pytest.fixture
    def start(self, serve: Serve) -> Start:
        """Start a server, once: a further call returns the same one, because nothing else shares its broker."""
        started: list[Server] = []

        async def start(**settings: object) -> Server:
            if not started:
                started.append(await serve(**settings))
            return started[0]

        return start
