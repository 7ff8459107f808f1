"""The broker on Redis: the contract on a single server and on a Cluster, and the cooperation of several nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from broker_contract import (
    HISTORY_SIZE,
    HISTORY_TTL,
    OTHER,
    ROOM,
    BrokerContract,
    Harness,
    RecordingListener,
    split,
)
from redis_servers import Cluster, FreshRedis, RedisServer, until
from tcp_proxy import Proxy

from roomcast.broker.base import Event
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable

Node = Callable[..., Awaitable[Harness]]


async def travel(server: RedisServer, prefix: str, seconds: float) -> None:
    """Move the stored state ``seconds`` into the past: the TTLs of keys, and the times of events.

    State that running nodes renew stays as it is: leases, presence, and rooms with a subscription.
    """
    ms = int(seconds * 1000)
    async with server.client(decode_responses=False) as client:
        async for key in client.scan_iter(match=f"{{{prefix}:*"):
            kind = await client.type(key)
            subscribed = key.endswith(b":m") and (await client.pubsub_numsub(key[:-2]))[0][1]
            if kind == b"zset" or key.endswith(b":p") or subscribed:
                continue
            if kind == b"stream":
                entries = await client.xrange(key)
                last = (await client.xinfo_stream(key))["last-generated-id"]
                left = await client.pttl(key)
                await client.xtrim(key, maxlen=0)
                await client.execute_command("XSETID", key, "0-0")
                for id, entry in entries:
                    await client.xadd(key, {b"t": int(entry[b"t"]) - ms, b"p": entry[b"p"]}, id=id)
                await client.execute_command("XSETID", key, last)
                await client.pexpire(key, left)
            if key.endswith(b":m"):
                await client.hincrby(key, b"x", -ms)
            if (left := await client.pttl(key)) - ms > 0:
                await client.pexpire(key, left - ms)
            else:
                await client.delete(key)


def broker_for(url: str, prefix: str, **options: float) -> RedisBroker:
    """Return a broker with the history options of the contract."""
    bounds = {"history_size": HISTORY_SIZE, "history_ttl": HISTORY_TTL}
    return RedisBroker(parse(url), RedisOptions(prefix=prefix, **(bounds | options)))  # type: ignore[arg-type]


@pytest.fixture
async def harness(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Harness]:
    """A harness with a broker on the shared server."""

    async def pass_time(seconds: float) -> None:
        await travel(redis_server, redis_prefix, seconds)

    harness = Harness(broker_for(redis_server.url, redis_prefix), pass_time)
    await harness.broker.start(harness.listener)
    yield harness
    await harness.broker.close()


class TestOnASingleServer(BrokerContract):
    """The contract on a single server."""


@pytest.fixture
async def node(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Node]:
    """``await node()`` starts another node on the shared server."""

    async def pass_time(seconds: float) -> None:
        await travel(redis_server, redis_prefix, seconds)

    async with AsyncExitStack() as stack:

        async def start(**options: float) -> Harness:
            harness = Harness(broker_for(redis_server.url, redis_prefix, **options), pass_time)
            await harness.broker.start(harness.listener)
            stack.push_async_callback(harness.broker.close)
            return harness

        yield start


async def test_events_reach_subscribed_nodes(node: Node) -> None:
    """A node receives the events of another in order if it subscribed to the room, otherwise none."""
    a, b, c = await node(), await node(), await node()
    await b.broker.subscribe([ROOM])
    await c.broker.subscribe([OTHER])
    ids = await a.fill(5)
    received = await b.received_events()
    assert received == [(ROOM, id, b"%d" % i) for i, id in enumerate(ids)]
    assert await c.received_events() == []
    assert await a.received_events() == []


async def test_all_nodes_see_one_order(node: Node) -> None:
    """Three nodes that publish concurrently in a room all receive the events in the order of the offsets."""
    nodes = [await node() for _ in range(3)]
    for one in nodes:
        await one.broker.subscribe([ROOM])
    await asyncio.gather(*[one.broker.publish(ROOM, b"%d" % i) for i in range(60) for one in nodes])
    received = [await one.received_events() for one in nodes]
    assert received[0] == received[1] == received[2]
    assert [split(id)[1] for _, id, _ in received[0]] == list(range(1, 181))


async def test_publishes_of_one_node_stay_in_order(node: Node) -> None:
    """Publishes that begin one after the other without waiting are stored in that order."""
    a = await node()
    await asyncio.gather(*[a.broker.publish(ROOM, b"%d" % i) for i in range(5)])
    assert [event.payload for event in (await a.broker.history(ROOM)).events] == [b"0", b"1", b"2", b"3", b"4"]


async def test_history_matches_the_received_events(node: Node) -> None:
    """During concurrent publishes, history contains exactly the events that the listener has received."""
    a, b = await node(history_size=500), await node(history_size=500)
    await b.broker.subscribe([ROOM])
    first = await a.broker.publish(ROOM, b"first")
    publishing = asyncio.gather(*[a.broker.publish(ROOM, b"%d" % i) for i in range(400)])
    for _ in range(20):
        history = await b.broker.history(ROOM, first)
        before = len(b.listener.events)
        assert history.recovered
        assert [split(event.id)[1] for event in history.events] == list(range(2, before + 1))
        assert history.last_id == b.listener.events[-1][1]
    await publishing
    assert len(await b.received_events()) == 401


async def test_history_since_an_event_not_received_yet(node: Node, redis_server: RedisServer) -> None:
    """History since an event that this node has not received yet waits for it, so it is not delivered twice."""
    a, b = await node(), await node()
    await b.broker.subscribe([ROOM])
    ids = await a.fill(4)
    history = await b.broker.history(ROOM, ids[3])
    assert (history.recovered, list(history.events), history.last_id) == (True, [], ids[3])
    assert [id for _, id, _ in b.listener.events] == ids


async def test_a_gap_is_repaired_before_later_events(node: Node, redis_server: RedisServer) -> None:
    """If an announcement is lost, its event is fetched before later events are delivered."""
    a, b = await node(), await node()
    await b.broker.subscribe([ROOM])
    ids = await a.fill(2)
    await b.listener.until(lambda: len(b.listener.events) == 2)
    # Store an event without announcing it, as if Redis had dropped the message.
    meta, stream = f"{{{a.broker._keys.prefix}:{ROOM}}}:m", f"{{{a.broker._keys.prefix}:{ROOM}}}:s"  # type: ignore[attr-defined]
    epoch = split(ids[0])[0]
    async with redis_server.client() as client:
        now = int((await client.time())[0]) * 1000
        await client.xadd(stream, {"t": now, "p": "lost"}, id=f"{epoch}-3")
        await client.hset(meta, "o", "3")
    await a.broker.publish(ROOM, b"after")
    await b.listener.until(lambda: len(b.listener.events) == 4)
    assert [payload for _, _, payload in b.listener.events] == [b"0", b"1", b"lost", b"after"]
    assert [split(id)[1] for _, id, _ in b.listener.events] == [1, 2, 3, 4]


async def test_a_quiet_room_is_compared_with_its_stream(
    node: Node, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the last announcement in a room is lost, the periodic check finds the event."""
    monkeypatch.setattr("roomcast.broker.redis.receiver.QUIET_CHECK_INTERVAL", 1.0)
    a, b = await node(), await node()
    await b.broker.subscribe([ROOM])
    ids = await a.fill(1)
    await b.listener.until(lambda: len(b.listener.events) == 1)
    prefix = f"{{{a.broker._keys.prefix}:{ROOM}}}"  # type: ignore[attr-defined]
    async with redis_server.client() as client:
        now = int((await client.time())[0]) * 1000
        await client.xadd(f"{prefix}:s", {"t": now, "p": "lost"}, id=f"{split(ids[0])[0]}-2")
        await client.hset(f"{prefix}:m", "o", "2")
    await b.listener.until(lambda: len(b.listener.events) == 2)
    assert b.listener.events[1][2] == b"lost"


