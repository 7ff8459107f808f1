"""One link kept open: what may go wrong with it, and that it is tried again all the same."""

from __future__ import annotations

import asyncio

from redis_servers import RedisServer

from roomcast.broker.redis.connection import RedisConnection
from roomcast.broker.redis.handshake import open_connection
from roomcast.broker.redis.reconnect import OnLost, ReconnectingConnection
from roomcast.broker.redis.topology import Address


async def test_an_error_that_nobody_thought_of(redis_server: RedisServer) -> None:
    """What a connection fails with, be it no refusal of a server, does not end the trying."""
    dialled = 0
    up: asyncio.Future[RedisConnection] = asyncio.get_running_loop().create_future()

    async def dial(address: Address | None, lost: OnLost) -> RedisConnection:
        nonlocal dialled
        dialled += 1
        if dialled == 1:  # as a name with an empty label does
            raise UnicodeError("label empty or too long")
        where = ("127.0.0.1", redis_server.port)
        return await open_connection(where, (None, None), 0, None, lambda push: None, lost, (), 5.0)

    link = ReconnectingConnection(
        "it", "commands", lambda name: None, dial, up.set_result, lambda connection, reason: None
    )
    async with asyncio.timeout(10):
        assert await (await up).execute("PING") in (b"PONG", "PONG")
    await link.close()
    assert link.connection is None
