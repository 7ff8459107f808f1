"""Nodes whose clocks differ by minutes: shared state depends on the clock of Redis only."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest
from redis_servers import RedisServer
from serving import PATH, User, call, connect, refused
from shell import API_KEY, SECRET, Running
from websockets.exceptions import ConnectionClosed

from roomcast.auth.identity import make_token

ROOM = "channel:1"
LIMIT = 5
#: How many seconds the clocks of the three nodes differ from the right time.
SLOW, RIGHT, FAST = OFFSETS = (-600, 0, 600)
#: How long the slots of a killed node are reserved, in seconds.
LEASE = 2
TOO_MANY = (4429, "Too Many Connections")
LIMITED = {
    **{"MAX_CONNECTIONS_PER_USER": str(LIMIT), "REDIS_LEASE": str(LEASE), "REDIS_TIMEOUT": "1"},
    "PRESENCE_GRACE": "1",
}


class Node(Running):
    """A node in its own process, whose clock differs by ``offset`` seconds."""

    def __init__(self, redis_server: RedisServer, prefix: str, offset: int) -> None:
        shifted = f"import time; right = time.time; time.time = lambda: right() + {offset}"
        command = (sys.executable, "-c", f"{shifted}; from roomcast.cli import main; main()")
        super().__init__(command=command, REDIS_URL=redis_server.url, REDIS_PREFIX=prefix, **LIMITED)
        self.port = int(self.url.rpartition(":")[2])


@pytest.fixture
def three(redis_server: RedisServer, redis_prefix: str) -> Iterator[list[Node]]:
    """Three nodes: one clock is slow, one is right, one is fast."""
    with ExitStack() as stack:
        yield [stack.enter_context(Node(redis_server, redis_prefix, offset)) for offset in OFFSETS]


def token(user: int, expires_in: float = 3600) -> str:
    """Return a token according to the right clock."""
    return make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"], expires_in=expires_in)


def path(user: int) -> str:
    """Return the URL path with which a user connects."""
    return f"{PATH}?token={token(user)}"


async def try_connect(stack: AsyncExitStack, node: Node, user: int) -> User | tuple[int, str]:
    """Return a connection of ``user``, or the code and reason of the refusal."""
    try:
        return await stack.enter_async_context(connect(node, path=path(user)))
    except ConnectionClosed as end:
        assert end.rcvd is not None
        return end.rcvd.code, end.rcvd.reason


async def members(node: Node) -> list[str]:
    """Return the members of the room according to ``node``."""
    _, body = await call(node, "GET", f"/api/v1/rooms/{ROOM}/members", key=API_KEY)
    return [member["username"] for member in body["members"]]


async def test_tokens_are_checked_by_the_nodes_clock(three: list[Node]) -> None:
    """Each node checks ``exp`` by its own clock, which shows that the clocks differ."""
    slow, right, fast = three
    for expires_in, accepted_by in ((-300, (slow,)), (300, (slow, right)), (1200, (slow, right, fast))):
        for node in three:
            where = f"{PATH}?token={token(1, expires_in)}"
            if node in accepted_by:
                async with connect(node, path=where) as alice:
                    assert alice.welcome["type"] == "connected"
            else:
                assert (await refused(node, where))[0] == 4401


async def test_the_limit_is_counted_by_the_clock_of_redis(three: list[Node]) -> None:
    """Of 30 concurrent connections the limit is admitted, and after three leases they still count."""
    async with AsyncExitStack() as stack:
        came = await asyncio.gather(*[try_connect(stack, three[number % 3], 1) for number in range(30)])
        assert Counter(one for one in came if isinstance(one, tuple)) == {TOO_MANY: 30 - LIMIT}
        ends = asyncio.get_running_loop().time() + 3 * LEASE
        while asyncio.get_running_loop().time() < ends:
            for node in three:
                assert await refused(node, path(1)) == TOO_MANY


@pytest.mark.parametrize("killed", [SLOW, FAST])
async def test_leases_of_a_killed_node_expire_on_time(three: list[Node], killed: int) -> None:
    """Slots and members of a killed node expire after one lease by the clock of Redis, not earlier or later."""
    node = three[OFFSETS.index(killed)]
    rest = [other for other in three if other is not node]
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(connect(rest[0], path=path(9)))
        await watcher.join(ROOM)
        await watcher.recv_type("user_joined")
        connections = [await stack.enter_async_context(connect(node, path=path(1))) for _ in range(LIMIT)]
        await connections[0].join(ROOM)
        assert (await watcher.recv_type("user_joined"))["data"]["username"] == "user1"
        assert [await members(other) for other in three] == [["user9", "user1"]] * 3
        node.process.kill()
        killed_at = asyncio.get_running_loop().time()
        assert (await watcher.recv_type("user_left"))["data"]["username"] == "user1"
        while isinstance(await try_connect(stack, rest[1], 1), tuple):
            assert asyncio.get_running_loop().time() < killed_at + 15
        assert [await members(other) for other in rest] == [["user9"]] * 2
        for _ in range(LIMIT - 1):
            assert isinstance(await try_connect(stack, rest[0], 1), User)
        assert await refused(rest[1], path(1)) == TOO_MANY
        assert [frame for frame in await watcher.settled() if frame["type"] in ("user_joined", "user_left")] == []
