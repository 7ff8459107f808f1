"""Tests of ``gateway.lifespans``. ``tests/e2e/test_stubborn_plugins.py`` has lifespans that cannot be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from serving import Serve
from waiting import wait_until

from roomcast import Plugin, Service
from roomcast.errors import PluginError
from roomcast.gateway import lifespans


def plugins(*names: str) -> list[Plugin]:
    """Return plugins without declarations."""
    return [Plugin(name) for name in names]


async def test_both_halves_run_in_one_task(serve: Serve) -> None:
    """Libraries with cancel scopes need that."""
    (plugin,) = plugins("groups")
    tasks = []

    @plugin.lifespan
    async def lifespan(service: Service) -> AsyncIterator[None]:
        async with asyncio.TaskGroup():
            tasks.append(asyncio.current_task())
            yield
            tasks.append(asyncio.current_task())

    server = await serve(plugins=[plugin])
    await server.stop()
    assert len(tasks) == 2
    assert tasks[0] is tasks[1]
    assert tasks[0].get_name().startswith("lifespan 'lifespan' of plugin 'groups'")


async def test_lifespans_end_in_reverse_order(serve: Serve) -> None:
    """Also if one of them was slow, or failed as it ended."""
    first, second = plugins("first", "second")
    order: list[str] = []

    @first.lifespan
    async def one(service: Service) -> AsyncIterator[None]:
        order.append("start one")
        yield
        order.append("stop one")

    @second.lifespan
    async def two(service: Service) -> AsyncIterator[None]:
        order.append("start two")
        yield
        order.append("stop two")
        raise OSError("the disk is full")

    server = await serve(plugins=[first, second])
    await server.stop()
    assert order == ["start one", "start two", "stop two", "stop one"]


async def test_a_slow_start_fails(serve: Serve) -> None:
    """The lifespans that had started are stopped."""
    first, second = plugins("first", "second")
    order: list[str] = []

    @first.lifespan
    async def one(service: Service) -> AsyncIterator[None]:
        yield
        order.append("stop one")

    @second.lifespan
    async def two(service: Service) -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("cancelled two")
        yield

    with pytest.raises(PluginError, match=r"lifespan 'two' of plugin 'second' .* did not start within 0\.05 s"):
        await serve(plugins=[first, second], lifespan_timeout=0.05)
    assert order == ["cancelled two", "stop one"]


async def test_a_slow_stop_is_cancelled(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the plugin and the function."""
    (plugin,) = plugins("slow")
    ended: list[str] = []

    @plugin.lifespan
    async def linger(service: Service) -> AsyncIterator[None]:
        yield
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    server = await serve(plugins=[plugin], lifespan_timeout=0.05)
    await server.stop()
    assert ended == ["cancelled"]
    assert "lifespan 'linger' of plugin 'slow'" in caplog.text
    assert "did not stop in time (LIFESPAN_TIMEOUT is 0.05 s), and was cancelled" in caplog.text


async def test_the_stops_share_their_time(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise several plugins that hang would multiply it. A lifespan that ends at once needs no time."""
    plugin, ended = Plugin("slow"), []

    for number in range(20):

        @plugin.lifespan
        async def linger(service: Service, number: int = number) -> AsyncIterator[None]:
            yield
            if number:
                await asyncio.Event().wait()
            ended.append(number)

    server = await serve(plugins=[plugin], lifespan_timeout=0.5)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await server.stop()
    assert loop.time() - begun < 19 * 0.5
    assert ended == [0]
    assert caplog.text.count("did not stop in time") == 19


async def test_a_lifespan_that_takes_long_is_named(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has its name before the limit is reached, at the start and at the stop."""
    monkeypatch.setattr(lifespans, "_REPORT_AFTER", 0.02)
    plugin, gate = Plugin("slow"), asyncio.Event()

    @plugin.lifespan
    async def connect(service: Service) -> AsyncIterator[None]:
        await gate.wait()
        yield
        gate.clear()
        await gate.wait()

    starting = asyncio.create_task(serve(plugins=[plugin]))  # type: ignore[arg-type]
    await wait_until(lambda: "has not started after 0.02 s" in caplog.text)
    gate.set()
    server = await starting
    stopping = asyncio.create_task(server.stop())
    await wait_until(lambda: "has not stopped after 0.02 s" in caplog.text)
    gate.set()
    await stopping
    assert "lifespan 'connect' of plugin 'slow'" in caplog.text


async def test_a_lifespan_that_ends_while_the_server_runs_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Also without a failure: what it does for the plugin has ended."""
    plugin, tasks = Plugin("brief"), []

    @plugin.lifespan
    async def brief(service: Service) -> AsyncIterator[None]:
        tasks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.CancelledError):
            yield

    server = await serve(plugins=[plugin])
    tasks[0].cancel()
    await wait_until(lambda: "has ended while the server runs" in caplog.text)
    assert "lifespan 'brief' of plugin 'brief'" in caplog.text
    await server.stop()


async def test_a_lifespan_that_fails_while_the_server_runs_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed task of its group ends the lifespan. The server goes on."""
    (plugin,) = plugins("groups")
    gate = asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise OSError("the feed is gone")

    @plugin.lifespan
    async def feed(service: Service) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            yield

    server = await serve(plugins=[plugin])
    gate.set()
    await wait_until(lambda: "failed while the server runs" in caplog.text)
    assert "lifespan 'feed' of plugin 'groups'" in caplog.text
    assert "the feed is gone" in caplog.text
    await server.stop()
