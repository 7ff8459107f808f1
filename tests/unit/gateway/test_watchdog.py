"""Tests of ``gateway.watchdog``."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import pytest
from marshmallow import Schema
from serving import Serve, connect
from waiting import wait_until

from roomcast import Context, Plugin
from roomcast.gateway import watchdog
from roomcast.registry import Registry


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a loop that does not answer for 0.1 s as blocked."""
    monkeypatch.setattr(watchdog, "PERIOD", 0.05)


def sleep_on(seconds: float) -> None:
    """Block, as a library that a handler calls."""
    time.sleep(seconds)


async def test_a_blocking_handler_is_named(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the plugin, the command, the function and its line, while it blocks; and the end, with its length."""
    plugin = Plugin("sleepy")

    @plugin.command("sleepy.sleep", Schema, access="anyone")
    async def sleep(ctx: Context, data: dict[str, Any]) -> None:
        until = time.monotonic() + 10
        while "blocked for" not in caplog.text and time.monotonic() < until:
            sleep_on(0.01)

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send(type="sleepy.sleep", id=1)
        assert (await alice.recv())["type"] == "reply"
    await wait_until(lambda: "runs again" in caplog.text)
    line = next(record.getMessage() for record in caplog.records if "has been blocked" in record.getMessage())
    assert "it runs the handler of command sleepy.sleep of plugin 'sleepy', now in sleep_on, " in line
    assert __file__ in line
    assert server.gateway.watchdog.longest_delay >= 0.1
    assert server.gateway.watchdog.stalls >= 1


async def test_code_that_no_plugin_declares_is_named_too(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A task of a plugin is described by the function that it runs."""
    await serve()

    async def block() -> None:
        until = time.monotonic() + 10
        while "blocked for" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)

    await asyncio.create_task(block())
    assert "it runs test_code_that_no_plugin_declares_is_named_too.<locals>.block, " in caplog.text


def blocked_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines that name what blocks the loop."""
    return [record.getMessage() for record in caplog.records if "has been blocked" in record.getMessage()]


async def test_code_of_python_is_named_with_its_caller(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The line has the plugin's code, and the function of the standard library that it called."""
    await serve()
    lock = threading.Condition()

    async def block() -> None:
        until = time.monotonic() + 10
        with lock:
            while not blocked_lines(caplog) and time.monotonic() < until:
                lock.wait(0.01)

    await asyncio.create_task(block())
    assert "<locals>.block, " in blocked_lines(caplog)[0]
    assert "which called Condition.wait, " in blocked_lines(caplog)[0]


async def test_the_code_that_runs_the_loop_is_not_blamed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A callback in C has no frame of its own. The frames below it are those of the program that started the loop."""
    await serve()
    asyncio.get_running_loop().call_soon(time.sleep, 0.5)
    await wait_until(lambda: blocked_lines(caplog))
    assert "it runs a function without Python code." in blocked_lines(caplog)[0]


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs the CPU clock of a thread")
async def test_a_function_that_keeps_pythons_lock_is_named(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The watchdog's thread cannot run meanwhile, and reports it as soon as it can."""
    await serve()

    async def sort() -> None:
        until = time.monotonic() + 10
        numbers = list(range(1_000_000))
        while not blocked_lines(caplog) and time.monotonic() < until:
            sum(itertools.chain.from_iterable([numbers] * 60))  # about a second in C

    await asyncio.create_task(sort())
    assert "<locals>.sort, " in blocked_lines(caplog)[0]


async def test_handlers_that_share_their_code_are_all_named(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Partial functions and objects with an async ``__call__`` share it."""
    plugin = Plugin("shared")

    class Handler:
        async def __call__(self, ctx: Context, data: dict[str, Any]) -> None:
            until = time.monotonic() + 10
            while not blocked_lines(caplog) and time.monotonic() < until:
                time.sleep(0.01)

    for name in ("one", "two"):
        plugin.command(f"shared.{name}", Schema, access="anyone")(Handler())
    async with connect(await serve(plugins=[plugin])) as alice:
        await alice.send(type="shared.one", id=1)
        await alice.recv()
    expected = " or ".join(f"handler of command shared.{name} of plugin 'shared'" for name in ("one", "two"))
    assert f"it runs the {expected}, now in " in blocked_lines(caplog)[0]


def test_a_suspended_machine_is_no_block() -> None:
    """A long wait counts as one period, unless the loop's thread used the CPU meanwhile."""
    loop = asyncio.new_event_loop()

    async def create() -> watchdog.Watchdog:
        return watchdog.Watchdog(Registry())

    try:
        dog = loop.run_until_complete(create())
    finally:
        loop.close()
    assert dog._periods(3600.0, 0.01) == 1
    assert dog._periods(watchdog.PERIOD, watchdog.PERIOD) == 1
    assert dog._periods(3.0, 2.9) == watchdog.PATIENCE