async def test_a_lost_history_is_reported(
    node: Node, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the keys of a room are gone, its members receive a resync with the new last id."""
    monkeypatch.setattr("roomcast.broker.redis.receiver.QUIET_CHECK_INTERVAL", 1.0)
    a = await node()
    await a.broker.subscribe([ROOM])
    ids = await a.fill(3)
    await a.listener.until(lambda: len(a.listener.events) == 3)
    prefix = f"{{{a.broker._keys.prefix}:{ROOM}}}"  # type: ignore[attr-defined]
    await redis_server("DEL", f"{prefix}:m", f"{prefix}:s")
    await a.listener.until(lambda: bool(a.listener.resyncs))
    room, last_id = a.listener.resyncs[0]
    assert (room, split(last_id)[1]) == (ROOM, 0)
    assert split(last_id)[0] != split(ids[0])[0]
    assert not (await a.broker.history(ROOM, ids[2])).recovered
    new = await a.broker.publish(ROOM, b"new")
    assert split(new) == (split(last_id)[0], 1)
    assert (await a.broker.history(ROOM, last_id)).events == [Event(new, b"new")]


async def test_every_key_expires(node: Node, redis_server: RedisServer, redis_prefix: str) -> None:
    """Every key in Redis has a TTL."""
    a = await node()
    await a.broker.subscribe([ROOM, OTHER])
    await a.broker.publish(ROOM, b"x", "key")
    await a.broker.enter(ROOM, 1, "alice", 1)
    assert await a.broker.admit(1, 1, 5)
    assert await a.broker.claim("c1", 60) is True
    assert await a.broker.claim("c2", 60) is True
    await a.broker.settle("c2", b"done")
    await a.broker.put("p", b"x", 30)
    await a.broker.revoke_all(1, 1.0, 30)
    await a.broker.revoke_one(1, "t", 30)
    await a.broker.signal(b"x")
    keys = await redis_server("KEYS", f"*{redis_prefix}*")
    assert len(keys) >= 12
    for key in keys:
        assert await redis_server("PTTL", key) > 0, key


async def test_reading_the_history_does_not_shorten_its_ttl(
    node: Node, redis_server: RedisServer, redis_prefix: str
) -> None:
    """Events are stored for their TTL even if the room was read before they were published."""
    a = await node()
    first = await a.broker.publish(ROOM, b"first")
    await a.broker.history(ROOM)
    await travel(redis_server, redis_prefix, HISTORY_TTL / 6)
    second = await a.broker.publish(ROOM, b"second")
    await travel(redis_server, redis_prefix, HISTORY_TTL * 11 / 12)
    history = await a.broker.history(ROOM, first)
    assert (history.recovered, history.events) == (True, [Event(second, b"second")])


async def test_a_stream_that_was_evicted(node: Node, redis_server: RedisServer, redis_prefix: str) -> None:
    """A stream that is created again after an eviction has a TTL, and the room's offsets continue."""
    a = await node()
    first = await a.broker.publish(ROOM, b"first")
    stream = f"{{{redis_prefix}:{ROOM}}}:s"
    await redis_server("DEL", stream)
    ids = await asyncio.gather(*[a.broker.publish(ROOM, b"%d" % i) for i in range(3)])
    assert await redis_server("PTTL", stream) > 0
    assert [split(id) for id in ids] == [(split(first)[0], offset) for offset in (2, 3, 4)]
    assert [event.id for event in (await a.broker.history(ROOM, first)).events] == ids


async def test_a_cancelled_close_closes_connections(redis_server: RedisServer, redis_prefix: str) -> None:
    """If ``close`` is cancelled, the connections and tasks end nevertheless."""
    broker = broker_for(redis_server.url, redis_prefix)
    await broker.start(RecordingListener())
    await broker.enter(ROOM, 1, "alice", 1)
    closing = asyncio.create_task(broker.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("roomcast redis")]
    with pytest.raises(Unavailable):
        await broker.publish(ROOM, b"x")


async def test_signals_reach_every_node(node: Node) -> None:
    """Every node receives each signal once, its own included, in one order."""
    nodes = [await node() for _ in range(3)]
    await asyncio.gather(*[one.broker.signal(b"%d" % i) for i, one in enumerate(nodes)])
    for one in nodes:
        await one.listener.until(lambda one=one: len(one.listener.signals) == 3)
    assert nodes[0].listener.signals == nodes[1].listener.signals == nodes[2].listener.signals


async def test_ping(node: Node) -> None:
    """A ping succeeds if commands, subscriptions and the message to the node itself work."""
    a = await node()
    await a.broker.ping()
    await asyncio.gather(*[a.broker.ping() for _ in range(5)])


async def test_prefixes_separate_installations(redis_server: RedisServer, redis_prefix: str) -> None:
    """Two installations with different prefixes on one server share no events."""
    one, two = (Harness(broker_for(redis_server.url, redis_prefix + end), asyncio.sleep) for end in "ab")
    for harness in (one, two):
        await harness.broker.start(harness.listener)
        await harness.broker.subscribe([ROOM])
    await one.fill(2)
    assert await two.received_events() == []
    assert (await two.broker.history(ROOM)).events == []
    for harness in (one, two):
        await harness.broker.close()


async def test_a_room_that_is_left_and_joined_repeatedly(node: Node) -> None:
    """After any sequence of leaves and joins, a node that is subscribed receives new events."""
    a, b = await node(), await node()

    async def leave_and_join() -> None:
        for _ in range(30):
            await b.broker.subscribe([ROOM])
            await b.broker.unsubscribe([ROOM])

    await leave_and_join()
    await b.broker.subscribe([ROOM])
    id = await a.broker.publish(ROOM, b"x")
    assert await b.received_events() == [(ROOM, id, b"x")]


class TestOnACluster:
    """What differs when rooms live on several servers."""

    async def test_rooms_on_all_servers(self, redis_cluster: Cluster, redis_prefix: str) -> None:
        """Rooms that are on different servers work alike, and a list may span them."""
        a, b = (Harness(broker_for(redis_cluster.url, redis_prefix), asyncio.sleep) for _ in range(2))
        for harness in (a, b):
            await harness.broker.start(harness.listener)
        rooms = [f"channel:{i}" for i in range(30)]
        await b.broker.subscribe(rooms)
        for room in rooms:
            await a.broker.publish(room, room.encode())
        await b.listener.until(lambda: len(b.listener.events) == 30)
        assert {(room, payload) for room, _, payload in b.listener.events} == {(room, room.encode()) for room in rooms}
        await b.broker.ping()
        await a.broker.signal(b"x")
        await b.listener.until(lambda: b.listener.signals == [b"x"])
        assert await a.broker.admit(1, 1, 1)
        assert not await b.broker.admit(1, 2, 1)
        await a.broker.enter(rooms[0], 1, "alice", 1)
        assert [member.username for member in await b.broker.members(rooms[0])] == ["alice"]
        assert await b.broker.rooms() == {rooms[0]: 1}
        for harness in (a, b):
            await harness.broker.close()


@pytest.mark.parametrize("outage", ["killed", "stopped"])
async def test_admissions_wait_after_redis_lost_leases(fresh_redis: FreshRedis, outage: str) -> None:
    """After a restart without data or a long outage, admissions wait until all nodes wrote their leases."""
    server = await fresh_redis()
    a, b = (Harness(broker_for(server.url, "restarted", lease=1.2, timeout=0.3), asyncio.sleep) for _ in range(2))
    for harness in (a, b):
        await harness.broker.start(harness.listener)
    assert await a.broker.admit(1, 1, 2)
    assert await a.broker.admit(1, 2, 2)
    if outage == "killed":
        server.kill()
        await server.start()
    else:
        server.pause()
        await asyncio.sleep(1.5)  # longer than a lease
        server.resume()
    refusals = []
    async with asyncio.timeout(20):
        while True:
            try:
                admitted = await b.broker.admit(1, 3, 2)
                break
            except Unavailable as error:
                refusals.append(str(error))
                await asyncio.sleep(0.01)
    assert not admitted
    assert any("Redis is back" in one for one in refusals)
    assert await b.broker.connections(1) == 2
    for harness in (a, b):
        await harness.broker.close()


async def test_a_node_that_starts_with_redis_waits_for_others(fresh_redis: FreshRedis) -> None:
    """It starts only after the nodes that used the server before have written their leases."""
    server = await fresh_redis()
    async with Proxy("127.0.0.1", server.port) as proxy:
        a = Harness(broker_for(f"redis://127.0.0.1:{proxy.port}", "young"), asyncio.sleep)
        c = Harness(broker_for(server.url, "young"), asyncio.sleep)
        await a.broker.start(a.listener)
        assert await a.broker.admit(1, 1, 2)
        assert await a.broker.admit(1, 2, 2)
        await proxy.stop()
        server.kill()
        await server.start()
        starting = asyncio.create_task(c.broker.start(c.listener))
        await until(lambda: has_node(server), "the new node reaches the server")
        await asyncio.wait([starting], timeout=0.2)  # without the grace period it would start within this time
        await proxy.start()
        await starting
        assert not await c.broker.admit(1, 3, 2)
        assert await c.broker.connections(1) == 2
        for harness in (a, c):
            await harness.broker.close()


async def has_node(server: RedisServer) -> bool:
    """Return True if a node is connected to ``server``."""
    return "name=roomcast" in str(await server("CLIENT", "LIST"))
