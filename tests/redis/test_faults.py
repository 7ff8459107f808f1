"""Outages: several nodes on one Redis that is restarted, killed, stopped, cut off, or replaced by its replica.

Every test has members on each node, who must stay connected, and publishers that record what was acknowledged.
``Nodes.check`` compares what the members received with what was acknowledged.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from broker_contract import RecordingListener
from redis_servers import Cluster, FreshRedis, SentinelTrio, until
from serving import PATH, User, call, connect, refused, running, token_for
from tcp_proxy import Proxy

from roomcast.broker.base import Member as BrokerMember
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.subscriptions import Subscriptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server

ROOM = "channel:1"
#: The silence after which Redis counts as hung, and how long a publish waits for it, in seconds.
TIMEOUT = 0.5
WAIT = 2.0
#: The pause between two messages of a publisher, in seconds.
PACE = 0.005


class Member:
    """A user in ``ROOM`` who reads everything. ``frames`` contains the frames since the join."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.frames: list[dict[str, Any]] = []
        #: The ids of the received messages, by their texts.
        self.received: dict[str, str] = {}
        self.times: list[float] = []
        #: The id up to which events may be missing according to a resync.
        self.resynced_to = (0, 0)
        self._last: tuple[int, int] | None = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self.user.socket:
            self.take(orjson.loads(text))

    def take(self, frame: dict[str, Any]) -> None:
        """Store a frame. Ids are consecutive, starting again at each resync, and no message comes twice."""
        self.frames.append(frame)
        if frame["type"] == "resync":
            self.resynced_to = self._last = split(frame["data"]["last_id"])
        elif "id" in frame:
            id, last = split(frame["id"]), self._last
            assert last is None or id == (last[0], last[1] + 1), f"{frame} came after {last}"
            self._last = id
        if frame["type"] == "message":
            content = frame["data"]["content"]
            assert content not in self.received, f"{content} came twice"
            self.received[content] = frame["id"]
            self.times.append(time.monotonic())

    def has_or_missed(self, text: str, id: str) -> bool:
        """Return True if the acknowledged message was received, or a resync reported it as missed."""
        return self.received.get(text) == id or (text not in self.received and split(id) <= self.resynced_to)

    @property
    def is_connected(self) -> bool:
        """True if the connection never ended. Raises errors of the reading task."""
        return not self._reading.done() or self._reading.result() is not None

    async def close(self) -> None:
        """Stop reading."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class Publisher(Member):
    """Sends ``<name>:1``, ``<name>:2``, ..., one each ``PACE``, without waiting.

    ``acked`` maps acknowledged numbers to ids; ``failed`` maps refused numbers to the reason. There are no others.
    """

    def __init__(self, user: User) -> None:
        super().__init__(user)
        self.name = user.welcome["data"]["username"]
        self.sent = 0
        self.acked: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self._sending: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Send until ``end``."""
        self._sending = asyncio.create_task(self._send_continuously())

    async def _send_continuously(self) -> None:
        while True:
            await self.send_next()
            await asyncio.sleep(PACE)

    async def send_next(self, padding: int = 0) -> None:
        """Send the next number."""
        self.sent += 1
        data = {"content": f"{self.name}:{self.sent}", "metadata": {"padding": "x" * padding}}
        await self.user.send("send_message", ROOM, data, id=self.sent)

    def take(self, frame: dict[str, Any]) -> None:
        """Store a frame; answers are stored separately."""
        if frame["type"] == "sent":
            self.acked[frame["id"]] = frame["data"]["event_id"]
        elif frame["type"] == "error":
            assert frame["data"]["code"] == "unavailable", frame
            self.failed[frame["id"]] = frame["data"]["error"]
        else:
            super().take(frame)

    @property
    def state(self) -> str:
        """Describe the state, for error messages."""
        return (
            f"{self.name} sent {self.sent}: {len(self.acked)} acknowledged {list(self.acked.items())[-2:]}, "
            f"{len(self.failed)} failed; received {list(self.received.items())[-3:]}"
        )

    @property
    def pending(self) -> int:
        """The number of messages without an answer."""
        return self.sent - len(self.acked) - len(self.failed)

    async def end(self) -> None:
        """Stop sending, and wait until everything was answered."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await until_true(lambda: not self.pending or not self.is_connected, "all was answered")

    async def close(self) -> None:
        """Stop speaking and reading."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await super().close()


