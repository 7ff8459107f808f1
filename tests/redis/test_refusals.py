"""A Redis that refuses commands for a moment: an error reply is an answer, and afterwards everything works again."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import websockets
from broker_contract import RecordingListener
from redis_groups import Cluster, SentinelTrio
from redis_refusals import REFUSALS, moving_slot, refusing, without_slot
from redis_servers import FreshRedis
from serving import User, call, connect, running
from waiting import wait_until

from roomcast.broker.base import Member, Publication
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable
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


# Every kind of call.

ROOM = "channel:1"
#: The options of the brokers.
WAIT, TIMEOUT = 0.5, 3.0
#: How long a call may take until it returns or raises, in seconds: it may wait for a server, and for its reply.
LIMIT = WAIT + TIMEOUT + 3.0


class Calls:
    """A broker, and calls of all its methods. ``acked`` are the ids and payloads of the events in ``ROOM``."""

    def __init__(self, url: str, prefix: str) -> None:
        self.broker = RedisBroker(parse(url), RedisOptions(prefix=prefix, wait=WAIT, timeout=TIMEOUT))
        self.listener = RecordingListener()
        self.acked: dict[str, bytes] = {}
        self._numbers = itertools.count()
        #: The rooms that were subscribed by the last calls, to be unsubscribed by the next ones.
        self._subscribed = deque(["channel:a", "channel:b", "channel:c"])

    async def publish(self, key: str | None = None) -> None:
        """Publish an event in ``ROOM``, and record it."""
        payload = b"%d" % next(self._numbers)
        self.acked[await self.broker.publish(ROOM, payload, key)] = payload

    def all(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return a call of each method, with new names."""
        broker, name = self.broker, f"n{next(self._numbers)}"
        previous = self._subscribed.popleft()
        self._subscribed.append(f"channel:{name}")
        return {
            "publish": self.publish,
            "publish with a key": lambda: self.publish(name),
            "publish_many": lambda: broker.publish_many([Publication("channel:many", b"x", name)]),
            "subscribe": lambda: broker.subscribe([f"channel:{name}"]),
            "unsubscribe": lambda: broker.unsubscribe([previous]),
            "history": lambda: broker.history("channel:quiet"),
            "signal": lambda: broker.signal(b"x"),
            "admit": lambda: broker.admit(name, 1, 1),
            "release": lambda: broker.release(name, 1),
            "connections": lambda: broker.connections(name),
            "enter": lambda: broker.enter("channel:members", name, name, 1),
            "leave": lambda: broker.leave("channel:members", name, 1),
            "members": lambda: broker.members("channel:members"),
            "rooms": broker.rooms,
            "claim": lambda: broker.claim(name, 30.0),
            "settle": lambda: broker.settle(name, b"answer"),
            "put": lambda: broker.put(name, b"value", 30.0),
            "take": lambda: broker.take(name),
            "revoke_all": lambda: broker.revoke_all(name, 5.0, 30.0),
            "revoke_one": lambda: broker.revoke_one(name, name, 30.0),
            "is_revoked": lambda: broker.is_revoked(name, 1.0, name),
            "ping": broker.ping,
        }

    async def refused(self) -> list[str]:
        """Make all calls at once, several times each; return the names of those that raised ``Unavailable``.

        Each returns or raises within ``LIMIT``.
        """

        async def attempt(name: str, call: Callable[[], Awaitable[object]]) -> str | None:
            try:
                await call()
            except Unavailable:
                return name
            return None

        by_name = [self.all() for _ in range(3)]
        calls = [(name, one[name]) for name in by_name[0] for one in by_name]
        async with asyncio.timeout(LIMIT):
            results = await asyncio.gather(*[attempt(*item) for item in calls])
        return [name for name in results if name is not None]

    async def check(self) -> None:
        """Make each call alone, and compare the results: no call gets the reply to another one."""
        broker, name = self.broker, f"n{next(self._numbers)}"
        await self.publish()
        first, again, other = await broker.publish_many(
            [
                Publication(f"channel:{name}", b"a", "k"),
                Publication(f"channel:{name}", b"b", "k"),
                Publication(f"channel:{name}", b"c"),
            ]
        )
        assert first == again != other
        await broker.subscribe([f"channel:{name}"])
        assert [event.payload for event in (await broker.history(f"channel:{name}")).events] == [b"a", b"c"]
        assert [await broker.admit(name, number, 1) for number in (1, 2)] == [True, False]
        assert await broker.connections(name) == 1
        await broker.release(name, 1)
        assert await broker.connections(name) == 0
        assert (await broker.enter(f"channel:{name}", name, "alice", 1)).user_changed
        assert await broker.members(f"channel:{name}") == [Member(name, "alice")]
        assert (await broker.rooms())[f"channel:{name}"] == 1
        assert (await broker.leave(f"channel:{name}", name, 1)).user_changed
        assert [await broker.claim(name, 30.0), await broker.claim(name, 30.0)] == [True, False]
        await broker.settle(name, b"answer")
        assert await broker.claim(name, 30.0) == b"answer"
        await broker.put(name, b"value", 30.0)
        assert [await broker.take(name), await broker.take(name)] == [b"value", None]
        await broker.revoke_all(name, 5.0, 30.0)
        assert [await broker.is_revoked(name, issued, None) for issued in (4.0, 6.0)] == [True, False]
        await broker.revoke_one(name, name, 30.0)
        assert await broker.is_revoked(name, 6.0, name)
        await broker.unsubscribe([f"channel:{name}"])
        await broker.ping()

    async def recovered(self) -> None:
        """Wait until all calls succeed, for at most ``RECOVERY``. No acknowledged event was lost or came twice."""
        async with asyncio.timeout(RECOVERY):
            while True:
                try:
                    await self.check()
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        await self.listener.until(lambda: set(self.acked) <= {id for _, id, _ in self.listener.events})
        received = [(id, payload) for room, id, payload in self.listener.events if room == ROOM]
        assert len(dict(received)) == len(received)
        assert self.acked.items() <= dict(received).items()


