"""A server for the tests of the commands."""

from collections.abc import Iterator

import pytest
from shell import Running


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    """A server as in production, in a process of its own."""
    with Running() as running:
        yield running
