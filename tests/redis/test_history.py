"""The history of a subscribed room is consistent with the events that the listener received."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from broker_contract import ROOM, split
from redis_nodes import StartNode
from redis_servers import RedisServer

from roomcast.broker.base import MAX_PAGE_EVENTS, Publication
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.stream import StreamPage


async def test_history_matches_the_received_events(node: StartNode) -> None:
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


async def test_events_that_arrive_during_a_read_of_a_room_that_keeps_nothing(node: StartNode) -> None:
    """Events that the listener receives while the history is read are part of it, even if the room stores none."""
    a, b = await node(), await node()
    room = "unkept:1"
    await b.broker.subscribe([room])
    since = await a.broker.publish(room, b"first")
    assert isinstance(b.broker, RedisBroker)
    stream = b.broker._receiver._stream
    read_for_client = stream.read_for_client

    async def read_and_receive(*args: Any, **options: Any) -> StreamPage:
        page = await read_for_client(*args, **options)
        await a.fill(3, room)
        await b.listener.until(lambda: len(b.listener.events) == 4)
        return page

    stream.read_for_client = read_and_receive  # type: ignore[method-assign]
    history = await b.broker.history(room, since)
    assert [event.payload for event in history.events] == [b"0", b"1", b"2"]
    assert (history.recovered, history.last_id) == (True, history.events[-1].id)


async def test_history_since_an_event_not_received_yet(node: StartNode, redis_server: RedisServer) -> None:
    """History since an event that this node has not received yet waits for it, so it is not delivered twice."""
    a, b = await node(), await node()
    await b.broker.subscribe([ROOM])
    ids = await a.fill(4)
    history = await b.broker.history(ROOM, ids[3])
    assert (history.recovered, list(history.events), history.last_id) == (True, [], ids[3])
    assert [id for _, id, _ in b.listener.events] == ids


async def test_newest_events_while_events_are_lost(node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the listener learns of a loss meanwhile, the newest events are read again, so that none of them is missing."""
    a = await node()
    await a.broker.subscribe([ROOM])
    ids = await a.fill(4)
    assert isinstance(a.broker, RedisBroker)
    reader = a.broker._receiver.history
    read_final = reader._read_final
    reads = 0

    async def lose(read_page: Callable[[], Awaitable[StreamPage]]) -> StreamPage:
        nonlocal reads
        reads += 1
        page = await read_final(read_page)
        reader.recordings[ROOM][0].has_lost_events = reads < 3
        return page

    monkeypatch.setattr(reader, "_read_final", lose)
    history = await a.broker.history(ROOM, limit=3)
    assert ([event.id for event in history.events], history.recovered, history.has_older) == (ids[1:], True, True)
    assert (history.last_id, reads) == (ids[-1], 3)
    assert not reader.recordings


async def test_the_number_of_events_in_a_page(node: StartNode) -> None:
    """A page of small events has 400 of them, and more only if the caller wants them."""
    a, b = await node(history_size=1000), await node(history_size=1000)
    await b.broker.subscribe([ROOM])
    ids = [id for _ in range(9) for id in await a.broker.publish_many([Publication(ROOM, b"")] * 100)]
    for harness in (a, b):
        page = await harness.broker.history(ROOM, ids[0])
        assert [event.id for event in page.events] == ids[1 : MAX_PAGE_EVENTS + 1]
        assert page.cursor == ids[MAX_PAGE_EVENTS]
        page = await harness.broker.history(ROOM)
        assert [event.id for event in page.events] == ids[-MAX_PAGE_EVENTS:]
        assert [event.id for event in (await harness.broker.history(ROOM, limit=1000)).events] == ids
