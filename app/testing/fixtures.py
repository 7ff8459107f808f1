"""The pytest fixtures and the marker for plugin authors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
import pytest_asyncio

from ..errors import PluginError, SettingsError
from ..plugin import Plugin
from .client import Connect
from .clock import Clock
from .live_gateway import BROKERS, BrokerName, LiveGateway, running
from .redis_program import redis_server

#: The marker of tests that run on all brokers.
ALL_BROKERS: Final = "all_brokers"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{ALL_BROKERS}: run the test on each of roomcast.testing.BROKERS")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run marked tests once for each broker."""
    if metafunc.definition.get_closest_marker(ALL_BROKERS) and "roomcast_broker" in metafunc.fixturenames:
        metafunc.parametrize("roomcast_broker", BROKERS)


@pytest.fixture
def roomcast_plugins() -> Iterable[Plugin]:
    """Return plugins to load besides the installed ones. Override this fixture."""
    return ()


@pytest.fixture
def roomcast_settings() -> Mapping[str, Any]:
    """Return fields of ``Settings`` with their values. Override this fixture."""
    return {}


@pytest.fixture
def roomcast_broker() -> BrokerName:
    """Return what the gateway runs on. Override this fixture, or use the marker ``all_brokers``."""
    return "embedded"


@pytest.fixture(scope="session")
def roomcast_redis() -> Iterator[str]:
    """Start one Redis server for all tests, and return its URL. Tests are skipped if none is installed."""
    with redis_server() as url:
        yield url


@pytest.fixture
def clock(roomcast_broker: BrokerName) -> Clock:
    """Return the clock of the gateway, which stands still. Tests on Redis are skipped."""
    if roomcast_broker != "embedded":
        pytest.skip("the time of a Redis server cannot be controlled; this test runs on the embedded broker")
    return Clock()


@pytest_asyncio.fixture
async def gateway(
    request: pytest.FixtureRequest,
    roomcast_plugins: Iterable[Plugin],
    roomcast_settings: Mapping[str, Any],
    roomcast_broker: BrokerName,
) -> AsyncIterator[LiveGateway]:
    """Run a gateway for one test; see ``LiveGateway``."""
    clock = request.getfixturevalue("clock") if "clock" in request.fixturenames else None
    settings = dict(roomcast_settings)
    if roomcast_broker != "embedded":
        settings.setdefault("redis_url", request.getfixturevalue("roomcast_redis"))
    async with AsyncExitStack() as stack:
        started = running(roomcast_plugins, broker=roomcast_broker, clock=clock, **settings)
        try:
            live = await stack.enter_async_context(started)
        except (PluginError, SettingsError) as error:  # the sentence is enough, and the traceback has 50 lines
            pytest.fail(f"the server did not start: {error}", pytrace=False)
        yield live


@pytest.fixture
def connect(gateway: LiveGateway) -> Connect:
    """Return the function that connects users: ``alice = await connect("alice", rooms=["environment:*"])``."""
    return gateway.connect
