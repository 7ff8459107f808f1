"""Broadcasts on Redis: between nodes, without keys, with messages that others send, and while Redis is slow or gone."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from broker_contract import OTHER, ROOM, Harness
from redis_groups import Cluster, SentinelTrio
from redis_nodes import StartNode, broker_for, redis_broker, send, two_nodes
from redis_servers import RedisServer

from roomcast.broker.redis import broadcaster
from roomcast.broker.redis.subscriptions import Subscription
from roomcast.errors import Unavailable


async def dump(server: RedisServer) -> dict[str, str]:
    """Return all keys of a server with the hashes of their values, at one time."""
    script = """
        local found = {}
        for _, key in ipairs(redis.call('KEYS', '*')) do
          found[#found + 1] = key
          found[#found + 1] = redis.sha1hex(redis.call('DUMP', key))
        end
        return found
    """
    found = await server("EVAL", script, 0)
    return dict(zip(found[::2], found[1::2], strict=True))


async def broadcasts_received(harness: Harness, count: int) -> list[bytes]:
    """Return the payloads of ROOM when ``count`` have arrived, and everything that was sent before now."""
    listener = harness.listener
    await listener.until(lambda: len(listener.broadcasts) >= count)
    await harness.received_events()
    return [payload for room, payload in listener.broadcasts if room == ROOM]


@pytest.mark.parametrize("kind", ["single server", "cluster"])
async def test_broadcasts_of_all_nodes(kind: str, redis_server: RedisServer, redis_cluster: Cluster) -> None:
    """Two nodes receive the broadcasts of both, each node's in order."""
    async with two_nodes(redis_server.url if kind == "single server" else redis_cluster.url) as nodes:
        for node in nodes:
            await node.broker.subscribe([ROOM])
        for number in range(50):
            for name, node in zip(b"ab", nodes, strict=True):
                node.broker.broadcast(ROOM, b"%c%d" % (name, number))
            await asyncio.sleep(0)
        for node in nodes:
            received = await broadcasts_received(node, 100)
            assert len(received) == 100
            for name in b"ab":
                assert [one for one in received if one[0] == name] == [b"%c%d" % (name, i) for i in range(50)]


async def test_broadcasts_use_no_key(redis_server: RedisServer) -> None:
    """Broadcasts change no key of the server."""
    async with two_nodes(redis_server.url) as (publisher, receiver):
        await receiver.broker.subscribe([ROOM])
        await publisher.fill(2)
        before = await dump(redis_server)
        for _ in range(20):
            publisher.broker.broadcast(ROOM, b"live")
            publisher.broker.broadcast(OTHER, b"live")
        await receiver.listener.until(lambda: len(receiver.listener.broadcasts) == 20)
        after = await dump(redis_server)
        assert after.keys() <= before.keys()  # keys of earlier tests may expire
        assert after.items() <= before.items()


async def test_one_message_for_each_room_and_loop_iteration(redis_server: RedisServer) -> None:
    """The broadcasts of a loop iteration are one message for each room, written at once."""
    async with two_nodes(redis_server.url) as (publisher, receiver):
        await receiver.broker.subscribe([ROOM, OTHER])
        before = int((await redis_server("INFO", "commandstats"))["cmdstat_publish"]["calls"])
        for number in range(100):
            publisher.broker.broadcast(ROOM, b"%d" % number)
            publisher.broker.broadcast(OTHER, b"%d" % number)
        await receiver.listener.until(lambda: len(receiver.listener.broadcasts) == 200)
        assert int((await redis_server("INFO", "commandstats"))["cmdstat_publish"]["calls"]) == before + 2


async def test_forged_changed_and_repeated_broadcasts(redis_server: RedisServer) -> None:
    """Messages that no node has sent, that were changed, or that are sent again are not delivered."""
    async with two_nodes(redis_server.url) as (publisher, receiver):
        broker = redis_broker(receiver)
        sent: list[bytes] = []
        receive = broker._receiver.on_message

        def record(subscription: object, message: bytes) -> None:
            if message.startswith(b"="):
                sent.append(message)
            receive(subscription, message)  # type: ignore[arg-type]

        broker._receiver.subscriptions._on_message = record  # type: ignore[misc, assignment]
        await receiver.broker.subscribe([ROOM])
        for number in range(3):
            publisher.broker.broadcast(ROOM, b"live %d" % number)
            await receiver.listener.until(lambda: len(receiver.listener.broadcasts) == len(sent) > 0)
        original = list(sent)
        channel = broker._keys.channel(ROOM)
        for message in original:
            head, _, body = message.partition(b"\n")
            words = head.split(b" ")
            words[1] = b"1000"
            forgeries = [
                message,
                message.replace(b"live", b"evil"),
                b" ".join(words) + b"\n" + body,
                b"=x 1 0 4\nevil" + b"0" * 16,
                message[:-16],
                b"=",
                b"=\n" + b"0" * 16,
                head,
            ]
            for forged in forgeries:
                await send(broker, channel, forged)
        publisher.broker.broadcast(ROOM, b"last")
        assert (await broadcasts_received(receiver, 4)) == [b"live 0", b"live 1", b"live 2", b"last"]
        await receiver.broker.ping()


async def test_a_changed_payload_with_a_valid_signature(redis_server: RedisServer) -> None:
    """The signature covers the payloads, because the signed line contains their digest."""
    async with two_nodes(redis_server.url) as (publisher, receiver):
        await receiver.broker.subscribe([ROOM])
        publisher.broker.broadcast(ROOM, b"live")
        await broadcasts_received(receiver, 1)
        broker = redis_broker(publisher)
        channel = broker._keys.channel(ROOM)
        message = broker._broadcaster._message(broker._router.connection(channel), channel, [b"some", b"more"])
        await send(broker, channel, message.replace(b"some", b"evil"))
        publisher.broker.broadcast(ROOM, b"last")
        assert await broadcasts_received(receiver, 2) == [b"live", b"last"]


async def test_broadcasts_are_not_held_back_by_a_gap(node: StartNode) -> None:
    """While a gap is repaired, broadcasts are delivered."""
    a = await node()
    await a.broker.subscribe([ROOM])
    broker = redis_broker(a)
    subscription = broker._receiver.subscriptions.get(ROOM)
    assert subscription is not None
    subscription.pending = []
    a.broker.broadcast(ROOM, b"live")
    await a.listener.until(lambda: a.listener.broadcasts == [(ROOM, b"live")])
    assert subscription.pending == []


async def test_a_flood_is_bounded_and_does_not_delay_events(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood waits with a limit, is dropped and counted above it, and at most MAX_IN_FLIGHT bytes precede an event."""
    monkeypatch.setattr(broadcaster, "MAX_WAITING", 100_000)
    monkeypatch.setattr(broadcaster, "MAX_IN_FLIGHT", 20_000)
    async with two_nodes(redis_server.url) as (publisher, receiver):
        await receiver.broker.subscribe([ROOM, OTHER])
        live = redis_broker(publisher)._broadcaster
        for number in range(1000):
            publisher.broker.broadcast(ROOM if number % 2 else f"channel:x{number}", b"%1000d" % number)
        assert live.dropped == 900
        assert live._waiting_bytes == 100_000
        await publisher.broker.publish(OTHER, b"event")
        await receiver.listener.until(lambda: len(receiver.listener.broadcasts) == 50)
        while live._waiting:
            await asyncio.sleep(0.01)
        assert live._waiting_bytes == 0
        assert live.dropped == 900
        await publisher.broker.ping()
        assert not any(live._in_flight.values())


async def test_redis_is_gone(node: StartNode) -> None:
    """Without a connection, ``broadcast`` raises Unavailable, and what was waiting is dropped and counted."""
    a = await node()
    broker = redis_broker(a)
    a.broker.broadcast(ROOM, b"lost")
    broker._router.connection("x").abort("a test has dropped it")
    while broker._router.connections():
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="a test has dropped it"):
        a.broker.broadcast(ROOM, b"refused")
    await asyncio.sleep(0)
    assert not broker._broadcaster._waiting


async def test_a_node_forgets_rooms_that_it_leaves(node: StartNode) -> None:
    """The numbers of the nodes are kept for subscribed rooms with broadcasts only."""
    a = await node()
    received = redis_broker(a)._receiver._broadcasts
    await a.broker.subscribe([ROOM, OTHER])
    a.broker.broadcast(ROOM, b"live")
    await broadcasts_received(a, 1)
    assert len(received._numbers) == 1
    await a.broker.unsubscribe([ROOM])
    assert not received._numbers


async def test_broadcasts_after_a_reconnect(redis_server: RedisServer) -> None:
    """After both connections were lost and made again, broadcasts arrive."""
    broker = broker_for(redis_server.url, "broadcast-again")
    harness = Harness(broker, asyncio.sleep)
    await broker.start(harness.listener)
    try:
        await broker.subscribe([ROOM])
        broker.broadcast(ROOM, b"1")
        await broadcasts_received(harness, 1)
        await redis_server("CLIENT", "KILL", "TYPE", "PUBSUB")
        broker._router.connection("x").abort("a test has dropped it")
        await harness.received_events()
        broker.broadcast(ROOM, b"2")
        assert await broadcasts_received(harness, 2) == [b"1", b"2"]
    finally:
        await broker.close()


async def test_broadcasts_after_a_failover(start_node: StartNode, sentinel_trio: SentinelTrio) -> None:
    """After Sentinel has exchanged the primary and its replica twice, broadcasts reach other nodes again."""
    publisher, receiver = await start_node(sentinel_trio.url), await start_node(sentinel_trio.url)
    await receiver.broker.subscribe([ROOM])
    publisher.broker.broadcast(ROOM, b"before")
    assert await broadcasts_received(receiver, 1) == [b"before"]
    for payload in (b"first", b"second"):
        await sentinel_trio.switch()
        async with asyncio.timeout(20):
            while (ROOM, payload) not in receiver.listener.broadcasts:
                with contextlib.suppress(Unavailable):
                    publisher.broker.broadcast(ROOM, payload)
                await asyncio.sleep(0.02)


def test_the_numbers_of_many_nodes_are_bounded() -> None:
    """The oldest of many nodes is forgotten."""
    received = broadcaster.ReceivedBroadcasts()
    subscription = Subscription(ROOM)
    digest = broadcaster._digest(b"x").encode()
    for node in range(broadcaster.MAX_NODES + 10):
        assert received.accept(subscription, b"=%d 1 %b 1" % (node, digest), b"x") == (b"x",)
        assert received.accept(subscription, b"=%d 1 %b 1" % (node, digest), b"x") == ()
    assert len(received._numbers[subscription]) == broadcaster.MAX_NODES
