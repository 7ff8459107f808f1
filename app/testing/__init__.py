"""Pytest fixtures for plugin authors: a real gateway with their plugin, and clients that connect to it.

Install ``roomcast[testing]``, which adds pytest and pytest-asyncio, and name this module in ``conftest.py`` or in a
test module::

    pytest_plugins = ["roomcast.testing"]

A test connects users, sends commands and waits for events::

    async def test_everyone_sees_a_rollback(connect):
        alice = await connect("alice", rooms=["environment:*"])
        await alice.join("environment:prod")
        assert await alice.command("deploy.rollback", {"version": "1"}, room="environment:prod") == {"version": "1"}
        await alice.next("deploy.finished", data={"version": "1"})
        await alice.nothing("deploy.finished")

This works with ``asyncio_mode = auto``. In strict mode, mark the test with ``@pytest.mark.asyncio``.

All installed plugins are loaded. Override the fixture ``roomcast_plugins`` to add plugins that are not installed, and
``roomcast_settings`` to change settings: ``{"handler_timeout": 0.2}``. The server listens on a free port of 127.0.0.1.
It stops when the test ends, and all clients are closed.

The marker ``all_brokers`` runs a test on the embedded broker, on Redis and on two nodes. The fixture ``clock`` lets the
time stand still until the test advances it. ``docs/testing.md`` is the guide.

This package may import everything else; only ``roomcast[testing]`` has its dependencies, so that no other part imports
it.

PYTEST_DONT_REWRITE: the assertions here have their own messages, and tests may import this module at any time.
"""

from .client import Client, Connect, Disconnected
from .clock import Clock
from .context import (
    RecordedContext,
    RecordedMemberContext,
    RecordedService,
    make_context,
    make_member_context,
    make_service,
)
from .fixtures import (
    clock,
    connect,
    gateway,
    pytest_configure,
    pytest_generate_tests,
    roomcast_broker,
    roomcast_plugins,
    roomcast_redis,
    roomcast_settings,
)
from .live_gateway import BROKERS, BrokerName, LiveGateway, LiveNode, running
from .redis_program import redis_server
from .synchronous import SyncClient, SyncServer, server
from .timeouts import EVENT_TIMEOUT, REPLY_TIMEOUT

__all__ = [
    "BROKERS",
    "EVENT_TIMEOUT",
    "REPLY_TIMEOUT",
    "BrokerName",
    "Client",
    "Clock",
    "Connect",
    "Disconnected",
    "LiveGateway",
    "LiveNode",
    "RecordedContext",
    "RecordedMemberContext",
    "RecordedService",
    "SyncClient",
    "SyncServer",
    "clock",
    "connect",
    "gateway",
    "make_context",
    "make_member_context",
    "make_service",
    "pytest_configure",
    "pytest_generate_tests",
    "redis_server",
    "roomcast_broker",
    "roomcast_plugins",
    "roomcast_redis",
    "roomcast_settings",
    "running",
    "server",
]
