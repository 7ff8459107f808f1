"""The broker on Redis: the contract on a single server and on a Cluster, and the cooperation of several nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from broker_contract import ANNOUNCEMENTS, HISTORY_TTL, OTHER, ROOM, BrokerContract, Harness, RecordingListener, split
from redis_groups import Cluster
from redis_nodes import StartNode, age_state, broker_for
from redis_servers import FreshRedis, RedisServer, wait_for_server
from tcp_proxy import Proxy

from roomcast.broker.base import Event
from roomcast.errors import Unavailable


@pytest.fixture
async def harness(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Harness]:
    """A harness with a broker on the shared server."""

    async def pass_time(seconds: float) -> None:
        await age_state(redis_server, redis_prefix, seconds)

    harness = Harness(broker_for(redis_server.url, redis_prefix), pass_time)
    await harness.broker.start(harness.listener, ANNOUNCEMENTS)
    yield harness
    await harness.broker.close()


#: Markers on all three servers of the Cluster: the probability that one server has none is 3 * (2/3)**40, or 3e-7.
_CLUSTER_MARKERS = tuple(f"channel:marker-{i}" for i in range(40))


class TestOnASingleServer(BrokerContract):
    """The contract on a single server."""


class TestOnACluster(BrokerContract):
    """The contract on a Cluster. "All or none" of ``publish_many`` holds for each room separately."""

    @pytest.fixture
    async def harness(self, redis_cluster: Cluster, redis_prefix: str) -> AsyncIterator[Harness]:
        """A harness with a broker on the shared Cluster."""

        async def pass_time(seconds: float) -> None:
            for server in redis_cluster.servers:
                if (await server("ROLE"))[0] == "master":
                    await age_state(server, redis_prefix, seconds)

        harness = Harness(broker_for(redis_cluster.url, redis_prefix), pass_time, markers=_CLUSTER_MARKERS)
        await harness.broker.start(harness.listener, ANNOUNCEMENTS)
        yield harness
        await harness.broker.close()

    async def test_rooms_on_all_servers(self, redis_cluster: Cluster, redis_prefix: str) -> None:
        """Rooms on different servers work in the same way. ``subscribe`` and ``rooms`` cover all servers."""
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


async def test_events_reach_subscribed_nodes(node: StartNode) -> None:
    """A node receives the events of another in order if it subscribed to the room, otherwise none."""
    a, b, c = await node(), await node(), await node()
    await b.broker.subscribe([ROOM])
    await c.broker.subscribe([OTHER])
    ids = await a.fill(5)
    received = await b.received_events()
    assert received == [(ROOM, id, b"%d" % i) for i, id in enumerate(ids)]
    assert await c.received_events() == []
    assert await a.received_events() == []


async def test_all_nodes_see_one_order(node: StartNode) -> None:
    """Three nodes that publish concurrently in a room all receive the events in the order of the offsets."""
    nodes = [await node() for _ in range(3)]
    for one in nodes:
        await one.broker.subscribe([ROOM])
    await asyncio.gather(*[one.broker.publish(ROOM, b"%d" % i) for i in range(60) for one in nodes])
    received = [await one.received_events() for one in nodes]
    assert received[0] == received[1] == received[2]
    assert [split(id)[1] for _, id, _ in received[0]] == list(range(1, 181))


async def test_publishes_of_one_node_stay_in_order(node: StartNode) -> None:
    """Publishes that begin one after the other without waiting are stored in that order."""
    a = await node()
    await asyncio.gather(*[a.broker.publish(ROOM, b"%d" % i) for i in range(5)])
    assert [event.payload for event in (await a.broker.history(ROOM)).events] == [b"0", b"1", b"2", b"3", b"4"]


async def test_every_key_expires(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
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
    node: StartNode, redis_server: RedisServer, redis_prefix: str
) -> None:
    """Events are stored for their TTL even if the room was read before they were published."""
    a = await node()
    first = await a.broker.publish(ROOM, b"first")
    await a.broker.history(ROOM)
    await age_state(redis_server, redis_prefix, HISTORY_TTL / 6)
    second = await a.broker.publish(ROOM, b"second")
    await age_state(redis_server, redis_prefix, HISTORY_TTL * 11 / 12)
    history = await a.broker.history(ROOM, first)
    assert (history.recovered, history.events) == (True, [Event(second, b"second")])


async def test_a_stream_that_was_evicted(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
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
    """A cancelled ``close`` still ends all connections and tasks."""
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


async def test_signals_reach_every_node(node: StartNode) -> None:
    """Every node receives each signal once, its own included, in one order."""
    nodes = [await node() for _ in range(3)]
    await asyncio.gather(*[one.broker.signal(b"%d" % i) for i, one in enumerate(nodes)])
    for one in nodes:
        await one.listener.until(lambda one=one: len(one.listener.signals) == 3)
    assert nodes[0].listener.signals == nodes[1].listener.signals == nodes[2].listener.signals


async def test_ping(node: StartNode) -> None:
    """A ping succeeds if commands, subscriptions and a message from the node to itself work."""
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


async def test_a_room_that_is_left_and_joined_repeatedly(node: StartNode) -> None:
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
    assert a.listener.events == []


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
                refusals.append(error.detail)
                await asyncio.sleep(0.01)
    assert not admitted
    assert any("Redis is back" in one for one in refusals)
    assert await b.broker.connections(1) == 2
    for harness in (a, b):
        await harness.broker.close()


async def test_a_node_that_starts_with_redis_waits_for_others(fresh_redis: FreshRedis) -> None:
    """A new node starts only after the nodes that used the server before have written their leases."""
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
        await wait_for_server(lambda: has_node(server), "the new node reaches the server")
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
