"""Tests of ``gateway.watchdog``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from marshmallow import Schema
from serving import Serve, connect
from waiting import wait_until

from roomcast import Context, Plugin
from roomcast.gateway import watchdog


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


async def test_code_that_no_plugin_declares_is_named_too(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A task of a plugin is described by the function that it runs."""
    await serve()

    async def block() -> None:
        until = time.monotonic() + 10
        while "blocked for" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)

    await asyncio.create_task(block())
    assert "it runs test_code_that_no_plugin_declares_is_named_too.<locals>.block, " in caplog.text
