"""Fixtures for all tests: a running server, and the event loop that servers run on."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from access_server import access_server
from paths import TESTS
from postgres import postgres_server
from redis_fixtures import fresh_redis, redis_cluster, redis_prefix, redis_server, sentinel_trio
from serving import Serve, no_tasks_left, running
from webhook_receiver import webhook_receiver
from zoo_plugin import zoo_registry

from roomcast.web.ops import metrics
from roomcast.web.server import Server

try:
    from uvloop import new_event_loop as new_loop
except ImportError:
    from asyncio import new_event_loop as new_loop

__all__ = [
    "access_server",
    "fresh_redis",
    "postgres_server",
    "redis_cluster",
    "redis_prefix",
    "redis_server",
    "sentinel_trio",
    "webhook_receiver",
    "zoo_registry",
]

# Before its import; otherwise its asserts would fail without showing what they compared.
pytest.register_assert_rewrite("broker_contract", "outages")

#: A separate package: test_foreign_plugin.py installs it and runs its tests.
collect_ignore = ["foreign"]


#: The fixtures that start a Redis server.
REDIS_FIXTURES = {"fresh_redis", "redis_cluster", "redis_server", "sentinel_trio"}
#: The largest number of test processes. Each test that starts a cluster or a browser uses several more.
MAX_WORKERS = 4
#: The folders whose tests start processes: roomcast itself, nginx, Node.
SLOW_FOLDERS = (TESTS / "abuse", TESTS / "cli", TESTS / "e2e", TESTS / "relay")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as ``redis`` by their fixtures, and as ``slow`` by their folder."""
    for item in items:
        if REDIS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("redis")
        if any(item.path.is_relative_to(folder) for folder in SLOW_FOLDERS):
            item.add_marker("slow")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use several processes for the whole suite, which waits half of its time, and one if files are named."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, MAX_WORKERS) if count > 1 else 0


def pytest_collection_finish() -> None:
    """Exclude the objects of imports and collection from garbage collections: tests call ``gc.collect`` often.

    With all modules collected, a collection takes 10 ms instead of 100.
    """
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """Run tests on uvloop, as servers do, unless they name their loops (see ``loops.py``)."""
    return {"loop": new_loop}


@pytest.fixture(autouse=True)
def unchanged_import_path() -> Iterator[None]:
    """Undo changes of ``sys.path``: loading a plugin adds its folder, and later tests would import from there."""
    path = list(sys.path)
    yield
    sys.path[:] = path


@pytest.fixture
def fresh_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collect the metrics for each request. By default the requests of one second share them."""
    monkeypatch.setattr(metrics, "MAX_AGE", 0.0)


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers: ``await serve(**settings)``, also with ``dev=True`` or ``plugins=[...]``; see ``serving.running``.

    They stop when the test ends, and must not leave tasks behind.
    """
    async with no_tasks_left(), AsyncExitStack() as stack:

        async def start(**options: Any) -> Server:
            return await stack.enter_async_context(running(**options))

        yield start