async def until_true(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition in this process."""

    async def holds() -> object:
        return condition()

    await until(holds, what)


class Nodes:
    """Gateways that share a Redis. Two publishers are on the first, so that batches occur, and one on each other.

    The last one also has a member ``quiet`` that sends nothing.
    """

    def __init__(self, prefix: str, servers: list[Server], publishers: list[Publisher], quiet: Member) -> None:
        self.prefix = prefix
        self.servers = servers
        self.publishers = publishers
        self.quiet = quiet
        self.members = [*publishers, quiet]

    @property
    def failed(self) -> dict[int, str]:
        """The refused messages."""
        return {number: why for publisher in self.publishers for number, why in publisher.failed.items()}

    @property
    def acked(self) -> int:
        """The number of acknowledged messages."""
        return sum(len(publisher.acked) for publisher in self.publishers)

    async def end(self) -> None:
        """Stop sending, and wait until everything was answered and delivered."""
        for publisher in self.publishers:
            await publisher.end()
        await self._round()

    async def until_recovered(self, since: float, what: str) -> None:
        """Wait until messages reach all members and all nodes are ready; print the durations from ``since`` on."""
        try:
            await until(self._round, "a message of each publisher reaches all members")
            caught_up = time.monotonic() - since
            await until(self._are_ready, "all nodes are ready")
        except AssertionError as error:
            for one in self.publishers:
                error.add_note(one.state)
            raise
        first = max(next(when for when in one.times if when > since) for one in self.members) - since
        ready = time.monotonic() - since
        print(
            f"\n{what}: first messages after {first:.2f} s, caught up after {caught_up:.2f} s, ready at {ready:.2f} s"
        )

    async def _round(self) -> bool:
        """Let each publisher send a message; return True if all were acknowledged and delivered."""
        said = []
        for publisher in self.publishers:
            await publisher.send_next()
            said.append((publisher, publisher.sent))
        await until_true(lambda: all(n in p.acked or n in p.failed for p, n in said), "all messages have an answer")
        if any(number in publisher.failed for publisher, number in said):
            return False
        texts = [(f"{publisher.name}:{number}", publisher.acked[number]) for publisher, number in said]
        await until_true(
            lambda: all(one.has_or_missed(*text) for one in self.members for text in texts), "all members have it"
        )
        return all(text in one.received for one in self.members for text, _ in texts)

    async def _are_ready(self) -> bool:
        return all([(await call(server, "GET", "/health/ready"))[0] == 200 for server in self.servers])

    async def until_not_ready(self, part: str) -> None:
        """Wait until every node reports that it is not ready, and names ``part``."""

        async def named() -> bool:
            for server in self.servers:
                status, body = await call(server, "GET", "/health/ready")
                if status != 503 or part not in body["parts"]["broker"]:
                    return False
            return True

        await until(named, f"/health/ready names {part}")

    async def check_refusals(self) -> None:
        """Check an outage: pings are answered, new connections closed with 4500, and the API returns 503."""
        await (await self.quiet.user.socket.ping())
        for server in self.servers:
            assert await refused(server, f"{PATH}?token={token_for(77)}") == (4500, "Internal Server Error")
        event = {"type": "task.updated", "room": ROOM, "data": {"task_id": 1, "changes": {}}}
        status, body = await call(self.servers[0], "POST", "/api/v1/events", event)
        assert (status, body["code"]) == (503, "unavailable"), body

    def check(self, *, lost: bool) -> None:
        """Check that all members stayed connected, and each acknowledged message arrived once or was reported lost.

        Losses may be reported only if ``lost`` is True.
        """
        ids = [id for publisher in self.publishers for id in publisher.acked.values()]
        assert len(set(ids)) == len(ids), "one id for two messages"
        for one in self.members:
            assert one.is_connected
            assert lost or one.resynced_to == (0, 0), "a resync, though nothing can have been lost"
            for publisher in self.publishers:
                assert list(publisher.acked) == sorted(publisher.acked), "answers out of order"
                said = [text for text in one.received if text.startswith(f"{publisher.name}:")]
                assert said == sorted(said, key=lambda text: int(text.partition(":")[2])), "out of order"
                for number, id in publisher.acked.items():
                    text = f"{publisher.name}:{number}"
                    assert one.has_or_missed(text, id), (
                        f"{text} was acknowledged as {id} and came as {one.received.get(text)}"
                    )


def split(id: str) -> tuple[int, int]:
    """Return the epoch and the offset of an id."""
    epoch, _, offset = id.partition("-")
    return int(epoch), int(offset)


def broker(url: str, prefix: str, **options: Any) -> RedisBroker:
    """Return a node's broker with short timeouts."""
    return RedisBroker(parse(url), RedisOptions(**{"prefix": prefix, "timeout": TIMEOUT, "wait": WAIT, **options}))


@asynccontextmanager
async def nodes(*urls: str, **options: Any) -> AsyncIterator[Nodes]:
    """Start a node for each of ``urls``, all on one Redis; ``options`` are those of the brokers."""
    prefix = f"test-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        servers = []
        for url in urls:
            gateway = running(
                broker=broker(url, prefix, **options), ws_message_rate=0, ws_max_buffer=2**26, handler_timeout=60.0
            )
            servers.append(await stack.enter_async_context(gateway))

        async def user(server: Server, number: int) -> User:
            one = await stack.enter_async_context(connect(server, number, f"user-{number}"))
            await one.join(ROOM)
            return one

        users = [await user(server, number) for number, server in enumerate([servers[0], *servers, servers[-1]], 1)]
        ours = Nodes(prefix, servers, [Publisher(one) for one in users[:-1]], Member(users[-1]))
        for member in ours.members:
            stack.push_async_callback(member.close)
        for publisher in ours.publishers:
            publisher.begin()
        await until_true(lambda: ours.acked > 20, "20 messages are acknowledged")
        yield ours


async def test_redis_is_restarted(fresh_redis: FreshRedis) -> None:
    """Publishes wait for a Redis that is restarted; members receive a resync and later events."""
    server = await fresh_redis(appendonly="yes")
    async with nodes(server.url, server.url, wait=10.0) as ours:
        await server.restart()
        await ours.until_recovered(time.monotonic(), "restart")
        await ours.end()
        assert not ours.failed
        ours.check(lost=True)


async def test_redis_is_killed(fresh_redis: FreshRedis) -> None:
    """During the outage nodes are not ready, refuse connections and late publishes; then they restore all data."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        server.kill()
        await ours.until_not_ready(f"Redis at {server.address} cannot be reached")
        await ours.check_refusals()
        await until_true(lambda: ours.failed, "a publish fails")
        await server.start()
        await ours.until_recovered(time.monotonic(), "kill -9")
        await ours.end()
        ours.check(lost=True)
        for node in ours.servers:
            await until(lambda node=node: members_are(node, {1, 2, 3, 4}), "the members are listed again")
        types = {frame["type"] for one in ours.members for frame in one.frames}
        assert "user_left" not in types


async def members_are(server: Server, users: set[int]) -> bool:
    """Return True if the HTTP API lists ``users`` as the members of the room."""
    status, body = await call(server, "GET", f"/api/v1/rooms/{ROOM}/members")
    return status == 200 and {member["user_id"] for member in body["members"]} == users


async def test_redis_hangs(fresh_redis: FreshRedis) -> None:
    """A stopped Redis counts as unreachable; publishes wait in order and are stored once, even if sent twice."""
    server = await fresh_redis()
    async with nodes(server.url, server.url, wait=10.0) as ours:
        server.pause()
        await ours.until_not_ready(f"Redis at {server.address} cannot be reached")
        assert await refused(ours.servers[0], f"{PATH}?token={token_for(77)}") == (4500, "Internal Server Error")
        server.resume()
        await ours.until_recovered(time.monotonic(), "SIGSTOP")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_redis_hangs_longer_than_a_publish_waits(fresh_redis: FreshRedis) -> None:
    """Publishes that waited too long are refused, and later ones are delivered in order."""
    server = await fresh_redis()
    async with nodes(server.url, server.url, wait=1.0) as ours:
        server.pause()
        await until_true(lambda: ours.failed, "a publish fails")
        await ours.check_refusals()
        server.resume()
        await ours.until_recovered(time.monotonic(), "SIGSTOP beyond the wait")
        await ours.end()
        ours.check(lost=False)


async def test_many_messages_of_a_client_during_an_outage(fresh_redis: FreshRedis) -> None:
    """A client's messages wait together, not one after the other, so the client stays connected."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        await ours.end()
        server.kill()
        publisher = ours.publishers[0]
        for _ in range(100):
            await publisher.send_next()
        pong = await publisher.user.socket.ping()
        await until_true(lambda: not publisher.pending, "every message is refused")
        await pong
        assert len(publisher.failed) >= 100
        assert publisher.is_connected


async def test_scripts_are_flushed(fresh_redis: FreshRedis) -> None:
    """After SCRIPT FLUSH a user can connect and join a new room, and nothing is lost."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        await server("SCRIPT", "FLUSH")
        async with connect(ours.servers[1], 50) as user:
            await user.join("channel:2")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_subscriptions_are_killed(fresh_redis: FreshRedis) -> None:
    """Repeated CLIENT KILL TYPE pubsub loses nothing."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        for _ in range(5):
            await until(lambda: server("CLIENT", "KILL", "TYPE", "pubsub"), "there is a subscription to kill")
            published = ours.acked
            await until_true(lambda before=published: ours.acked > before + 20, "more is published")
        await ours.until_recovered(time.monotonic(), "CLIENT KILL TYPE pubsub")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_connections_are_reset(fresh_redis: FreshRedis) -> None:
    """Resets of all connections at any moment of a publish lose and repeat nothing."""
    server = await fresh_redis()
    async with Proxy("127.0.0.1", server.port) as proxy, nodes(f"redis://127.0.0.1:{proxy.port}", server.url) as ours:
        for number in range(8):
            proxy.latency = 0.002 * (number % 3)
            published = ours.acked
            await until_true(lambda before=published: ours.acked > before + 10, "more is published")
            proxy.stall(to_server=number % 2 == 0, to_client=number % 2 == 1)
            await until_true(lambda: ours.publishers[0].pending > 3, "some messages have no answer")
            proxy.reset()
            proxy.flow()
        await ours.until_recovered(time.monotonic(), "resets")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_redis_disconnects_a_slow_subscriber(fresh_redis: FreshRedis) -> None:
    """A node that reads too slowly is disconnected, and reads the missed events from the stream."""
    server = await fresh_redis(client_output_buffer_limit="pubsub 256kb 0 0")
    async with (
        Proxy("127.0.0.1", server.port, receive_buffer=4096) as proxy,
        nodes(server.url, f"redis://127.0.0.1:{proxy.port}", timeout=30.0, history_size=5000) as ours,
    ):
        publisher = ours.publishers[0]
        await ours.end()
        proxy.stall(to_server=False)

        async def cut_off() -> bool:
            for _ in range(32):
                # Large messages, one at a time: events of one batch are announced together, and for an announcement of
                # more than 16 KiB Valkey counts only a reference.
                await publisher.send_next(padding=9_000)
                await until_true(lambda: not publisher.pending, "it is published")
            return bool((await server.info("stats"))["client_output_buffer_limit_disconnections"])

        await until(cut_off, "Redis cuts the subscriber off")
        proxy.flow()
        await ours.until_recovered(time.monotonic(), f"cut off after {publisher.sent} messages")
        await ours.end()
        ours.check(lost=False)


async def test_sentinel_failover(sentinel_trio: SentinelTrio) -> None:
    """Nodes follow Sentinel to the new primary; lost events are reported."""
    async with nodes(*[sentinel_trio.url] * 2, wait=15.0) as ours:
        killed = time.monotonic()
        before = await sentinel_trio.kill_primary()
        await ours.until_not_ready("Redis at main cannot be reached")
        await sentinel_trio.failed_over(before)
        print(f"\nSentinel took {time.monotonic() - killed:.2f} s")
        await ours.until_recovered(time.monotonic(), "after Sentinel's failover")
        await ours.end()
        assert not ours.failed
        ours.check(lost=True)
        await before.start()


async def test_cluster_failover(redis_cluster: Cluster) -> None:
    """Nodes follow the room to the replica; lost events are reported."""
    async with nodes(*[redis_cluster.url] * 2, wait=15.0) as ours:
        channel = f"{{{ours.prefix}:{ROOM}}}"
        killed = time.monotonic()
        before = await redis_cluster.kill_primary_of(channel)
        await ours.until_not_ready(f"Redis at {before.address} cannot be reached")
        await redis_cluster.failed_over(channel, before)
        print(f"\nthe Cluster took {time.monotonic() - killed:.2f} s")
        await ours.until_recovered(time.monotonic(), "after the Cluster's failover")
        await ours.end()
        assert not ours.failed
        ours.check(lost=True)
        await before.start()
        await until(redis_cluster.is_ready, "the cluster is whole again")


class Announcer(RecordingListener):
    """A node that announces lost members."""

    broker: RedisBroker

    def on_member_lost(self, room: str, member: BrokerMember, users: int) -> None:
        """Publish a message in the room."""
        self.announcing = asyncio.create_task(self.broker.publish(room, f"{member.username} left".encode()))


async def test_a_node_closes_as_redis_returns(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """A user who left during an outage is announced by the node, even though it is about to close."""
    redis = await fresh_redis()
    ending = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix, timeout=TIMEOUT))
    other = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix, timeout=TIMEOUT))
    announcer, listener = Announcer(), RecordingListener()
    announcer.broker = ending
    await ending.start(announcer)
    await other.start(listener)
    await other.subscribe([ROOM])
    await ending.enter(ROOM, 1, "alice", 1)
    redis.pause()
    assert (await ending.leave(ROOM, 1, 1)).user_changed is False
    ended = asyncio.get_running_loop().create_future()
    ending._router.on_server_return.append(lambda: ended.set_result(asyncio.create_task(ending.close())))
    redis.resume()
    await (await ended)
    await listener.until(lambda: [payload for *_, payload in listener.events] == [b"alice left"])
    await announcer.announcing
    await other.close()


