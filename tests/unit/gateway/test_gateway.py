"""Tests of ``gateway.gateway``: start, drain, and that no state remains."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from gateway_tools import is_empty
from handshakes import request
from serving import PATH, Serve, connect, refused, token_for
from waiting import wait_until
from wire import Peer

from roomcast import Plugin
from roomcast.errors import PluginError
from roomcast.protocol.frames import TEXT


async def test_a_failing_lifespan_stops_the_start(serve: Serve) -> None:
    """The error has the name of the plugin, its package and the reason."""
    plugin = Plugin("flop")

    @plugin.lifespan
    async def fail(service: Any) -> Any:
        raise OSError("no such database")
        yield

    with pytest.raises(PluginError, match=r"plugin 'flop' \(package 'test 0'.*OSError: no such database"):
        await serve(plugins=[plugin])


async def test_drain(serve: Serve) -> None:
    """Connections, and those that come during the drain, are closed with 1012."""
    server = await serve()
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(connect(server, n, "x")) for n in range(10)]
        await server.gateway.drain()
        for user in users:
            assert await user.closed() == (1012, "Service Restart")
        assert await refused(server, f"{PATH}?token={token_for()}") == (1012, "Service Restart")


async def test_a_silent_client_is_pinged_and_then_dropped(serve: Serve) -> None:
    """After an interval of silence the server sends a ping, after two it closes; a client that answers stays."""
    server = await serve(ws_heartbeat_interval=0.2)
    peer = await Peer.connect(("127.0.0.1", server.port))
    async with connect(server, 2, "bob") as bob:
        await peer.send(request())
        await peer.head()
        assert (await peer.frame())[0] == TEXT
        assert await peer.frame() == (9, b"")
        await peer.wait_until_closed()
        assert await bob.settled() == []
    peer.close()


async def test_many_users_join_and_leave(serve: Serve) -> None:
    """After many joins, leaves, closes and crashes at the same time, no state remains."""
    server = await serve(max_connections_per_user=50)

    async def visit(number: int) -> None:
        async with connect(server, number % 7, f"user{number % 7}") as user:
            for room in ("channel:1", f"channel:{number % 3}", "task:1"):
                await user.join(room)
            await user.send("leave_room", "task:1")
            if number % 2:
                user.socket.transport.abort()

    await asyncio.gather(*(visit(number) for number in range(60)))
    await wait_until(lambda: is_empty(server))
