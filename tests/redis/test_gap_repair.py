"""Gap repair: events whose announcement was lost are fetched, and lost events are reported."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from broker_contract import OTHER, ROOM, Harness, split
from redis_nodes import StartNode, announcement, send_raw, subscription_of, until_repaired
from redis_servers import RedisServer

from roomcast.broker.base import MAX_PAGE_BYTES, Event
from roomcast.broker.redis.broker import RedisBroker


async def test_a_gap_is_repaired_before_later_events(node: StartNode, redis_server: RedisServer) -> None:
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


async def test_a_lost_history_is_reported(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("head", [b"%d 1000", b"%d999 1", b"%d999 1000"])
async def test_announcements_of_events_that_are_not_stored(
    subscribed: Harness, redis_server: RedisServer, redis_prefix: str, head: bytes
) -> None:
    """A forged announcement with a high offset or a later epoch is looked up once and causes no resync."""
    ids = await subscribed.fill(2)
    message = announcement(subscribed, head % int(split(ids[0])[0]) + b" 0 6", b"forged")
    await send_raw(redis_server, redis_prefix, message)
    await subscribed.received_events()
    await until_repaired(subscribed)
    ids += await subscribed.fill(2)
    assert [id for _, id, _ in await subscribed.received_events()] == ids
    assert subscribed.listener.resyncs == []


async def test_an_older_state_is_restored(subscribed: Harness, redis_server: RedisServer, redis_prefix: str) -> None:
    """If Redis returns to an older state, members receive a resync and then all new events, even with used offsets."""
    tag = f"{{{redis_prefix}:{ROOM}}}"
    await subscribed.fill(2)
    async with redis_server.client(decode_responses=False) as client:
        dumps = {key: await client.dump(f"{tag}:{key}") for key in "ms"}
        await subscribed.fill(3)
        await subscribed.received_events()
        for key, dump in dumps.items():
            await client.restore(f"{tag}:{key}", 600_000, dump, replace=True)
    assert isinstance(subscribed.broker, RedisBroker)
    subscribed.broker._receiver.check(subscription_of(subscribed))
    await subscribed.listener.until(lambda: bool(subscribed.listener.resyncs))
    ((room, last_id),) = subscribed.listener.resyncs
    assert (room, split(last_id)[1]) == (ROOM, 2)
    await until_repaired(subscribed)
    subscribed.listener.events.clear()
    ids = await subscribed.fill(1)
    assert [id for _, id, _ in await subscribed.received_events()] == ids


async def test_a_repair_that_fails_is_retried(subscribed: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is repaired even if reading the stream first raises an unexpected error."""
    assert isinstance(subscribed.broker, RedisBroker)
    stream = subscribed.broker._receiver.repair._stream
    await subscribed.fill(2)
    await subscribed.received_events()
    failed = asyncio.Event()
    read = stream.read

    async def misread(room: str, *rest: Any, **options: Any) -> Any:
        if room == ROOM and not failed.is_set():
            failed.set()
            raise ValueError("no number")
        return await read(room, *rest, **options)

    monkeypatch.setattr(stream, "read", misread)
    subscription_of(subscribed).last_offset = 1  # as if the second event had not arrived
    third = await subscribed.broker.publish(ROOM, b"third")
    await failed.wait()
    await subscribed.broker.publish(OTHER, b"other")
    await subscribed.listener.until(lambda: subscribed.listener.events[-1][1:] == (third, b"third"))
    assert [payload for _, _, payload in subscribed.listener.events if payload != b""] == [b"0", b"1", b"1", b"third"]


async def test_long_events_are_fetched_in_pages(subscribed: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read returns more than a page, and all missing events are delivered in order."""
    assert isinstance(subscribed.broker, RedisBroker)
    stream = subscribed.broker._receiver.repair._stream
    ids = [await subscribed.broker.publish(ROOM, bytes(60_000)) for _ in range(20)]
    await subscribed.received_events()
    sizes = []
    read = stream.read

    async def measured(room: str, *rest: Any, **options: Any) -> Any:
        page = await read(room, *rest, **options)
        sizes.append(sum(len(event.payload) for event in page.events))
        return page

    monkeypatch.setattr(stream, "read", measured)
    subscribed.listener.events.clear()
    subscription_of(subscribed).last_offset = 1  # as if the others had not arrived
    subscribed.broker._receiver.check(subscription_of(subscribed))
    await subscribed.listener.until(lambda: len(subscribed.listener.events) == 19)
    assert [id for _, id, _ in subscribed.listener.events] == ids[1:]
    assert sum(sizes) == 19 * 60_000
    assert max(sizes) <= MAX_PAGE_BYTES
