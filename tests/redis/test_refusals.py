"""A Redis that refuses commands for a moment: an error reply is an answer, and afterwards everything works again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import websockets
from redis_refusals import REFUSALS, refusing
from redis_servers import FreshRedis
from serving import User, call, connect, running
from waiting import wait_until

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server

#: How long after the end of a refusal everything must work again, in seconds.
RECOVERY = 5.0
#: How long Redis refuses commands, in seconds.
DURATION = 1.0


@asynccontextmanager
async def traffic(user: User, room: str) -> AsyncIterator[list[str]]:
    """Send messages in a room, one after the other; yield the types of the replies so far. Each must have one."""
    replies: list[str] = []

    async def send() -> None:
        while True:
            await user.send("send_message", room, {"content": "x"}, id="request")
            while (frame := await user.recv()).get("id") != "request":
                pass
            replies.append(frame["type"])
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    try:
        yield replies
        assert not sending.done(), "the user was disconnected, or a message was not answered"
    finally:
        sending.cancel()
        await asyncio.wait([sending])


async def serves(server: Server) -> bool:
    """Return True if a user can connect, join a new room and send a message to it, and the node is ready."""
    try:
        async with asyncio.timeout(RECOVERY), connect(server, 2, "bob") as bob:
            await bob.join("channel:2")
            await bob.send("send_message", "channel:2", {"content": "x"})
            await bob.recv_type("message")
    except (TimeoutError, websockets.ConnectionClosed):
        return False
    status, _ = await call(server, "GET", "/health/ready")
    return status == 200


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_client_leaves_during_a_refusal(fresh_redis: FreshRedis, redis_prefix: str, name: str) -> None:
    """Each message is answered meanwhile. Afterwards users connect and join new rooms, and the node is ready."""
    redis = await fresh_redis(appendonly="yes" if name == "AOF" else "no")
    broker = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix, wait=1.0))
    async with running(broker=broker) as server, connect(server, 1) as alice, AsyncExitStack() as refusal:
        await alice.join("channel:1")
        async with traffic(alice, "channel:1") as replies:
            async with connect(server, 3, "carol") as carol:
                await carol.join("channel:3")
                await refusal.enter_async_context(refusing(redis, name))
            await asyncio.sleep(DURATION)
            await refusal.aclose()
            async with asyncio.timeout(RECOVERY):
                while not await serves(server):
                    await asyncio.sleep(0.05)
            count = len(replies)
            await wait_until(lambda: len(replies) > count, "messages are answered")
