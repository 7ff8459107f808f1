"""The broker on Redis: the contract, on one server and on a Cluster, and what several nodes promise each other."""

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
    """Move what ``server`` keeps ``seconds`` into the past: what expires, and when events happened.

    What living nodes renew all the time stays as it is: leases, presence, and rooms that somebody is subscribed to.
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
    """A broker with the contract's bounds."""
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


class TestOnOneServer(BrokerContract):
    """The contract on one server."""


@pytest.fixture
async def node(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Node]:
    """``await node()`` starts one more node on the shared server."""

    async def pass_time(seconds: float) -> None:
        await travel(redis_server, redis_prefix, seconds)

    async with AsyncExitStack() as stack:

        async def start(**options: float) -> Harness:
            harness = Harness(broker_for(redis_server.url, redis_prefix, **options), pass_time)
            await harness.broker.start(harness.listener)
            stack.push_async_callback(harness.broker.close)
            return harness

        yield start


async def test_an_event_reaches_the_nodes_that_want_it(node: Node) -> None:
    """A subscribed node hears what another publishes, in order; one without members there hears nothing."""
    a, b, c = await node(), await node(), await node()
    await b.broker.subscribe([ROOM])
    await c.broker.subscribe([OTHER])
    ids = await a.fill(5)
    received = await b.received_events()
    assert received == [(ROOM, id, b"%d" % i) for i, id in enumerate(ids)]
    assert await c.received_events() == []
    assert await a.received_events() == []


async def test_all_nodes_see_one_order(node: Node) -> None:
    """What three nodes publish at once in a room is heard by all in the order of its offsets."""
    nodes = [await node() for _ in range(3)]
    for one in nodes:
        await one.broker.subscribe([ROOM])
    await asyncio.gather(*[one.broker.publish(ROOM, b"%d" % i) for i in range(60) for one in nodes])
    received = [await one.received_events() for one in nodes]
    assert received[0] == received[1] == received[2]
    assert [split(id)[1] for _, id, _ in received[0]] == list(range(1, 181))


async def test_what_one_publishes_in_a_row_stays_in_order(node: Node) -> None:
    """Publishes that are begun one after the other without waiting are stored in that order, batches or not."""
    a = await node()
    await asyncio.gather(*[a.broker.publish(ROOM, b"%d" % i) for i in range(5)])
    assert [event.payload for event in (await a.broker.history(ROOM)).events] == [b"0", b"1", b"2", b"3", b"4"]


async def test_history_is_in_step_with_what_is_heard(node: Node) -> None:
    """Whoever reads the history of a subscribed room in the midst of publishing has every event once."""
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


async def test_a_client_ahead_of_its_new_node_hears_nothing_twice(node: Node, redis_server: RedisServer) -> None:
    """History asked for since an event that this node has not heard of yet waits until it has."""
    a, b = await node(), await node()
    await b.broker.subscribe([ROOM])
    ids = await a.fill(4)
    history = await b.broker.history(ROOM, ids[3])
    assert (history.recovered, list(history.events), history.last_id) == (True, [], ids[3])
    assert [id for _, id, _ in b.listener.events] == ids


async def test_a_hole_is_mended_before_anything_else_is_told(node: Node, redis_server: RedisServer) -> None:
    """Events whose announcement was lost are fetched from the stream when a later one shows that they are missing."""
    a, b = await node(), await node()
    await b.broker.subscribe([ROOM])
    ids = await a.fill(2)
    await b.listener.until(lambda: len(b.listener.events) == 2)
    # As after a message that Redis dropped: what is stored, is not announced.
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
    """The last announcement of a room may be lost: it is found all the same."""
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


