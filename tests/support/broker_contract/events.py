"""The contract for events: publishing, subscriptions and history."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.broker.base import KEY_TTL, Event, History, Publication

from .harness import HISTORY_BYTES, HISTORY_SIZE, HISTORY_TTL, OTHER, ROOM, Harness, not_ids, split


class PublishContract:
    """Ids, order and idempotency keys."""

    async def test_offsets_count_up_from_1(self, harness: Harness) -> None:
        """The ids of a room have one epoch, and offsets that count up by one from 1."""
        parts = [split(event_id) for event_id in await harness.fill(4)]
        assert parts == [(parts[0][0], offset) for offset in (1, 2, 3, 4)]

    async def test_offsets_of_rooms_are_independent(self, harness: Harness) -> None:
        """Publishing in one room does not change the offsets of another."""
        await harness.fill(3)
        assert split(await harness.broker.publish(OTHER, b"x"))[1] == 1
        assert split(await harness.broker.publish(ROOM, b"x"))[1] == 4

    @pytest.mark.parametrize("payload", [b"", b"\0", b"\r\n", b"\xff\xfe", b"x" * 70_000])
    async def test_payload_is_opaque(self, harness: Harness, payload: bytes) -> None:
        """Any bytes are delivered and stored unchanged."""
        await harness.broker.subscribe([ROOM])
        event_id = await harness.broker.publish(ROOM, payload)
        assert (await harness.received_events()) == [(ROOM, event_id, payload)]
        assert (await harness.broker.history(ROOM)).events == [Event(event_id, payload)]

    @pytest.mark.parametrize("room", ["task:a b", "task:{x}", "task:*", "task:\r\n", "task:é☃", "task:1-2", ""])
    async def test_any_room_name_is_valid(self, harness: Harness, room: str) -> None:
        """No character of a room's name has a special meaning."""
        await harness.broker.subscribe([room])
        event_id = await harness.broker.publish(room, b"x")
        assert (await harness.received_events()) == [(room, event_id, b"x")]
        assert (await harness.broker.history(room, event_id)).recovered

    async def test_concurrent_publishes_have_one_order(self, harness: Harness) -> None:
        """Concurrent publishes are delivered once each, in the order of their offsets."""
        await harness.broker.subscribe([ROOM])
        ids = await asyncio.gather(*[harness.broker.publish(ROOM, b"%d" % i) for i in range(50)])
        received = await harness.received_events()
        assert [split(event_id)[1] for _, event_id, _ in received] == list(range(1, 51))
        assert {event_id: payload for _, event_id, payload in received} == {ids[i]: b"%d" % i for i in range(50)}

    async def test_a_repeated_key_is_published_once(self, harness: Harness) -> None:
        """Publishing again with a key returns the first id; it stores and announces nothing."""
        await harness.broker.subscribe([ROOM])
        first = await harness.broker.publish(ROOM, b"first", "k")
        between = await harness.broker.publish(ROOM, b"between")
        assert await harness.broker.publish(ROOM, b"again", "k") == first
        assert await harness.received_events() == [(ROOM, first, b"first"), (ROOM, between, b"between")]
        assert await harness.broker.history(ROOM) == History(
            [Event(first, b"first"), Event(between, b"between")], True, between
        )

    async def test_concurrent_publishes_with_one_key(self, harness: Harness) -> None:
        """Of concurrent publishes with one key, one is stored, and all return its id."""
        ids = await asyncio.gather(*[harness.broker.publish(ROOM, b"%d" % i, "k") for i in range(10)])
        assert len(set(ids)) == 1
        assert [event.id for event in (await harness.broker.history(ROOM)).events] == ids[:1]

    async def test_a_key_belongs_to_its_room(self, harness: Harness) -> None:
        """The same key in another room is a different key, even if room and key concatenated are equal."""
        calls = [(ROOM, "k"), (OTHER, "k"), (ROOM, "1k"), (ROOM + "1", "k"), (ROOM, ""), (ROOM, "K")]
        assert len({await harness.broker.publish(room, b"x", key) for room, key in calls}) == len(calls)

    async def test_a_key_expires_after_key_ttl(self, harness: Harness) -> None:
        """A key is known until KEY_TTL after its first use; repeats do not extend that."""
        first = await harness.broker.publish(ROOM, b"x", "k")
        await harness.pass_time(KEY_TTL - 30)
        assert await harness.broker.publish(ROOM, b"x", "k") == first
        await harness.pass_time(31)
        assert await harness.broker.publish(ROOM, b"x", "k") != first

    async def test_publish_many(self, harness: Harness) -> None:
        """Events for several rooms are published in order, and their ids are returned in that order."""
        await harness.broker.subscribe([ROOM, OTHER])
        many = [Publication(ROOM, b"a"), Publication(OTHER, b"b"), Publication(ROOM, b"c")]
        ids = await harness.broker.publish_many(many)
        assert [split(event_id)[1] for event_id in ids] == [1, 1, 2]
        received = await harness.received_events()
        assert sorted(received) == sorted((p.room, event_id, p.payload) for p, event_id in zip(many, ids, strict=True))
        assert [payload for room, _, payload in received if room == ROOM] == [b"a", b"c"]

    async def test_publish_many_with_keys(self, harness: Harness) -> None:
        """Keys that were used before, or earlier in the list, return the first id and publish nothing."""
        known = await harness.broker.publish(ROOM, b"known", "k1")
        ids = await harness.broker.publish_many(
            [
                Publication(ROOM, b"again", "k1"),
                Publication(ROOM, b"new", "k2"),
                Publication(ROOM, b"twice", "k2"),
                Publication(OTHER, b"other", "k2"),
            ]
        )
        assert ids[0] == known
        assert ids[1] == ids[2]
        assert [event.payload for event in (await harness.broker.history(ROOM)).events] == [b"known", b"new"]
        assert (await harness.broker.history(OTHER)).events == [Event(ids[3], b"other")]
        assert await harness.broker.publish(ROOM, b"later", "k2") == ids[1]

    async def test_publish_many_with_an_empty_list(self, harness: Harness) -> None:
        """An empty list publishes nothing."""
        assert await harness.broker.publish_many([]) == []


