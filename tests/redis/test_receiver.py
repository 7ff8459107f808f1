"""Receiving events: invalid messages are skipped, and gaps are repaired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker_contract import OTHER, ROOM, Harness, RecordingListener, split
from redis_servers import RedisServer, until

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.subscriptions import Subscription
from roomcast.broker.redis.urls import parse


@pytest.fixture
async def harness(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Harness]:
    """A harness on the shared server, subscribed to ``ROOM``."""
    harness = Harness(RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix)), asyncio.sleep)
    await harness.broker.start(harness.listener)
    await harness.broker.subscribe([ROOM])
    yield harness
    await harness.broker.close()


def subscription_of(harness: Harness) -> Subscription:
    """Return the subscription of ``ROOM``."""
    assert isinstance(harness.broker, RedisBroker)
    subscription = harness.broker._receiver.subscriptions.get(ROOM)
    assert subscription is not None
    return subscription


async def send_raw(server: RedisServer, prefix: str, message: bytes) -> None:
    """Publish an arbitrary message on the channel of ``ROOM``."""
    assert await server("PUBLISH", f"{{{prefix}:{ROOM}}}", message) == 1


async def until_repaired(harness: Harness) -> None:
    """Wait until no gap of ``ROOM`` is being repaired."""

    async def is_not_pending() -> bool:
        return subscription_of(harness).pending is None

    await until(is_not_pending, "the gap is repaired")


@pytest.mark.parametrize("begun", [False, True])
async def test_invalid_messages_are_skipped(
    harness: Harness, redis_server: RedisServer, redis_prefix: str, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that no node sends is skipped, logged once, and does not break the connection."""
    before = await harness.fill(2) if begun else []
    opened = (await redis_server.info("stats"))["total_connections_received"]
    for message in (b"", b"hello", b"hello 1\nx", b"1", b"\xff 1\nx", b'{"type": "x"}', b"1 two\nx", b"1 1 x y\nab"):
        await send_raw(redis_server, redis_prefix, message)
    opened += 8  # each message was sent on its own connection
    ids = await harness.fill(3)
    received = await harness.received_events()
    assert [id for _, id, _ in received if split(id)[0] == split(ids[0])[0]] == [*before, *ids]
    assert sum("who else publishes" in record.message for record in caplog.records) == 1
    assert (await redis_server.info("stats"))["total_connections_received"] == opened + 1


@pytest.mark.parametrize("head", [b"%d 1000", b"%d999 1", b"%d999 1000"])
async def test_announcements_of_events_that_are_not_stored(
    harness: Harness, redis_server: RedisServer, redis_prefix: str, head: bytes
) -> None:
    """A forged announcement with a high offset or a later epoch is looked up once and causes no resync."""
    ids = await harness.fill(2)
    await send_raw(redis_server, redis_prefix, head % int(split(ids[0])[0]) + b"\nforged")
    await harness.received_events()
    await until_repaired(harness)
    ids += await harness.fill(2)
    assert [id for _, id, _ in await harness.received_events()] == ids
    assert harness.listener.resyncs == []


async def test_an_older_state_is_restored(harness: Harness, redis_server: RedisServer, redis_prefix: str) -> None:
    """If Redis returns to an older state, members receive a resync and then all new events, even with used offsets."""
    tag = f"{{{redis_prefix}:{ROOM}}}"
    await harness.fill(2)
    async with redis_server.client(decode_responses=False) as client:
        dumps = {key: await client.dump(f"{tag}:{key}") for key in "ms"}
        await harness.fill(3)
        await harness.received_events()
        for key, dump in dumps.items():
            await client.restore(f"{tag}:{key}", 600_000, dump, replace=True)
    assert isinstance(harness.broker, RedisBroker)
    harness.broker._receiver.check(subscription_of(harness))
    await harness.listener.until(lambda: bool(harness.listener.resyncs))
    ((room, last_id),) = harness.listener.resyncs
    assert (room, split(last_id)[1]) == (ROOM, 2)
    await until_repaired(harness)
    harness.listener.events.clear()
    ids = await harness.fill(1)
    assert [id for _, id, _ in await harness.received_events()] == ids


class _FailingListener(RecordingListener):
    """A listener that raises for some events."""

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Raise for b"1"."""
        super().on_event(room, id, payload)
        if payload == b"1":
            raise ValueError("not this one")


async def test_a_listener_that_raises(redis_server: RedisServer, redis_prefix: str) -> None:
    """An event whose delivery raises does not stop the others, live or fetched."""
    broker = RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix))
    harness = Harness(broker, asyncio.sleep, _FailingListener())
    await harness.broker.start(harness.listener)
    await harness.broker.subscribe([ROOM])
    ids = await asyncio.gather(*[harness.broker.publish(ROOM, b"%d" % i) for i in range(3)])
    await harness.received_events()
    subscription_of(harness).last_offset = 0  # as if no event had arrived
    ids += await harness.fill(1)
    try:
        await harness.listener.until(lambda: harness.listener.events[-1][1] == ids[-1])
        assert [id for room, id, _ in harness.listener.events if room == ROOM] == [*ids[:3], *ids]
    finally:
        await harness.broker.close()


async def test_a_repair_that_fails_is_retried(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is repaired in the end, even if reading the stream raised an unexpected error."""
    assert isinstance(harness.broker, RedisBroker)
    stream = harness.broker._receiver.repair._stream
    await harness.fill(2)
    await harness.received_events()
    failed = asyncio.Event()
    read = stream.read

    async def misread(room: str, *rest: Any) -> Any:
        if room == ROOM and not failed.is_set():
            failed.set()
            raise ValueError("no number")
        return await read(room, *rest)

    monkeypatch.setattr(stream, "read", misread)
    subscription_of(harness).last_offset = 1  # as if the second event had not arrived
    third = await harness.broker.publish(ROOM, b"third")
    await failed.wait()
    await harness.broker.publish(OTHER, b"other")
    await harness.listener.until(lambda: harness.listener.events[-1][1:] == (third, b"third"))
    assert [payload for _, _, payload in harness.listener.events if payload != b""] == [b"0", b"1", b"1", b"third"]
