"""Tests of a plugin that publishes many events at once on the embedded broker, with members in other processes."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from marshmallow import Schema, fields
from serving import PATH, Serve, connect, token_for, url
from waiting import wait_until

from roomcast import Context, Plugin
from roomcast.errors import TOO_SLOW
from roomcast.web.server import Server

pytestmark = pytest.mark.slow

ROOM = "channel:1"
#: More than the kernel and the server buffer for a member: about 28 MB.
COUNT = 200_000
#: How long a member may take, in seconds. It is much longer than expected.
PATIENCE = 120.0

#: A member that reads as fast as it can, for which Python needs several times as long as the server for a publish. It
#: writes "joined", and at the end the number of events, or how the connection was closed. With "stop" it reads nothing
#: after it has joined.
MEMBER = """
import sys
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

url, last, mode = sys.argv[1:]
with connect(url, proxy=None, compression=None, max_queue=4) as socket:
    socket.send('{"type": "join_room", "room": "channel:1"}')
    while '"joined_room"' not in socket.recv():
        pass
    print("joined", flush=True)
    if mode == "stop":
        sys.stdin.read()
    count = 0
    try:
        while True:
            frame = socket.recv()
            count += "bulk.tick" in frame
            if f'"n":{last}}}' in frame:
                break
    except ConnectionClosed as closed:
        print(closed)
    else:
        print(count)
"""


class Tick(Schema):
    """A number."""

    n = fields.Integer(required=True)


class Nothing(Schema):
    """No data."""


def bulk_plugin() -> Plugin:
    """Return a plugin whose command ``bulk.go`` publishes ``COUNT`` events."""
    plugin = Plugin("bulk")
    plugin.event("bulk.tick")(Tick)

    @plugin.command("bulk.go", Nothing, access="anyone")
    async def go(ctx: Context, data: dict[str, Any]) -> None:
        for n in range(COUNT):
            await ctx.publish(Tick, {"n": n}, room=ROOM)

    return plugin


@asynccontextmanager
async def member(server: Server, number: int, mode: str = "read") -> AsyncIterator[Process]:
    """Run a member in a process of its own. It has joined the room."""
    where = url(server, f"{PATH}?token={token_for(number, f'user{number}')}", "ws")
    arguments = (sys.executable, "-c", MEMBER, where, str(COUNT - 1), mode)
    process = await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"joined\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def output(process: Process) -> str:
    """Return what a member writes until it ends."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.read()).decode().strip()


async def test_members_and_other_clients_during_many_publishes(serve: Serve) -> None:
    """Members that read receive all events, and none is closed with 1013. Other clients are answered meanwhile."""
    server = await serve(plugins=[bulk_plugin()], handler_timeout=PATIENCE)
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(member(server, number)) for number in (11, 12)]
        alice = await stack.enter_async_context(connect(server, 1, "alice"))
        bob = await stack.enter_async_context(connect(server, 2, "bob"))
        await alice.send("bulk.go", id="go")
        replied = asyncio.create_task(alice.recv_type("reply", id="go"))
        answers = 0
        while not replied.done():
            await bob.send("ping", id=answers)
            await bob.recv_type("pong", id=answers)
            answers += 1
            await asyncio.sleep(0.01)
        await replied
        assert answers > 10
        assert [await output(process) for process in members] == [str(COUNT)] * 2
        assert server.gateway.counters.ends[TOO_SLOW] == 0


async def test_a_member_that_does_not_read_does_not_hold_up_the_others(serve: Serve) -> None:
    """It is closed with 1013, and the other members receive all events."""
    server = await serve(plugins=[bulk_plugin()], handler_timeout=PATIENCE)
    async with (
        member(server, 13, "stop"),
        member(server, 11) as first,
        member(server, 12) as second,
        connect(server, 1, "alice") as alice,
    ):
        await alice.send("bulk.go", id="go")
        async with asyncio.timeout(PATIENCE):
            while (await alice.socket.recv()).count('"id":"go"') == 0:
                pass
        assert [await output(process) for process in (first, second)] == [str(COUNT)] * 2
        await wait_until(lambda: server.gateway.counters.ends[TOO_SLOW] == 1, patience=PATIENCE)