class SubscribeContract:
    """Subscriptions and signals."""

    async def test_only_subscribed_rooms_are_delivered(self, harness: Harness) -> None:
        """Events are delivered from ``subscribe`` to ``unsubscribe``, and only those of that room."""
        await harness.broker.publish(ROOM, b"before")
        await harness.broker.subscribe([ROOM])
        received_id = await harness.broker.publish(ROOM, b"delivered")
        await harness.broker.publish(OTHER, b"other room")
        await harness.received_events()
        await harness.broker.unsubscribe([ROOM])
        await harness.broker.publish(ROOM, b"after")
        assert await harness.received_events() == [(ROOM, received_id, b"delivered")]

    async def test_subscribing_twice(self, harness: Harness) -> None:
        """Events of a room that was subscribed twice are delivered once, and one unsubscribe ends it."""
        await harness.broker.subscribe([ROOM, ROOM])
        await harness.broker.subscribe([ROOM, OTHER])
        first = await harness.broker.publish(ROOM, b"1")
        assert await harness.received_events() == [(ROOM, first, b"1")]
        await harness.broker.unsubscribe(iter([ROOM]))
        await harness.broker.publish(ROOM, b"2")
        second = await harness.broker.publish(OTHER, b"3")
        assert await harness.received_events() == [(ROOM, first, b"1"), (OTHER, second, b"3")]

    async def test_unsubscribing_without_a_subscription(self, harness: Harness) -> None:
        """Unsubscribing a room that is not subscribed, or no room, has no effect."""
        await harness.broker.unsubscribe([ROOM])
        await harness.broker.unsubscribe([])
        await harness.broker.subscribe([])

    async def test_signals_are_delivered_to_their_sender(self, harness: Harness) -> None:
        """A node receives its own signals, in order, without any subscription."""
        await harness.broker.signal(b"one")
        await harness.broker.signal(b"\0two")
        await harness.listener.until(lambda: len(harness.listener.signals) >= 2)
        assert harness.listener.signals == [b"one", b"\0two"]
        assert harness.listener.resyncs == []


