"""The contract for pages of history: their size, and reading forward and backward."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.broker.base import PAGE_EVENT_OVERHEAD

from .harness import HISTORY_BYTES, HISTORY_SIZE, OTHER, ROOM, Harness, not_ids, split


class PageContract:
    """Pages of history."""

    async def test_a_page_has_a_limit_in_bytes(self, harness: Harness) -> None:
        """A page has at most ``max_bytes``, with the overhead of each event, but at least one event if there is one."""
        start = (await harness.broker.history(ROOM)).last_id
        ids = [await harness.broker.publish(ROOM, bytes(1000)) for _ in range(HISTORY_SIZE)]
        for fitting in range(1, HISTORY_SIZE + 1):
            size = fitting * (1000 + PAGE_EVENT_OVERHEAD)
            for max_bytes in (size, size + 1000):
                found = await harness.broker.history(ROOM, start, max_bytes=max_bytes)
                assert ([event.id for event in found.events], found.recovered) == (ids[:fitting], True)
                assert found.cursor == (ids[fitting - 1] if fitting < HISTORY_SIZE else None)
                assert found.last_id == ids[-1]
                found = await harness.broker.history(ROOM, max_bytes=max_bytes)
                assert [event.id for event in found.events] == ids[-fitting:]
                assert (found.cursor, found.has_older) == (None, fitting < HISTORY_SIZE)
        for since, expected in ((start, ids[:1]), (None, ids[-1:])):
            assert [event.id for event in (await harness.broker.history(ROOM, since, max_bytes=1)).events] == expected

    @pytest.mark.parametrize("is_subscribed", [False, True])
    async def test_pages_together_have_all_events(self, harness: Harness, is_subscribed: bool) -> None:
        """Reading on from each cursor until it is None returns every event once."""
        if is_subscribed:
            await harness.broker.subscribe([ROOM])
        start = (await harness.broker.history(ROOM)).last_id
        size = HISTORY_BYTES // HISTORY_SIZE // 2
        max_bytes = 2 * (size + PAGE_EVENT_OVERHEAD)
        ids = [await harness.broker.publish(ROOM, bytes(size)) for _ in range(HISTORY_SIZE)]
        cursor: str | None = start
        pages = []
        while cursor is not None:
            found = await harness.broker.history(ROOM, cursor, max_bytes=max_bytes)
            pages.append([event.id for event in found.events])
            cursor = found.cursor
        assert pages == [ids[:2], ids[2:4], ids[4:]]
        assert [event.id for event in (await harness.broker.history(ROOM, max_bytes=max_bytes)).events] == ids[-2:]

    async def test_the_newest_id_is_that_of_the_listener(self, harness: Harness) -> None:
        """While events arrive, ``last_id`` of each page is the last event that the listener has received."""
        await harness.broker.subscribe([ROOM])
        await harness.fill(2)
        await harness.broker.history(ROOM)  # the listener has received the events when this returns
        received = harness.listener.events

        async def read() -> None:
            found = await harness.broker.history(ROOM, received[-2][1], 1)
            assert found.last_id == received[-1][1]

        for _ in range(50):
            await asyncio.gather(read(), *(harness.broker.publish(ROOM, b"event") for _ in range(3)), read())

    async def test_events_before_an_id(self, harness: Harness) -> None:
        """With ``before``, history returns the newest events with lower ids, at most ``limit``, oldest first."""
        ids = await harness.fill(HISTORY_SIZE + 2)
        following = f"{split(ids[-1])[0]}-{split(ids[-1])[1] + 1}"
        for at, before in enumerate([*ids, following]):
            for limit in (None, 1, 3, HISTORY_SIZE):
                found = await harness.broker.history(ROOM, limit=limit, before=before)
                stored = ids[2:at]
                expected = stored if limit is None else stored[max(len(stored) - limit, 0) :]
                assert [event.id for event in found.events] == expected
                assert (found.recovered, found.last_id) == (True, ids[-1])
                assert found.has_older == (0 < len(expected) < len(stored))

    @pytest.mark.parametrize("is_subscribed", [False, True])
    @pytest.mark.parametrize("limit", [1, 2, 3, HISTORY_SIZE])
    async def test_reading_backward_page_by_page(self, harness: Harness, is_subscribed: bool, limit: int) -> None:
        """Reading on before the first id of each page until ``has_older`` is False returns every stored event once."""
        if is_subscribed:
            await harness.broker.subscribe([ROOM])
        assert not (await harness.broker.history(ROOM, limit=limit)).has_older
        ids = await harness.fill(HISTORY_SIZE + 2)
        read: list[str] = []
        found = await harness.broker.history(ROOM, limit=limit)
        while True:
            assert found.events
            read = [*(event.id for event in found.events), *read]
            if not found.has_older:
                break
            found = await harness.broker.history(ROOM, limit=limit, before=read[0])
        assert read == ids[2:]
        found = await harness.broker.history(ROOM, limit=limit, before=read[0])
        assert (list(found.events), found.has_older) == ([], False)

    async def test_forward_reads_have_no_older_events(self, harness: Harness) -> None:
        """``has_older`` is for pages that were read without ``since``."""
        ids = await harness.fill(HISTORY_SIZE)
        for since in (ids[1], ids[-1], "x"):
            assert not (await harness.broker.history(ROOM, since, 2)).has_older

    async def test_the_newest_events_end_with_the_last_one_of_the_listener(self, harness: Harness) -> None:
        """While events are published, the newest ones of a subscribed room and what arrives later have no gap."""
        await harness.broker.subscribe([ROOM])
        await harness.fill(2)

        async def publish() -> None:
            for _ in range(60):
                await harness.broker.publish(ROOM, b"x")

        publishing = asyncio.gather(*[publish() for _ in range(4)])
        is_newest = 0
        while not publishing.done():
            found = await harness.broker.history(ROOM, limit=3)
            received = [id for room, id, _ in harness.listener.events if room == ROOM]
            assert [event.id for event in found.events] == received[-3:]
            assert found.last_id == received[-1]
            is_newest += 1
            await asyncio.sleep(0)
        await publishing
        assert is_newest > 1

    @pytest.mark.parametrize("name", not_ids("abc-3"))
    async def test_before_that_is_no_id(self, harness: Harness, name: str) -> None:
        """A ``before`` that is no id of the room yields events that are stored, or none, but no error."""
        ids = await harness.fill(3)
        found = await harness.broker.history(ROOM, before=not_ids(ids[-1])[name])
        assert [event.id for event in found.events] in ([], ids)
        assert (found.recovered, found.last_id) == (True, ids[-1])

    @pytest.mark.parametrize("before", ["0-0", "0-1", "9999999999999999-9999999999999999"])
    async def test_before_at_the_ends(self, harness: Harness, before: str) -> None:
        """The lowest and the highest id are valid."""
        ids = await harness.fill(3)
        found = await harness.broker.history(ROOM, before=before)
        assert [event.id for event in found.events] in ([], ids)
        assert list((await harness.broker.history(OTHER, before=before)).events) == []

    async def test_pages_while_events_are_published_and_dropped(self, harness: Harness) -> None:
        """Pages of a subscribed room continue with what the listener receives, or one says that events are gone."""
        await harness.broker.subscribe([ROOM])
        start = (await harness.broker.history(ROOM)).last_id
        ids = await harness.fill(HISTORY_SIZE)
        found = await harness.broker.history(ROOM, start, 3)
        assert found.cursor == ids[2]
        ids += await harness.fill(HISTORY_SIZE - 2)
        found = await harness.broker.history(ROOM, found.cursor)
        assert [event.id for event in found.events] == ids[3:]
        assert found.cursor is None
        assert [id for room, id, _ in harness.listener.events if room == ROOM] == ids
        await harness.fill(1)
        assert not (await harness.broker.history(ROOM, ids[2])).recovered
