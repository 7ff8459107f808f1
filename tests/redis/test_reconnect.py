"""Reconnecting to a Redis server after an unexpected error."""

from __future__ import annotations

import asyncio

from redis_servers import RedisServer

from roomcast.broker.redis.connection import RedisConnection
from roomcast.broker.redis.handshake import open_connection
from roomcast.broker.redis.reconnect import OnLost, ReconnectingConnection
from roomcast.broker.redis.topology import Address


async def test_an_unexpected_error_does_not_end_the_attempts(redis_server: RedisServer) -> None:
    """If connecting raises another error than Unavailable, the attempt is repeated."""
    attempts = 0
    up: asyncio.Future[RedisConnection] = asyncio.get_running_loop().create_future()

    async def connect(address: Address | None, on_lost: OnLost) -> RedisConnection:
        nonlocal attempts
        attempts += 1
        if attempts == 1:  # as for a host name with an empty label
            raise UnicodeError("label empty or too long")
        where = ("127.0.0.1", redis_server.port)
        return await open_connection(where, (None, None), 0, None, lambda push: None, on_lost, (), 5.0)

    link = ReconnectingConnection(
        "it", "commands", lambda name: None, connect, up.set_result, lambda connection, reason: None
    )
    async with asyncio.timeout(10):
        assert await (await up).execute("PING") in (b"PONG", "PONG")
    await link.close()
    assert link.connection is None
