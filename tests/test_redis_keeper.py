"""One link kept open: what may go wrong with it, and that it is tried again all the same."""

from __future__ import annotations

import asyncio

from redis_servers import RedisServer

from roomcast.redis.keeper import Keeper, Lost
from roomcast.redis.link import Link, open_link
from roomcast.redis.servers import Address


async def test_an_error_that_nobody_thought_of(redis_server: RedisServer) -> None:
    """What a connection fails with, be it no refusal of a server, does not end the trying."""
    dialled = 0
    up: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

    async def dial(address: Address | None, lost: Lost) -> Link:
        nonlocal dialled
        dialled += 1
        if dialled == 1:  # as a name with an empty label does
            raise UnicodeError("label empty or too long")
        where = ("127.0.0.1", redis_server.port)
        return await open_link(where, (None, None), 0, None, lambda push: None, lost, (), 5.0)

    keeper = Keeper("it", "commands", lambda name: None, dial, up.set_result, lambda link, why: None)
    async with asyncio.timeout(10):
        assert await (await up).get("PING") in (b"PONG", "PONG")
    await keeper.close()
    assert keeper.link is None
