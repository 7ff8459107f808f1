"""Tests of ``gateway.commands``: commands run in order, with a limit of time and a bounded queue."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cancellation import suppress_cancellation
from sample_commands import Anything, SampleCommands
from serving import Serve, User, connect
from waiting import wait_until

from roomcast import Context, Plugin
from roomcast.gateway import commands
from roomcast.gateway.commands import MAX_QUEUED

ROOM = "channel:1"


async def test_an_unknown_command(serve: Serve) -> None:
    """The error lists the commands that exist."""
    async with connect(await serve()) as alice:
        await alice.send("sned_message", ROOM, {"content": "x"})
        error = (await alice.recv())["data"]
        assert error["code"] == "unknown_type"
        for known in ("'sned_message'", "send_message", "join_room", "edit_message", "ping"):
            assert known in error["error"]


async def test_a_handler_that_raises(serve: Serve, sample: SampleCommands, caplog) -> None:
    """The caller gets ``internal`` without the reason, the log has the traceback, and the connection stays open."""
    async with connect(await serve(plugins=[sample.plugin])) as alice:
        await alice.send("boom", id=1)
        error = await alice.recv()
        assert (error["id"], error["data"]["code"]) == (1, "internal")
        assert "secret" not in json.dumps(error)
        assert "ZeroDivisionError: the secret of the plugin" in caplog.text
        assert "user 1" in caplog.text
        await alice.send("quick", data={"n": 1}, id=2)
        assert (await alice.recv())["data"] == {"n": 1}


async def test_a_handler_that_hangs(serve: Serve, sample: SampleCommands) -> None:
    """After HANDLER_TIMEOUT its caller gets ``timeout``, and the next command runs."""
    server = await serve(plugins=[sample.plugin], handler_timeout=0.05, ws_heartbeat_interval=0.2)
    async with connect(server) as alice:
        await alice.send("slow", id=1)
        await alice.send("quick", id=2, data={"n": 2})
        error = await alice.recv()
        assert (error["id"], error["data"]["code"]) == (1, "timeout")
        assert (await alice.recv())["id"] == 2


@pytest.fixture
async def stubborn(monkeypatch) -> Plugin:
    """Return a plugin whose command suppresses its cancellation until it is abandoned, and then fails."""
    monkeypatch.setattr(commands, "_CANCEL_TIMEOUT", 0.5)
    plugin = Plugin("stubborn")

    @plugin.command("stubborn", Anything, access="anyone")
    async def stubborn(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        await suppress_cancellation(data["n"])
        raise OSError("the disk is full")

    return plugin


async def test_a_handler_that_suppresses_its_cancellation(serve: Serve, stubborn: Plugin, caplog) -> None:
    """Its client gets ``timeout`` before the handler is abandoned, goes on then, and a late failure is logged."""
    server = await serve(plugins=[stubborn], handler_timeout=0.05, ws_heartbeat_interval=0.4)
    async with connect(server) as alice:
        await alice.send("stubborn", ROOM, {"n": 2}, id=1)
        await alice.send("ping", id=2)
        error = await alice.recv()
        assert (error["id"], error["data"]["code"]) == (1, "timeout")
        assert "goes on without it" not in caplog.text
        assert (await alice.recv())["id"] == 2
        assert "command stubborn of plugin 'stubborn' in channel:1 by user 1 does not end" in caplog.text
        await wait_until(lambda: "failed after it was cancelled" in caplog.text)
        assert "the disk is full" in caplog.text
        assert await alice.settled() == []


async def test_a_handler_that_ends_after_its_client_got_timeout(serve: Serve, stubborn: Plugin, caplog) -> None:
    """It is not abandoned, and sends nothing more; its failure is logged."""
    server = await serve(plugins=[stubborn], handler_timeout=0.05, ws_heartbeat_interval=0.4)
    async with connect(server) as alice:
        await alice.send("stubborn", None, {"n": 0.4}, id=1)
        assert (await alice.recv())["data"]["code"] == "timeout"
        await wait_until(lambda: "failed after it was cancelled" in caplog.text)
        assert "goes on without it" not in caplog.text
        assert await alice.settled() == []


async def test_an_overdue_command_that_has_just_suspended(serve: Serve, monkeypatch) -> None:
    """It is cancelled at its ``await`` and cleans up, even if its deadline passed in the iteration that started it."""
    plugin = Plugin("late")
    ends: list[str] = []

    @plugin.command("late", Anything, access="anyone")
    async def late(ctx: Context, data: dict[str, Any]) -> None:
        # Before the loop resumes this command:
        asyncio.get_running_loop().call_soon(cancel_overdue)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    def cancel_overdue() -> None:
        with pytest.raises(StopIteration):
            server.gateway.commands.cancel_overdue().send(None)

    server = await serve(plugins=[plugin])
    monkeypatch.setattr(server.gateway.commands, "_timeout", -1.0)
    async with connect(server) as alice:
        await alice.send("late", id=1)
        assert (await alice.recv())["data"]["code"] == "timeout"
    assert ends == ["cancelled"]


@pytest.mark.parametrize("wait_first", [False, True])
async def test_a_handler_that_awaits_a_cancelled_future(serve: Serve, wait_first: bool) -> None:
    """The caller gets ``internal``, not ``timeout``, and the connection stays open."""
    plugin = Plugin("gone")

    @plugin.command("gone", Anything, access="anyone")
    async def gone(ctx: Context, data: dict[str, Any]) -> None:
        if wait_first:
            await asyncio.sleep(0)
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send(type="gone", id=1)
        assert (await alice.recv_type("error"))["data"]["code"] == "internal"
        await alice.send(type="ping", id=2)
        assert (await alice.recv_type("pong"))["id"] == 2


async def test_commands_of_a_connection_run_in_order(serve: Serve, sample: SampleCommands) -> None:
    """All commands wait for a command that waits; those of other connections do not."""
    server = await serve(plugins=[sample.plugin])
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.send("quick", id=0, data={"n": 0})
        await alice.send("slow", id=1, data={"n": 1})
        await alice.send("quick", id=2, data={"n": 2})
        await alice.send("slow", id=3, data={"n": 3})
        await alice.send("ping", id=4)
        await alice.send("join_room", ROOM, id=5)
        await alice.send("send_message", ROOM, {"content": "x"}, id=6)
        await bob.send("quick", id=7, data={"n": 7})
        assert (await bob.recv())["id"] == 7
        assert (await alice.recv())["id"] == 0
        await wait_until(lambda: sample.started[-1] == 7)
        assert sample.started == [0, 1, 7]
        sample.gate.set()
        replies = [frame["id"] for frame in await alice.settled() if frame["type"] not in ("user_joined", "message")]
        assert replies == [1, 2, 3, 4, 5, 6]
        assert sample.started == [0, 1, 7, 2, 3]


@pytest.mark.parametrize("pipelined", [False, True])
async def test_a_ping_without_an_id_is_answered_at_once(serve: Serve, pipelined: bool) -> None:
    """It overtakes the commands that run or wait. Other commands, also a ping with an id, stay in order."""
    plugin, gate = Plugin("waiting"), asyncio.Event()

    @plugin.command("wait", Anything, access="anyone", pipelined=pipelined)
    async def wait(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        await gate.wait()
        return {}

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send("wait", id=1)
        await alice.send("ping")
        assert "id" not in await alice.recv_type("pong")
        await alice.send("ping", id=2)
        await alice.send("wait", id=3)
        await alice.send("ping")
        assert "id" not in await alice.recv_type("pong")
        await alice.send("ping", data={"n": 1})
        gate.set()
        answers = [await alice.recv() for _ in range(4)]
        assert [frame.get("id") for frame in answers] == [1, 2, 3, None]
        assert answers[-1]["data"]["code"] == "invalid_data"


async def test_the_queue_of_commands_is_limited(serve: Serve, sample: SampleCommands) -> None:
    """With MAX_QUEUED queued commands the socket is not read; later all commands are carried out."""
    server = await serve(plugins=[sample.plugin], ws_message_rate=0)
    count = 10_000
    async with connect(server) as alice:
        await alice.send("slow", data={"n": -1})
        sending = asyncio.create_task(send_many(alice, count))
        client = next(iter(server.gateway.keepalive.connections))
        await wait_until(lambda: client._transport and not client._is_reading())
        received = server.gateway.counters.messages_received
        assert MAX_QUEUED <= received < count
        sample.gate.set()
        await sending
        for n in range(count):
            assert (await alice.recv())["id"] == n
        assert sample.started == [-1, *range(count)]


async def send_many(user: User, count: int) -> None:
    """Send numbered commands; the padding fills the buffers of the kernel."""
    for n in range(count):
        await user.send("quick", data={"n": n}, id=n, key=None, **({"room": "channel:" + "x" * 100} if n % 2 else {}))
