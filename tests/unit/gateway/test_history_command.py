"""Tests of the command ``history`` on the embedded broker."""

from __future__ import annotations

import pytest
from brokers import Start, on_memory
from history_replies import HistoryReplies
from serving import Serve


class TestHistoryReplies(HistoryReplies):
    """On the embedded broker."""

    @pytest.fixture
    def start(self, serve: Serve) -> Start:
        """Start a server."""
        return on_memory(serve)