async def test_a_sentinel_or_cluster_server_hangs(sentinel_trio: SentinelTrio, redis_cluster: Cluster) -> None:
    """If a sentinel or a server of the Cluster does not answer, the next one is asked."""
    (replica, *_) = [one for one in redis_cluster.servers if (await one.info("replication"))["role"] == "slave"]
    for hung, url in (
        (sentinel_trio.sentinels[0], sentinel_trio.url),
        (replica, redis_cluster.url.replace("://", f"://{replica.address},")),
    ):
        hung.pause()
        try:
            async with nodes(url, url, wait=5.0) as ours:
                await ours.end()
                ours.check(lost=False)
        finally:
            hung.resume()


async def test_the_first_event_of_a_room_is_lost(
    fresh_redis: FreshRedis, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members receive a resync if the first event was acknowledged and then lost with its announcement."""
    redis = await fresh_redis()
    broker, listener = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix)), RecordingListener()
    with monkeypatch.context() as patch:
        patch.setattr(Subscriptions, "on_push", lambda *_: None)
        await broker.start(listener)
        await broker.subscribe([ROOM])
        first = await broker.publish(ROOM, b"first")
    redis.kill()
    await redis.start()
    await listener.until(lambda: bool(listener.resyncs))
    assert listener.events == []
    (room, last_id), *more = listener.resyncs
    assert (room, split(last_id)[1], more) == (ROOM, 0, [])
    assert split(last_id)[0] > split(first)[0]
    await broker.close()