async def test_a_lost_history_is_told(node: Node, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of a room whose keys are gone hear resync, with the place where the room stands now."""
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
    """Nothing stays in Redis for ever."""
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


async def test_a_look_shortens_no_life(node: Node, redis_server: RedisServer, redis_prefix: str) -> None:
    """Events are kept for their time also when somebody looked at the room before they came."""
    a = await node()
    first = await a.broker.publish(ROOM, b"first")
    await a.broker.history(ROOM)
    await travel(redis_server, redis_prefix, HISTORY_TTL / 6)
    second = await a.broker.publish(ROOM, b"second")
    await travel(redis_server, redis_prefix, HISTORY_TTL * 11 / 12)
    history = await a.broker.history(ROOM, first)
    assert (history.recovered, history.events) == (True, [Event(second, b"second")])


async def test_a_stream_that_was_evicted(node: Node, redis_server: RedisServer, redis_prefix: str) -> None:
    """A stream that begins anew in a room that goes on has an end like any other; the room's ids go on."""
    a = await node()
    first = await a.broker.publish(ROOM, b"first")
    stream = f"{{{redis_prefix}:{ROOM}}}:s"
    await redis_server("DEL", stream)
    ids = await asyncio.gather(*[a.broker.publish(ROOM, b"%d" % i) for i in range(3)])
    assert await redis_server("PTTL", stream) > 0
    assert [split(id) for id in ids] == [(split(first)[0], offset) for offset in (2, 3, 4)]
    assert [event.id for event in (await a.broker.history(ROOM, first)).events] == ids


async def test_a_close_that_is_cut_off(redis_server: RedisServer, redis_prefix: str) -> None:
    """A broker whose closing is cancelled lets go of its connections all the same."""
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


async def test_a_signal_reaches_every_node(node: Node) -> None:
    """A signal is heard once by each node, its sender included, in one order."""
    nodes = [await node() for _ in range(3)]
    await asyncio.gather(*[one.broker.signal(b"%d" % i) for i, one in enumerate(nodes)])
    for one in nodes:
        await one.listener.until(lambda one=one: len(one.listener.signals) == 3)
    assert nodes[0].listener.signals == nodes[1].listener.signals == nodes[2].listener.signals


async def test_a_ping_goes_through_redis_and_back(node: Node) -> None:
    """The proof that all is well needs commands, subscriptions and the message's way back."""
    a = await node()
    await a.broker.ping()
    await asyncio.gather(*[a.broker.ping() for _ in range(5)])


async def test_keys_of_two_prefixes_do_not_meet(redis_server: RedisServer, redis_prefix: str) -> None:
    """Two roomcasts with different prefixes share a server and nothing else."""
    one, two = (Harness(broker_for(redis_server.url, redis_prefix + end), asyncio.sleep) for end in "ab")
    for harness in (one, two):
        await harness.broker.start(harness.listener)
        await harness.broker.subscribe([ROOM])
    await one.fill(2)
    assert await two.received_events() == []
    assert (await two.broker.history(ROOM)).events == []
    for harness in (one, two):
        await harness.broker.close()


async def test_a_room_is_joined_and_left_in_haste(node: Node) -> None:
    """Whatever order leaves and joins of a room come in, a node that is subscribed in the end hears what comes."""
    a, b = await node(), await node()

    async def flutter() -> None:
        for _ in range(30):
            await b.broker.subscribe([ROOM])
            await b.broker.unsubscribe([ROOM])

    await flutter()
    await b.broker.subscribe([ROOM])
    id = await a.broker.publish(ROOM, b"x")
    assert await b.received_events() == [(ROOM, id, b"x")]
    listener = RecordingListener()
    assert listener.events == []


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


@pytest.mark.parametrize("harm", ["killed", "stopped"])
async def test_a_redis_that_lost_its_leases_admits_nobody_at_once(fresh_redis: FreshRedis, harm: str) -> None:
    """After a restart without its data, or a lease of silence, admissions wait until all nodes say what they hold."""
    server = await fresh_redis()
    a, b = (Harness(broker_for(server.url, "anew", lease=1.2, timeout=0.3), asyncio.sleep) for _ in range(2))
    for harness in (a, b):
        await harness.broker.start(harness.listener)
    assert await a.broker.admit(1, 1, 2)
    assert await a.broker.admit(1, 2, 2)
    if harm == "killed":
        server.kill()
        await server.start()
    else:
        server.pause()
        await asyncio.sleep(1.5)  # the leases end meanwhile
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


async def test_a_node_that_starts_with_its_redis_lets_the_others_speak_first(fresh_redis: FreshRedis) -> None:
    """It has started when those that knew the server before, and come back later, have said again what they hold."""
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
        await until(lambda: is_known_to(server), "the new node reaches the server")
        await asyncio.wait([starting], timeout=0.2)  # it would have started meanwhile if it did not wait for the other
        await proxy.start()
        await starting
        assert not await c.broker.admit(1, 3, 2)
        assert await c.broker.connections(1) == 2
        for harness in (a, c):
            await harness.broker.close()


async def is_known_to(server: RedisServer) -> bool:
    """Whether a node is connected."""
    return "name=roomcast" in str(await server("CLIENT", "LIST"))