class HistoryContract:
    """History, resuming and paging."""

    async def test_a_room_without_events(self, harness: Harness) -> None:
        """An empty room has a last id with offset 0, and resuming from it returns all later events."""
        empty = await harness.broker.history(ROOM)
        assert (list(empty.events), empty.recovered, split(empty.last_id)[1]) == ([], True, 0)
        again = await harness.broker.history(ROOM, empty.last_id)
        assert (list(again.events), again.recovered, split(again.last_id)[1]) == ([], True, 0)
        ids = await harness.fill(2)
        expected = [Event(ids[0], b"0"), Event(ids[1], b"1")]
        for last_id in (empty.last_id, again.last_id):
            assert await harness.broker.history(ROOM, last_id) == History(expected, True, ids[1])

    async def test_history_without_since(self, harness: Harness) -> None:
        """Without ``since``, history returns the newest HISTORY_SIZE events, oldest first."""
        ids = await harness.fill(HISTORY_SIZE + 3)
        kept = [Event(ids[i], b"%d" % i) for i in range(3, HISTORY_SIZE + 3)]
        assert await harness.broker.history(ROOM) == History(kept, True, ids[-1])

    async def test_history_since_every_id(self, harness: Harness) -> None:
        """History returns exactly the events after an id, or reports that one of them is gone."""
        ids = await harness.fill(HISTORY_SIZE + 3)
        for i, since in enumerate(ids):
            found = await harness.broker.history(ROOM, since)
            assert found.last_id == ids[-1]
            assert found.recovered is (i + 1 >= 3)
            assert [event.id for event in found.events] == (ids[i + 1 :] if found.recovered else [])

    async def test_since_offset_0(self, harness: Harness) -> None:
        """A client can resume from offset 0 as long as the first event is stored."""
        start = (await harness.broker.history(ROOM)).last_id
        await harness.fill(HISTORY_SIZE)
        assert len((await harness.broker.history(ROOM, start)).events) == HISTORY_SIZE
        last_id = await harness.broker.publish(ROOM, b"one more")
        assert _lost_history(await harness.broker.history(ROOM, start)) == last_id

    @pytest.mark.parametrize("name", not_ids("abc-3"))
    async def test_since_that_is_no_id(self, harness: Harness, name: str) -> None:
        """A ``since`` that is not an id of this room yields ``recovered`` False."""
        ids = await harness.fill(3)
        assert _lost_history(await harness.broker.history(ROOM, not_ids(ids[-1])[name])) == ids[-1]

    async def test_since_of_another_room(self, harness: Harness) -> None:
        """An id of another room does not resume, even if its offset exists in this room."""
        foreign = await harness.fill(3, OTHER)
        ids = await harness.fill(3)
        if split(foreign[1])[0] != split(ids[1])[0]:
            assert _lost_history(await harness.broker.history(ROOM, foreign[1])) == ids[-1]

    async def test_since_of_another_room_in_a_room_without_events(self, harness: Harness) -> None:
        """A room that never had events does not accept an id of another room."""
        foreign = await harness.fill(1, OTHER)
        assert split(_lost_history(await harness.broker.history(ROOM, foreign[0])))[1] == 0

    async def test_limit_without_since(self, harness: Harness) -> None:
        """With a limit only, history returns the newest events, at most ``limit``."""
        ids = await harness.fill(4)
        for limit in range(7):
            found = await harness.broker.history(ROOM, limit=limit)
            assert [event.id for event in found.events] == (ids[-limit:] if limit else [])
            assert (found.recovered, found.last_id) == (True, ids[-1])

    async def test_limit_with_since(self, harness: Harness) -> None:
        """With ``since``, history returns the oldest events after it, at most ``limit``; ``last_id`` is the newest."""
        ids = await harness.fill(4)
        for since in range(4):
            for limit in range(1, 6):
                found = await harness.broker.history(ROOM, ids[since], limit)
                assert [event.id for event in found.events] == ids[since + 1 : since + 1 + limit]
                assert (found.recovered, found.last_id) == (True, ids[-1])

    async def test_limit_with_since_that_is_too_old(self, harness: Harness) -> None:
        """If the event after ``since`` is gone, resuming fails with any limit."""
        ids = await harness.fill(HISTORY_SIZE + 2)
        for limit in (1, HISTORY_SIZE, HISTORY_SIZE + 2):
            assert _lost_history(await harness.broker.history(ROOM, ids[0], limit)) == ids[-1]
        assert [event.id for event in (await harness.broker.history(ROOM, ids[1], 1)).events] == [ids[2]]

    async def test_reading_page_by_page(self, harness: Harness) -> None:
        """Reading on from the last id of each page returns every event once, in order."""
        start = (await harness.broker.history(ROOM)).last_id
        ids = await harness.fill(HISTORY_SIZE)
        read: list[str] = []
        found = await harness.broker.history(ROOM, start, 2)
        while found.events:
            read += [event.id for event in found.events]
            found = await harness.broker.history(ROOM, read[-1], 2)
        assert (read, found.recovered, found.last_id) == (ids, True, ids[-1])

    @pytest.mark.parametrize("largest", [HISTORY_BYTES // 4, HISTORY_BYTES // 2, HISTORY_BYTES + 1])
    async def test_a_history_has_at_most_history_bytes(self, harness: Harness, largest: int) -> None:
        """A history has at most HISTORY_BYTES, but always the newest event, and ``recovered`` is exact for each id."""
        await harness.broker.subscribe([ROOM])
        payloads = [b"x" * (largest * (1 + number * 7 % 8) // 8) for number in range(24)]
        ids: list[str] = []
        for payload in payloads:
            ids.append(await harness.broker.publish(ROOM, payload))
            stored = (await harness.broker.history(ROOM)).events
            published = [Event(*one) for one in zip(ids, payloads, strict=False)]
            assert list(stored) == published[len(published) - len(stored) :]
            sizes = [len(event.payload) for event in stored]
            assert sum(sizes) <= HISTORY_BYTES or len(stored) == 1
            if largest <= HISTORY_BYTES // 2:
                assert len(stored) == min(len(ids), HISTORY_SIZE) or sum(sizes) > HISTORY_BYTES // 4
            for number, since in enumerate(ids):
                found = await harness.broker.history(ROOM, since)
                assert found.recovered is (number + 1 >= len(ids) - len(stored))
                assert list(found.events) == (published[number + 1 :] if found.recovered else [])
        await harness.listener.until(lambda: len(harness.listener.events) == len(ids))
        assert [id for _, id, _ in harness.listener.events] == ids

    async def test_a_list_with_more_than_history_bytes(self, harness: Harness) -> None:
        """A list of events may be larger than the history: all are delivered, and the newest are stored."""
        await harness.broker.subscribe([ROOM])
        ids = await harness.broker.publish_many([Publication(ROOM, b"x" * (HISTORY_BYTES // 3))] * 8)
        await harness.listener.until(lambda: len(harness.listener.events) == len(ids))
        assert [id for _, id, _ in harness.listener.events] == ids
        stored = (await harness.broker.history(ROOM)).events
        assert [event.id for event in stored] == ids[-len(stored) :]
        assert 1 <= len(stored) <= 3

    async def test_events_expire(self, harness: Harness) -> None:
        """An event older than HISTORY_TTL is gone, and resuming from before it reports that."""
        old = await harness.fill(2)
        await harness.pass_time(HISTORY_TTL * 0.6)
        new = await harness.fill(2)
        await harness.pass_time(HISTORY_TTL * 0.6)
        found = await harness.broker.history(ROOM)
        assert ([event.id for event in found.events], found.recovered, found.last_id) == (new, True, new[-1])
        assert _lost_history(await harness.broker.history(ROOM, old[0])) == new[-1]
        assert [event.id for event in (await harness.broker.history(ROOM, old[1])).events] == new
        assert [event.id for event in (await harness.broker.history(ROOM, new[0])).events] == new[1:]

    async def test_resume_after_all_events_expired(self, harness: Harness) -> None:
        """After all events have expired, an old ``since`` does not resume, and no id is assigned twice."""
        ids = await harness.fill(3)
        await harness.pass_time(HISTORY_TTL * 2)
        found = await harness.broker.history(ROOM)
        assert (list(found.events), found.recovered) == ([], True)
        assert not (await harness.broker.history(ROOM, ids[1])).recovered
        assert list((await harness.broker.history(ROOM, ids[2])).events) == []
        fresh = await harness.broker.publish(ROOM, b"fresh")
        assert fresh not in ids
        assert (await harness.broker.history(ROOM)).events == [Event(fresh, b"fresh")]

    async def test_a_quiet_room_that_is_used_keeps_its_ids(self, harness: Harness) -> None:
        """A subscriber's last id stays valid when all events have expired, so that it learns that it missed nothing."""
        await harness.broker.subscribe([ROOM])
        ids = await harness.fill(3)
        await harness.pass_time(HISTORY_TTL * 2)
        assert await harness.broker.history(ROOM, ids[2]) == History([], True, ids[2])
        assert not (await harness.broker.history(ROOM, ids[1])).recovered
        later = await harness.broker.publish(ROOM, b"later")
        assert split(later)[1] == 4
        assert await harness.broker.history(ROOM, ids[2]) == History([Event(later, b"later")], True, later)

    async def test_an_answer_does_not_change(self, harness: Harness) -> None:
        """A result of ``history`` does not change when more events are published."""
        await harness.fill(HISTORY_SIZE)
        found = await harness.broker.history(ROOM)
        before = list(found.events)
        await harness.fill(HISTORY_SIZE)
        assert list(found.events) == before


def _lost_history(found: History) -> str:
    """Assert that the history does not reach back to ``since``; return its last id."""
    assert (list(found.events), found.recovered) == ([], False)
    return found.last_id
