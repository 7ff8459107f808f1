"""roomcast.js in Chromium: reconnects to other nodes of the same Redis."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from browser import chromium
from client_pages import Pool
from redis_servers import RedisServer
from serving import call, running
from tcp_proxy import Proxy

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse

ROOM = "channel:1"


@pytest.mark.browser
async def test_page_moves_between_nodes(redis_server: RedisServer, redis_prefix: str) -> None:
    """Over ten losses, each with another node as the next, no message is lost, duplicated or out of order."""
    async with AsyncExitStack() as stack:
        brokers = [RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix)) for _ in range(3)]
        nodes = [await stack.enter_async_context(running(broker=one, ws_message_rate=0)) for one in brokers]
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", nodes[0].port))
        pool = Pool(await (await stack.enter_async_context(chromium())).new_context())
        client = await (await pool.visit(proxy.port)).start(join=ROOM)
        for i in range(10):
            # The page sends a message, and a backend another one through a third node while the page reconnects.
            sent = asyncio.ensure_future(client.js(f"(await client.sendMessage({ROOM!r}, 'page {i}')).type"))
            proxy.target = nodes[(i + 1) % 3].port
            proxy.reset()
            assert await sent == "sent"
            event = {
                "type": "message",
                "room": ROOM,
                "data": {"content": f"backend {i}", "username": "b", "user_id": 0},
            }
            status, _ = await call(nodes[(i + 2) % 3], "POST", "/api/v1/events", event)
            assert status < 300
        contents = await client.contents(20)
        assert contents == [f"{who} {i}" for i in range(10) for who in ("page", "backend")]
        await pool.clear()
