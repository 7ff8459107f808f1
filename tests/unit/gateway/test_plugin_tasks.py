"""Tests of ``gateway.plugin_tasks``: the tasks that plugins spawn."""

from __future__ import annotations

import asyncio

import pytest
from marshmallow import Schema
from serving import Serve, connect, no_tasks_left
from waiting import wait_until

from roomcast import Context, Plugin, Service, Unavailable


@pytest.fixture
async def plugin() -> Plugin:
    """Return a plugin without declarations."""
    return Plugin("polls")


async def test_the_result_of_a_task(serve: Serve, plugin: Plugin) -> None:
    """The caller may await the task, or cancel it."""
    service = (await serve(plugins=[plugin])).gateway.services["polls"]

    async def answer() -> int:
        return 42

    assert await service.spawn(answer()) == 42
    task = service.spawn(asyncio.Event().wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failure_is_logged(serve: Serve, plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the names of the task and the plugin; a cancelled task is no failure."""
    service = (await serve(plugins=[plugin])).gateway.services["polls"]

    async def import_polls() -> None:
        raise LookupError("no such poll")

    service.spawn(import_polls(), name="import")
    service.spawn(import_polls())
    service.spawn(asyncio.Event().wait()).cancel()
    await wait_until(lambda: caplog.text.count("LookupError: no such poll") >= 2)
    assert "task 'import' of plugin 'polls' failed" in caplog.text
    assert "import_polls' of plugin 'polls' failed" in caplog.text
    assert caplog.text.count("failed") == 2


async def test_a_task_outlives_its_request(serve: Serve, plugin: Plugin) -> None:
    """A task of a command goes on after the reply, and after its client has left."""
    gate, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        done.set()

    @plugin.command("poll.import", Schema, access="anyone")
    async def start(ctx: Context, data: dict[str, object]) -> None:
        ctx.spawn(work())

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send("poll.import", id=1)
        await alice.recv_type("reply")
    gate.set()
    await done.wait()


async def test_tasks_end_before_the_lifespans(serve: Serve, plugin: Plugin) -> None:
    """At shutdown tasks are cancelled and may clean up, and no task can be started any more."""
    order: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            order.append("task")

    @plugin.lifespan
    async def lifespan(service: Service):  # type: ignore[no-untyped-def]
        service.spawn(work())
        yield
        order.append("lifespan")
        with pytest.raises(Unavailable):
            service.spawn(work())

    async with no_tasks_left():
        server = await serve(plugins=[plugin])
        await server.stop()
    assert order == ["task", "lifespan"]


async def test_a_task_that_does_not_end(serve: Serve, plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    """The server stops without it, its name is in the log, and the lifespan still ends."""
    gate, ended = asyncio.Event(), []

    async def stubborn() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                ended.append("cancelled")

    @plugin.lifespan
    async def lifespan(service: Service):  # type: ignore[no-untyped-def]
        service.spawn(stubborn(), name="feed")
        yield
        ended.append("lifespan")

    server = await serve(plugins=[plugin], lifespan_timeout=0.2)
    await server.stop()
    gate.set()
    assert ended == ["cancelled", "lifespan"]
    assert "task 'feed' of plugin 'polls' does not end, although it was cancelled" in caplog.text


async def test_tasks_end_if_the_start_fails(serve: Serve, plugin: Plugin) -> None:
    """A lifespan that fails after another one has started a task leaves nothing behind."""

    @plugin.lifespan
    async def first(service: Service):  # type: ignore[no-untyped-def]
        service.spawn(asyncio.Event().wait())
        yield

    @plugin.lifespan
    async def second(service: Service):  # type: ignore[no-untyped-def]
        raise LookupError("no such table")
        yield

    async with no_tasks_left():
        with pytest.raises(Exception, match="no such table"):
            await serve(plugins=[plugin])
