"""The publisher: batches, order, and repeats after a broken connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from broker_contract import OTHER, ROOM, Harness, split
from redis_servers import FreshRedis, RedisServer
from tcp_proxy import Proxy

from roomcast.broker.base import Publication
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.errors import BrokerUnavailable, Unavailable


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy in front of the shared server."""
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def harness(proxy: Proxy, redis_prefix: str) -> AsyncIterator[Harness]:
    """A harness whose broker connects through ``proxy``."""
    target = parse(f"redis://127.0.0.1:{proxy.port}")
    harness = Harness(
        RedisBroker(target, RedisOptions(prefix=redis_prefix, wait=30, timeout=20, history_size=2000)), asyncio.sleep
    )
    await harness.broker.start(harness.listener)
    yield harness
    await harness.broker.close()


async def offsets(harness: Harness, room: str = ROOM) -> list[int]:
    """Return the offsets in the history of ``room``."""
    return [split(event.id)[1] for event in (await harness.broker.history(room)).events]


async def test_queued_events_are_sent_in_batches(harness: Harness, redis_server: RedisServer) -> None:
    """Of many concurrent publishes in one room, the later ones are sent in few batches, in order."""
    await harness.broker.subscribe([ROOM])
    before = (await redis_server.info("commandstats"))["cmdstat_evalsha"]["calls"]
    ids = await asyncio.gather(*[harness.broker.publish(ROOM, b"%d" % i) for i in range(1000)])
    calls = (await redis_server.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
    assert [split(id)[1] for id in ids] == list(range(1, 1001))
    assert [payload for _, _, payload in await harness.received_events()] == [b"%d" % i for i in range(1000)]
    assert calls < 50


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_lost_reply_does_not_publish_twice(
    harness: Harness, proxy: Proxy, redis_server: RedisServer, key: str | None
) -> None:
    """A batch that was executed, but whose reply was lost, is sent again and not stored again."""
    await harness.broker.subscribe([ROOM])
    await harness.fill(3)
    proxy.stall(to_server=False, to_client=True)
    sent = proxy.sent
    publishing = asyncio.gather(*[harness.broker.publish(ROOM, b"p%d" % i, key and f"{key}{i}") for i in range(3)])
    async with asyncio.timeout(10):
        while proxy.sent == sent or await _stream_length(harness, redis_server) < 6:
            await asyncio.sleep(0.01)
    proxy.reset()
    proxy.flow()
    ids = await publishing
    assert [split(id)[1] for id in ids] == [4, 5, 6]
    assert await offsets(harness) == [1, 2, 3, 4, 5, 6]
    assert [split(id)[1] for _, id, _ in await harness.received_events()] == [1, 2, 3, 4, 5, 6]


async def _stream_length(harness: Harness, server: RedisServer) -> int:
    """Return the number of events in the stream, bypassing the proxy."""
    return int(await server("XLEN", harness.broker._keys.stream(ROOM)))  # type: ignore[attr-defined]


async def test_publish_many_with_a_lost_reply(harness: Harness, proxy: Proxy, redis_server: RedisServer) -> None:
    """After a broken connection a list for two rooms is sent again, and stored once in each."""
    await harness.fill(1)
    many = [Publication(ROOM, b"a"), Publication(OTHER, b"b"), Publication(ROOM, b"c", "k")]
    proxy.stall(to_server=False, to_client=True)
    publishing = asyncio.ensure_future(harness.broker.publish_many(many))
    async with asyncio.timeout(10):
        while await _stream_length(harness, redis_server) < 3:
            await asyncio.sleep(0.01)
    proxy.reset()
    proxy.flow()
    assert [split(id)[1] for id in await publishing] == [2, 1, 3]
    assert (await offsets(harness), await offsets(harness, OTHER)) == ([1, 2, 3], [1])


async def test_a_cancelled_publish_is_not_stored(fresh_redis: FreshRedis) -> None:
    """An event whose publish was cancelled during an outage is not stored; the others keep their order."""
    server = await fresh_redis()
    harness = Harness(RedisBroker(parse(server.url), RedisOptions(wait=30, timeout=1)), asyncio.sleep)
    await harness.broker.start(harness.listener)
    server.kill()
    tasks = [asyncio.ensure_future(harness.broker.publish(ROOM, b"%d" % i)) for i in range(6)]
    await asyncio.sleep(0.05)
    waiting = [asyncio.ensure_future(harness.broker.publish(ROOM, b"w%d" % i)) for i in range(4)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await server.start()
    await asyncio.gather(*tasks, *waiting, return_exceptions=True)
    payloads = [event.payload for event in (await harness.broker.history(ROOM)).events]
    assert payloads == [b"0", b"1", b"2", b"3", b"4", b"5", b"w0", b"w2", b"w3"]
    await harness.broker.close()


async def test_publish_fails_after_the_wait(fresh_redis: FreshRedis) -> None:
    """A publish fails with a sentence if Redis is unreachable for longer than ``wait``."""
    server = await fresh_redis()
    harness = Harness(RedisBroker(parse(server.url), RedisOptions(wait=0.3, timeout=1)), asyncio.sleep)
    await harness.broker.start(harness.listener)
    server.kill()
    with pytest.raises(Unavailable, match=f"Redis at {server.address} cannot be reached"):
        await harness.broker.publish(ROOM, b"x")
    await harness.broker.close()


async def test_queued_events_are_limited(fresh_redis: FreshRedis) -> None:
    """While Redis is unreachable, events beyond the buffer fail at once."""
    server = await fresh_redis()
    harness = Harness(RedisBroker(parse(server.url), RedisOptions(wait=30, timeout=5, buffer=20_000)), asyncio.sleep)
    await harness.broker.start(harness.listener)
    server.pause()
    tasks = [asyncio.ensure_future(harness.broker.publish(ROOM, b"x" * 1000)) for _ in range(50)]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    assert (len(done), len(waiting)) == (30, 20)
    errors = [one.exception() for one in done]
    assert all(isinstance(error, BrokerUnavailable) and "REDIS_BUFFER" in error.detail for error in errors)
    server.resume()
    assert [split(await one)[1] for one in tasks if one in waiting] == list(range(1, 21))
    assert split(await harness.broker.publish(ROOM, b"x" * 1000))[1] == 21
    await harness.broker.close()


async def test_a_key_that_cannot_be_encoded(harness: Harness) -> None:
    """A key that cannot be encoded fails its own publish, not the others of its batch."""
    good, bad = await asyncio.gather(
        harness.broker.publish(ROOM, b"good"), harness.broker.publish(ROOM, b"bad", "\ud800"), return_exceptions=True
    )
    assert isinstance(bad, UnicodeEncodeError)
    assert [event.id for event in (await harness.broker.history(ROOM)).events] == [good]
    assert isinstance(harness.broker, RedisBroker)
    assert harness.broker._router.buffered == 0


async def test_close_fails_waiting_publishes(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """When the broker is closed, every waiting publish fails, including those behind a batch in flight."""
    server = await fresh_redis()
    broker = RedisBroker(parse(server.url), RedisOptions(prefix=redis_prefix, wait=30))
    harness = Harness(broker, asyncio.sleep)
    await broker.start(harness.listener)
    server.pause()
    waiting = []
    for number in range(3):
        waiting.append(asyncio.create_task(broker.publish(ROOM, b"%d" % number)))
        await asyncio.sleep(0.01)
    server.kill()
    await broker.close()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [BrokerUnavailable] * 3
    assert broker._router.buffered == 0
