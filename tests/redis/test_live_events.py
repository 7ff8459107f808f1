"""Live events between two servers on one Redis: typing, its end, and a server that is killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from redis_groups import Cluster
from redis_servers import RedisServer
from serving import User, connect, running

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server

ROOM = "channel:1"
Start = Callable[[], Awaitable[Server]]


@pytest.fixture(params=["single server", "cluster"])
async def start(
    request: pytest.FixtureRequest, redis_server: RedisServer, redis_cluster: Cluster, redis_prefix: str
) -> AsyncIterator[Start]:
    """``await start()`` starts a server."""
    url = redis_server.url if request.param == "single server" else redis_cluster.url
    async with AsyncExitStack() as stack:

        async def start() -> Server:
            broker = RedisBroker(parse(url), RedisOptions(prefix=redis_prefix))
            return await stack.enter_async_context(running(broker=broker))

        yield start


async def typing_of(user: User) -> bool:
    """Wait for a ``typing``, which must not have an id; return what it says."""
    event = await user.recv_type("typing", room=ROOM)
    assert "id" not in event
    return bool(event["data"]["typing"])


async def test_typing_reaches_the_other_node(start: Start) -> None:
    """The members on both nodes see it, the user's own connections on both do not, and a message comes after it."""
    first, second = await start(), await start()
    async with (
        connect(first, 1, "alice") as alice,
        connect(second, 1, "alice") as phone,
        connect(first, 2, "bob") as bob,
        connect(second, 3, "carol") as carol,
    ):
        for user in (alice, phone, bob, carol):
            await user.join(ROOM)
        await alice.send("typing", ROOM)
        for user in (bob, carol):
            assert await typing_of(user)
        await alice.send("send_message", ROOM, {"content": "Hello"})
        for user in (alice, phone, bob, carol):
            await user.recv_type("message")
        for user in (alice, phone):
            assert "typing" not in [frame["type"] for frame in user.frames]


async def test_leaving_and_stopping_end_it(start: Start) -> None:
    """When the user leaves, and when the user's node stops, the members on the other node see the end."""
    first, second = await start(), await start()
    async with connect(second, 2, "bob") as bob, connect(first, 1, "alice") as alice:
        await bob.join(ROOM)
        for end in ("leave", "stop"):
            await alice.join(ROOM)
            await alice.send("typing", ROOM)
            assert await typing_of(bob)
            if end == "leave":
                await alice.send("leave_room", ROOM)
            else:
                await first.gateway.drain()
            assert not await typing_of(bob)


async def test_a_client_that_resumes_misses_it(start: Start) -> None:
    """A client that returns with ``since`` receives the messages, and no live events."""
    first, second = await start(), await start()
    async with connect(first, 1, "alice") as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "1"})
        since = (await alice.recv_type("message"))["id"]
        async with connect(second, 2, "bob") as bob:
            await bob.join(ROOM)
            await bob.send("typing", ROOM)
            await typing_of(alice)
            await bob.send("send_message", ROOM, {"content": "2"})
            await alice.recv_type("message")
        async with connect(second, 3, "carol") as carol:
            joined = await carol.join(ROOM, since=since)
            assert joined["data"]["recovered"]
            await carol.recv_type("message")
            assert "typing" not in [frame["type"] for frame in await carol.settled()]
