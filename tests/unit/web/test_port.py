"""The listeners of a port: how many connections they accept at once, and their end."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

from serving import PATIENCE, Serve
from waiting import wait_until

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")


async def test_several_connections_are_accepted_in_one_loop_iteration(serve: Serve):
    """Of a crowd that connects at once, 8 connections are accepted together."""
    server = await serve()
    acceptor = server.ports[0].acceptor
    assert acceptor is not None
    with ExitStack() as peers:
        for _ in range(8):
            peers.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        async with asyncio.timeout(PATIENCE):
            while not acceptor._silent:
                await asyncio.sleep(0)
        assert len(acceptor._silent) == 8


async def test_no_listener_is_left_when_the_port_is_closed(serve: Serve):
    """After ``stop_listening`` the system refuses connections."""
    server = await serve()
    port = server.port
    server.ports[0].stop_listening()

    async def is_refused() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return True
        writer.close()
        return False

    await wait_until(is_refused)
