"""Tests of ``stored_events``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from broker_contract import ROOM, RecordingListener

from roomcast.broker.base import MAX_PAGE_BYTES, MAX_PAGE_EVENTS, Event, History
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Refused
from roomcast.stored_events import EventsAbout, decode, encode, read_after, read_before


class CountingBroker(MemoryBroker):
    """Counts the events that were read."""

    read = 0

    async def history(self, *args: Any, **options: Any) -> History:
        page = await super().history(*args, **options)
        self.read += len(page.events)
        return page


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[CountingBroker]:
    """A broker that keeps 50 events."""
    broker = CountingBroker(50, history_bytes=2**26)
    await broker.start(RecordingListener())
    yield broker
    await broker.close()


async def publish(broker: MemoryBroker, about: str = "", size: int = 0) -> str:
    """Publish an event that contains the id ``about``."""
    return await broker.publish(ROOM, orjson.dumps({"type": "x", "data": {"about": about, "filling": "x" * size}}))


def test_encoding() -> None:
    """A stored event in JSON equals the decoded one."""
    event = Event("1-2", b'{"type":"x","data":{"a":"}"}}')
    assert orjson.loads(encode(event)) == decode(event) == {"type": "x", "data": {"a": "}"}, "id": "1-2"}


async def test_all_pages_are_read(broker: CountingBroker) -> None:
    """Histories of several pages are complete and in order, and each event is read once."""
    ids = [await publish(broker, size=MAX_PAGE_BYTES // 4) for _ in range(20)]
    assert [event["id"] for event in await read_before(broker.history, ROOM)] == ids
    assert broker.read == 20
    assert [event["id"] for event in await read_after(broker.history, ROOM, ids[3])] == ids[4:]
    assert broker.read == 36
    assert await read_before(broker.history, "channel:empty") == []
    with pytest.raises(Refused, match="does not reach back to 'x'"):
        await read_after(broker.history, ROOM, "x")


async def test_the_number_of_events_in_a_page() -> None:
    """A page of small events has 400 of them, and more only if the caller wants them."""
    broker = MemoryBroker(1000)
    await broker.start(RecordingListener())
    for _ in range(900):
        await broker.publish(ROOM, b"{}")
    page = await broker.history(ROOM)
    assert (len(page.events), page.cursor) == (MAX_PAGE_EVENTS, None)
    first = (await broker.history(ROOM, limit=900)).events[0].id
    assert len((await broker.history(ROOM, first)).events) == MAX_PAGE_EVENTS
    assert len(await read_before(broker.history, ROOM)) == 900
    await broker.close()


async def test_events_that_are_dropped_between_pages(broker: CountingBroker) -> None:
    """Without all events after ``since`` there is an error, because the caller could not see the gap."""
    ids = [await publish(broker, size=MAX_PAGE_BYTES // 2) for _ in range(10)]

    async def read_and_publish(*args: Any, **options: Any) -> History:
        page = await broker.history(*args, **options)
        for _ in range(60):
            await publish(broker)
        return page

    with pytest.raises(Refused, match=f"does not reach back to '{ids[0]}'") as gap:
        await read_after(read_and_publish, ROOM, ids[0])
    assert gap.value.code == "not_found"


async def test_events_about_an_event(broker: CountingBroker) -> None:
    """The event comes first, then those that contain its id, newest first."""
    ids = [await publish(broker)]
    for number in range(1, 30):
        ids.append(await publish(broker, ids[0] if number % 3 == 0 else ids[number // 2], size=MAX_PAGE_BYTES // 10))
    expected = [ids[0], *(ids[number] for number in range(29, 0, -1) if number % 3 == 0 or number // 2 == 0)]
    assert [event["id"] async for event in EventsAbout(broker.history, ROOM, ids[0])] == expected
    assert broker.read == 30
    assert [event["id"] async for event in EventsAbout(broker.history, ROOM, ids[-1])] == [ids[-1]]
    assert broker.read == 31


async def test_pages_are_read_when_they_are_needed(broker: CountingBroker) -> None:
    """The first item reads one event, the next one a page."""
    ids = [await publish(broker)]
    ids += [await publish(broker, ids[0], size=MAX_PAGE_BYTES // 4) for _ in range(20)]
    events = EventsAbout(broker.history, ROOM, ids[0])
    assert broker.read == 0
    assert (await anext(events))["id"] == ids[0]
    assert broker.read == 1
    assert (await anext(events))["id"] == ids[-1]
    assert broker.read == 4


async def test_events_during_the_search(broker: CountingBroker) -> None:
    """Events that are published or dropped meanwhile neither repeat nor end it early."""
    first = await publish(broker)
    ids = [await publish(broker, first, size=MAX_PAGE_BYTES // 3) for _ in range(10)]
    found = []
    async for event in EventsAbout(broker.history, ROOM, first):
        found.append(event["id"])
        await publish(broker, first)
    assert found[0] == first
    assert [id for id in found if id in ids] == ids[::-1]
    assert len(set(found)) == len(found)
    events = EventsAbout(broker.history, ROOM, ids[0])
    assert (await anext(events))["id"] == ids[0]
    for _ in range(60):
        await publish(broker)
    assert [event async for event in events] == []


@pytest.mark.parametrize("id", ["", "x", "x-1", "-", "1-", "1--1", "1-\u0663", "1-" + "9" * 30])
async def test_strings_that_are_no_ids(broker: CountingBroker, id: str) -> None:
    """There is no event, and no error."""
    await publish(broker)
    assert [event async for event in EventsAbout(broker.history, ROOM, id)] == []


async def test_a_long_search_lets_others_run(broker: CountingBroker) -> None:
    """Other coroutines run while 5 MB are searched."""
    ids = [await publish(broker, size=100_000) for _ in range(50)]
    searching = asyncio.create_task(anext(aiter(_rest(EventsAbout(broker.history, ROOM, ids[0]))), None))
    iterations = 0
    while not searching.done():
        iterations += 1
        await asyncio.sleep(0)
    assert searching.result() is None
    assert iterations >= 4


async def _rest(events: EventsAbout) -> AsyncIterator[dict[str, Any]]:
    await anext(events)
    async for event in events:
        yield event
