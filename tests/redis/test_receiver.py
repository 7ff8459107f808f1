"""The receiver: invalid messages, listeners that raise, and checks of quiet rooms."""

from __future__ import annotations

import asyncio

import pytest
from broker_contract import ROOM, Harness, RecordingListener, split
from redis_nodes import StartNode, send_raw, subscription_of
from redis_servers import RedisServer

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse


@pytest.mark.parametrize("begun", [False, True])
async def test_invalid_messages_are_skipped(
    subscribed: Harness, redis_server: RedisServer, redis_prefix: str, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that no node sends is skipped, logged once, and does not break the connection."""
    before = await subscribed.fill(2) if begun else []
    opened = (await redis_server.info("stats"))["total_connections_received"]
    for message in (b"", b"hello", b"hello 1\nx", b"1", b"\xff 1\nx", b'{"type": "x"}', b"1 two\nx", b"1 1 x y\nab"):
        await send_raw(redis_server, redis_prefix, message)
    opened += 8  # each message was sent on its own connection
    ids = await subscribed.fill(3)
    received = await subscribed.received_events()
    assert [id for _, id, _ in received] == [*before, *ids]
    assert subscribed.listener.resyncs == []
    assert sum("who else publishes" in record.message for record in caplog.records) == 1
    assert (await redis_server.info("stats"))["total_connections_received"] == opened + 1


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


async def test_a_quiet_room_is_compared_with_its_stream(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
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
