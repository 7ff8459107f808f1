"""Fixtures of the tests of ``roomcast.gateway``."""

from __future__ import annotations

import pytest
from sample_commands import SampleCommands


@pytest.fixture
async def sample() -> SampleCommands:
    """Return a plugin that the test controls."""
    return SampleCommands()
