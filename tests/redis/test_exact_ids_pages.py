"""History that is read page by page: no event is missing, repeated or out of order, whatever happens between pages."""

from __future__ import annotations

import asyncio
import random

import pytest
from broker_contract import ROOM, Harness, split
from gateway_tools import offset
from redis_nodes import StartNode, until_connected
from redis_servers import FreshRedis, RedisServer
from serving import Serve, connect
from waiting import wait_until

from roomcast.broker.base import PAGE_EVENT_OVERHEAD
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.stream import MAX_READING
from roomcast.broker.redis.urls import parse
from roomcast.errors import TOO_SLOW

#: More than the tests publish.
SIZE = 500


@pytest.fixture
async def server(fresh_redis: FreshRedis) -> RedisServer:
    """A server that writes all data to its append-only file before it acknowledges it."""
    return await fresh_redis(appendonly="yes", appendfsync="always")


async def read_rest(node: Harness, since: str, max_bytes: int) -> tuple[list[str], bool]:
    """Read all pages after ``since``; return the ids, and False if events are gone."""
    ids: list[str] = []
    cursor: str | None = since
    while cursor is not None:
        page = await node.broker.history(ROOM, cursor, max_bytes=max_bytes)
        if not page.recovered:
            return ids, False
        ids += [event.id for event in page.events]
        cursor = page.cursor
    return ids, True


async def test_pages_end_with_the_last_received_event(node: StartNode) -> None:
    """While others publish, the pages together have exactly the events that the listener has received."""
    a, b = await node(history_size=SIZE, history_bytes=2**26), await node(history_size=SIZE, history_bytes=2**26)
    await b.broker.subscribe([ROOM])
    first = await a.broker.publish(ROOM, b"first")
    chance = random.Random(7)

    async def publish() -> None:
        for _ in range(100):
            await a.broker.publish(ROOM, bytes(chance.randrange(2000)))

    publishing = asyncio.gather(*[publish() for _ in range(4)])
    reads = 0
    while not publishing.done():
        ids, recovered = await read_rest(b, first, chance.choice((1, 1000, 5000, 20_000)))
        assert recovered
        assert ids == [id for _, id, _ in b.listener.events[1:]]
        reads += 1
    assert reads > 1
    ids, _ = await read_rest(b, first, 3000)
    assert [split(id)[1] for id in ids] == list(range(2, 402))


async def test_a_restart_between_pages(server: RedisServer, start_node: StartNode) -> None:
    """If nothing is lost, the pages go on in the next epoch."""
    a, b = await start_node(server.url, history_size=SIZE), await start_node(server.url, history_size=SIZE)
    await b.broker.subscribe([ROOM])
    start = (await a.broker.history(ROOM)).last_id
    ids = await a.fill(5)
    for node in (a, b):
        page = await node.broker.history(ROOM, start, 2)
        assert page.cursor == ids[1]
    server.kill()
    await server.start()
    await until_connected(server, a, b)
    ids += await a.fill(4)
    for node in (a, b):
        assert await read_rest(node, ids[1], 2 * PAGE_EVENT_OVERHEAD) == (ids[2:], True)
        assert node.listener.resyncs == []


async def test_a_loss_between_pages(server: RedisServer, start_node: StartNode) -> None:
    """If Redis loses events after a page was read, the next page says so, even if its own events are stored."""
    a, b = await start_node(server.url, history_size=SIZE), await start_node(server.url, history_size=SIZE)
    await b.broker.subscribe([ROOM])
    ids = await a.fill(5)
    copy = await server.copy_data()
    ids += await a.fill(2)
    await b.listener.until(lambda: len(b.listener.events) == 7)
    for node in (a, b):
        assert (await node.broker.history(ROOM, ids[0], 2)).cursor == ids[2]
    server.kill()
    server.lose_data(copy)
    await server.start()
    await until_connected(server, a, b)
    for node in (a, b):  # they wait for the reports of all nodes
        page = await node.broker.history(ROOM, ids[2], 2)
        assert (list(page.events), page.recovered) == ([], False)
    await b.listener.until(lambda: bool(b.listener.resyncs))
    new = await a.fill(3)
    for node in (a, b):
        assert not (await node.broker.history(ROOM, ids[4], 2)).recovered
        assert await read_rest(node, b.listener.resyncs[-1][1], PAGE_EVENT_OVERHEAD) == (new, True)
        # Reading backward needs no position: these are the events that are stored.
        page = await node.broker.history(ROOM, limit=4, before=new[1])
        assert [event.id for event in page.events] == [*ids[2:5], new[0]]


@pytest.mark.slow
async def test_resumes_in_pages_during_publishes(serve: Serve, redis_server: RedisServer, redis_prefix: str) -> None:
    """A client that leaves and resumes repeatedly gets each event once, in order, from another node's publisher."""
    options = RedisOptions(prefix=redis_prefix, history_size=20_000, history_bytes=2**26)
    brokers = [RedisBroker(parse(redis_server.url), options) for _ in range(2)]
    limits = {"ws_max_buffer": 4000, "ws_max_message_size": 4000, "ws_message_rate": 0, "announce_max": 0}
    publisher, server = [await serve(broker=broker, **limits) for broker in brokers]
    sent = 0

    async def publish(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            await publisher.gateway.publishing.publish("task.deleted", ROOM, {"task_id": sent}, None, None)

    async def keep_publishing() -> None:
        while True:
            await publish(3)
            await asyncio.sleep(0.02)

    publishing = asyncio.create_task(keep_publishing())
    received: list[int] = []
    since = ""
    for round in range(15):
        async with connect(server) as alice:
            joined = await alice.join(ROOM, since=since)
            assert joined["data"]["recovered"] is (round > 0)
            end = offset(joined["data"]["last_id"]) + round % 5 + 1
            while not since or offset(since) < end:
                event = await alice.recv_type("task.deleted")
                received.append(event["data"]["task_id"])
                since = event["id"]
            alice.socket.transport.abort()
        await publish(60)
    publishing.cancel()
    await asyncio.wait([publishing])
    assert received == list(range(received[0], received[0] + len(received)))
    assert len(received) > 15 * 60


async def test_a_resume_that_is_cut_off(serve: Serve, redis_server: RedisServer, redis_prefix: str) -> None:
    """A client that does not read its pages is closed when the command times out, and nothing of it remains."""
    broker = RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix, history_bytes=2**26))
    server = await serve(broker=broker, announce_max=0, handler_timeout=0.3)
    first = await broker.publish(ROOM, b'{"type":"x"}')
    for _ in range(200):
        await broker.publish(ROOM, b'{"type":"x","data":"%b"}' % (b"x" * 60_000))
    async with connect(server) as alice:
        alice.socket.transport.pause_reading()
        await alice.send("join_room", ROOM, {"since": first})
        client = next(iter(server.gateway.keepalive.connections))
        await wait_until(lambda: client.end is not None)
        assert client.end == TOO_SLOW
        alice.socket.transport.abort()
        await wait_until(lambda: not broker._receiver.subscriptions.get(ROOM))
        assert broker._receiver.history.recordings == {}
        assert [slots._value for slots in broker._receiver._stream._slots.values()] == [MAX_READING]
    async with connect(server) as alice:
        assert (await alice.join(ROOM, since=first))["data"]["recovered"] is True
        assert [offset((await alice.recv())["id"]) for _ in range(200)] == list(range(2, 202))
