"""An outbox of its own for each test."""

from __future__ import annotations

import pytest
from outbox import Outbox
from postgres import PostgresServer


@pytest.fixture
def outbox(postgres_server: PostgresServer) -> Outbox:
    """Return an empty outbox in a new database."""
    return Outbox(postgres_server.create_database())