@asynccontextmanager
async def calls_to(url: str, prefix: str) -> AsyncIterator[Calls]:
    """Start a broker that is subscribed to ``ROOM``."""
    calls = Calls(url, prefix)
    await calls.broker.start(calls.listener)
    try:
        await calls.broker.subscribe([ROOM])
        assert await calls.refused() == []
        yield calls
    finally:
        await calls.broker.close()


@pytest.mark.parametrize("name", REFUSALS)
async def test_every_call_has_an_answer(fresh_redis: FreshRedis, redis_prefix: str, name: str) -> None:
    """A call that Redis refuses raises ``Unavailable``. Afterwards all calls succeed, with their own replies."""
    redis = await fresh_redis(appendonly="yes" if name == "AOF" else "no")
    async with calls_to(redis.url, redis_prefix) as calls:
        async with refusing(redis, name):
            refused = [*await calls.refused(), *await calls.refused()]
        assert refused or name == "NOPERM ping"
        await calls.recovered()


async def test_scripts_are_flushed_between_calls(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """After SCRIPT FLUSH no call fails."""
    redis = await fresh_redis()
    async with calls_to(redis.url, redis_prefix) as calls:
        for _ in range(5):
            await redis("SCRIPT", "FLUSH")
            assert await calls.refused() == []
        await calls.recovered()


@pytest.mark.parametrize("name", ["MISCONF", "OOM", "NOREPLICAS", "BUSY", "NOPERM scripts"])
async def test_the_primary_of_sentinel_refuses(sentinel_trio: SentinelTrio, redis_prefix: str, name: str) -> None:
    """Every call has an answer, and all calls succeed afterwards."""
    async with calls_to(sentinel_trio.url, redis_prefix) as calls:
        async with refusing(await sentinel_trio.primary(), name):
            assert await calls.refused()
        await calls.recovered()


@pytest.mark.parametrize("name", ["MISCONF", "OOM", "NOREPLICAS", "BUSY", "NOPERM scripts"])
async def test_one_server_of_a_cluster_refuses(redis_cluster: Cluster, redis_prefix: str, name: str) -> None:
    """Every call has an answer; a room on another server is not affected; all calls succeed afterwards."""
    async with calls_to(redis_cluster.url, redis_prefix) as calls:
        server = await redis_cluster.primary_of(_channel(redis_prefix, ROOM))
        elsewhere = "channel:2"
        while await redis_cluster.primary_of(_channel(redis_prefix, elsewhere)) is server:
            elsewhere += "2"
        async with refusing(server, name):
            assert "publish" in await calls.refused()
            await calls.broker.subscribe([elsewhere])
            await calls.broker.publish(elsewhere, b"x")
            with pytest.raises(Unavailable, match=rf"Redis at {server.address} "):
                await calls.broker.ping()
        await calls.recovered()


def _channel(prefix: str, room: str) -> str:
    return f"{{{prefix}:{room}}}"


async def test_a_slot_has_no_server(redis_cluster: Cluster, redis_prefix: str) -> None:
    """Calls that are refused with CLUSTERDOWN have an answer, and succeed once the slot has a server again."""
    async with calls_to(redis_cluster.url, redis_prefix) as calls:
        server = await redis_cluster.primary_of(_channel(redis_prefix, ROOM))
        async with without_slot(redis_cluster, _channel(redis_prefix, ROOM)):
            before = (await server.info("stats"))["total_commands_processed"]
            assert "publish" in await calls.refused()
            with pytest.raises(Unavailable):
                await calls.broker.ping()
            assert (await server.info("stats"))["total_commands_processed"] < before + 5000
        await calls.recovered()


@pytest.mark.parametrize("moved", [("m", "s"), ("s",)], ids=["ASK", "TRYAGAIN"])
async def test_a_slot_is_moving(redis_cluster: Cluster, redis_prefix: str, moved: tuple[str, ...]) -> None:
    """Calls for a room whose keys are moving have an answer, and succeed when they have moved."""
    channel = _channel(redis_prefix, ROOM)
    async with calls_to(redis_cluster.url, redis_prefix) as calls:
        async with moving_slot(redis_cluster, channel, moved=tuple(f"{channel}:{name}" for name in moved)):
            assert "publish" in await calls.refused()
        await calls.recovered()
