"""What a node hears: nothing that is said on its channels but by nodes counts, and no hole goes unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker_contract import OTHER, ROOM, Heard, House, split
from redis_servers import RedisServer, until

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.subscriptions import Subscription
from roomcast.broker.redis.urls import parse


@pytest.fixture
async def house(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[House]:
    """A house on the shared server, subscribed to ``ROOM``."""
    house = House(RedisBroker(parse(redis_server.url), prefix=redis_prefix), asyncio.sleep)
    await house.broker.start(house.heard)
    await house.broker.subscribe([ROOM])
    yield house
    await house.broker.close()


def feed_of(house: House) -> Subscription:
    """The feed of ``ROOM``."""
    assert isinstance(house.broker, RedisBroker)
    feed = house.broker._feeds.subscriptions.feed(ROOM)
    assert feed is not None
    return feed


async def say(server: RedisServer, prefix: str, message: bytes) -> None:
    """Publish something of our own making on the channel of ``ROOM``."""
    assert await server("PUBLISH", f"{{{prefix}:{ROOM}}}", message) == 1


async def is_whole(house: House) -> None:
    """Wait until nothing of ``ROOM`` is being mended."""

    async def nothing_held() -> bool:
        return feed_of(house).held is None

    await until(nothing_held, "the room is mended")


@pytest.mark.parametrize("begun", [False, True])
async def test_strange_messages(
    house: House, redis_server: RedisServer, redis_prefix: str, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What no node would say is passed over, said to the log once, and costs no connection."""
    before = await house.fill(2) if begun else []
    opened = (await redis_server.info("stats"))["total_connections_received"]
    for message in (b"", b"hello", b"hello 1\nx", b"1", b"\xff 1\nx", b'{"type": "x"}', b"1 two\nx", b"1 1 x y\nab"):
        await say(redis_server, redis_prefix, message)
    opened += 8  # each was said over a connection of its own
    ids = await house.fill(3)
    heard = await house.heard_up_to_now()
    assert [id for _, id, _ in heard if split(id)[0] == split(ids[0])[0]] == [*before, *ids]
    assert sum("who else publishes" in record.message for record in caplog.records) == 1
    assert (await redis_server.info("stats"))["total_connections_received"] == opened + 1


@pytest.mark.parametrize("head", [b"%d 1000", b"%d999 1", b"%d999 1000"])
async def test_an_announcement_of_what_is_not_stored(
    house: House, redis_server: RedisServer, redis_prefix: str, head: bytes
) -> None:
    """What somebody announces far ahead, or in an epoch to come, is looked up once, and heard of no more."""
    ids = await house.fill(2)
    await say(redis_server, redis_prefix, head % int(split(ids[0])[0]) + b"\nforged")
    await house.heard_up_to_now()
    await is_whole(house)
    ids += await house.fill(2)
    assert [id for _, id, _ in await house.heard_up_to_now()] == ids
    assert house.heard.resyncs == []


async def test_an_older_state(house: House, redis_server: RedisServer, redis_prefix: str) -> None:
    """Members are told when Redis went back to where it was, and hear what comes after, though its ids came before."""
    tag = f"{{{redis_prefix}:{ROOM}}}"
    await house.fill(2)
    async with redis_server.client(decode_responses=False) as client:
        dumps = {key: await client.dump(f"{tag}:{key}") for key in "ms"}
        await house.fill(3)
        await house.heard_up_to_now()
        for key, dump in dumps.items():
            await client.restore(f"{tag}:{key}", 600_000, dump, replace=True)
    assert isinstance(house.broker, RedisBroker)
    house.broker._feeds._look(feed_of(house))
    await house.heard.until(lambda: bool(house.heard.resyncs))
    ((room, last_id),) = house.heard.resyncs
    assert (room, split(last_id)[1]) == (ROOM, 2)
    await is_whole(house)
    house.heard.events.clear()
    ids = await house.fill(1)
    assert [id for _, id, _ in await house.heard_up_to_now()] == ids


class _Clumsy(Heard):
    """A listener that fails at some events."""

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Fail at b"1", as one that cannot read it."""
        super().on_event(room, id, payload)
        if payload == b"1":
            raise ValueError("not this one")


async def test_a_listener_that_fails(redis_server: RedisServer, redis_prefix: str) -> None:
    """An event that cannot be delivered keeps none of the others back, live or fetched."""
    house = House(RedisBroker(parse(redis_server.url), prefix=redis_prefix), asyncio.sleep, _Clumsy())
    await house.broker.start(house.heard)
    await house.broker.subscribe([ROOM])
    ids = await asyncio.gather(*[house.broker.publish(ROOM, b"%d" % i) for i in range(3)])
    await house.heard_up_to_now()
    feed = feed_of(house)
    feed.last = 0  # as if nothing had come
    ids += await house.fill(1)
    try:
        await house.heard.until(lambda: house.heard.events[-1][1] == ids[-1])
        assert [id for room, id, _ in house.heard.events if room == ROOM] == [*ids[:3], *ids]
    finally:
        await house.broker.close()


async def test_a_reading_that_fails(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole is mended at last, also when what was read for it could not be understood at first."""
    assert isinstance(house.broker, RedisBroker)
    feeds = house.broker._feeds
    await house.fill(2)
    await house.heard_up_to_now()
    failed = asyncio.Event()
    read = feeds._read

    async def misread(room: str, *rest: Any) -> Any:
        if room == ROOM and not failed.is_set():
            failed.set()
            raise ValueError("no number")
        return await read(room, *rest)

    monkeypatch.setattr(feeds, "_read", misread)
    feed_of(house).last = 1  # as if the second had not come
    third = await house.broker.publish(ROOM, b"third")
    await failed.wait()
    await house.broker.publish(OTHER, b"elsewhere")
    await house.heard.until(lambda: house.heard.events[-1][1:] == (third, b"third"))
    assert [payload for _, _, payload in house.heard.events if payload != b""] == [b"0", b"1", b"1", b"third"]
