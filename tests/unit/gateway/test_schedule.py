"""Tests of ``gateway.schedule`` on the embedded broker: periodic functions run, fail, overrun and end."""

from __future__ import annotations

import asyncio
import threading

import pytest
from serving import Serve
from waiting import wait_until

from roomcast import Plugin, Service
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import BrokerUnavailable

BOTH = pytest.mark.parametrize("once_per_cluster", [False, True])


@pytest.fixture
async def plugin() -> Plugin:
    """Return a plugin without declarations."""
    return Plugin("polls")


@BOTH
async def test_it_runs_again_and_again(serve: Serve, plugin: Plugin, once_per_cluster: bool) -> None:
    """The function gets the service of its plugin, and never runs twice at once, although it takes longer."""
    running, runs, services = 0, [], set()

    @plugin.every(0.1, once_per_cluster=once_per_cluster)
    async def tick(service: Service) -> None:
        nonlocal running
        running += 1
        runs.append(running)
        services.add(service)
        await asyncio.sleep(0.25)
        running -= 1

    server = await serve(plugins=[plugin])
    times = server.gateway.plugin_times.functions["polls", "tick"]
    assert sum(times.counts) == 0  # the metrics have it from the start
    await wait_until(lambda: len(runs) >= 3 and sum(times.counts) >= 2)
    assert set(runs) == {1}
    assert services == {server.gateway.services["polls"]}
    assert times.counts[:4] == [0, 0, 0, 0] and times.seconds > 0.45
    assert times.errors == 0


@BOTH
async def test_a_failure_is_logged(
    serve: Serve, plugin: Plugin, once_per_cluster: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The next run follows, also if the function awaits something that was cancelled."""
    runs = 0

    @plugin.every(0.1, once_per_cluster=once_per_cluster)
    async def tick(service: Service) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise LookupError("no such poll")
        if runs == 2:
            raise asyncio.CancelledError

    server = await serve(plugins=[plugin])
    await wait_until(lambda: runs >= 3)
    assert caplog.text.count("Function 'tick' of plugin 'polls' failed; it runs again after its interval") == 2
    assert server.gateway.plugin_times.functions["polls", "tick"].errors == 2
    assert "LookupError: no such poll" in caplog.text


async def test_many_failures_have_few_lines(serve: Serve, plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    """The log has at most 10 lines a minute."""
    runs = 0

    @plugin.every(0.1)
    async def tick(service: Service) -> None:
        nonlocal runs
        runs += 1
        raise LookupError

    await serve(plugins=[plugin])
    await wait_until(lambda: runs >= 15)
    assert caplog.text.count("Function 'tick' of plugin 'polls' failed") == 10


async def test_a_plain_function_runs_in_a_thread(serve: Serve, plugin: Plugin) -> None:
    """It may block."""
    threads = []

    @plugin.every(0.1)
    def tick(service: Service) -> None:
        threads.append(threading.current_thread().name)

    await serve(plugins=[plugin])
    await wait_until(lambda: threads)
    assert threads[0].startswith("roomcast plugin thread")


@BOTH
async def test_a_run_is_cancelled_when_the_server_stops(serve: Serve, plugin: Plugin, once_per_cluster: bool) -> None:
    """It may clean up while the lifespans still run, and no run follows."""
    order = []
    has_begun = asyncio.Event()

    @plugin.lifespan
    async def lifespan(service):  # type: ignore[no-untyped-def]
        order.append("start")
        yield
        order.append("stop")

    @plugin.every(0.1, once_per_cluster=once_per_cluster)
    async def tick(service: Service) -> None:
        order.append("run")
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            order.append("cleaned up")

    server = await serve(plugins=[plugin])
    await has_begun.wait()
    await server.stop()
    assert order == ["start", "run", "cleaned up", "stop"]


class WeakBroker(MemoryBroker):
    """A broker that gives no turns at first."""

    failures = 0

    async def take_turn(self, name: str, holder: str, seconds: float) -> float:
        if self.failures < 3:
            self.failures += 1
            raise BrokerUnavailable("Redis at 192.0.2.1 does not answer.")
        return await super().take_turn(name, holder, seconds)


async def test_the_broker_cannot_be_reached(serve: Serve, plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    """The function does not run until the broker gives a turn, and the log has the reason once."""
    broker, seen = WeakBroker(), []

    @plugin.every(0.1, once_per_cluster=True)
    async def tick(service: Service) -> None:
        seen.append(broker.failures)

    await serve(plugins=[plugin], broker=broker)
    await wait_until(lambda: seen)
    assert seen[0] == 3
    sentence = "Function 'tick' of plugin 'polls' does not run now: Redis at 192.0.2.1 does not answer."
    assert caplog.text.count(sentence) == 1


async def test_a_turn_of_another_node(serve: Serve, plugin: Plugin) -> None:
    """While another node has the turn, the function does not run here."""
    broker, runs = MemoryBroker(), []

    @plugin.lifespan
    async def lifespan(service):  # type: ignore[no-untyped-def]
        assert await broker.take_turn("polls/tick", "another node", 1000) == 0
        yield

    @plugin.every(0.1, once_per_cluster=True)
    async def tick(service: Service) -> None:
        runs.append("tick")

    @plugin.every(0.1, once_per_cluster=True)
    async def tock(service: Service) -> None:
        runs.append("tock")

    await serve(plugins=[plugin], broker=broker)
    await wait_until(lambda: len(runs) >= 3)
    assert set(runs) == {"tock"}
