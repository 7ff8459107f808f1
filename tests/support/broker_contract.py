"""The contract of every broker: inherit ``BrokerContract`` in a test module, and define a fixture ``harness``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from roomcast.broker.base import KEY_TTL, Broker, Event, History, Member, PresenceChange, Publication
from roomcast.errors import Unavailable

#: The options of the broker in a harness.
HISTORY_SIZE = 5
HISTORY_TTL = 60.0

ROOM = "channel:1"
OTHER = "channel:2"


class RecordingListener:
    """A listener that records all calls. ``until`` waits, because a broker may report events later."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, bytes]] = []
        self.resyncs: list[tuple[str, str]] = []
        self.signals: list[bytes] = []
        self.signals_lost = 0
        self.lost_members: list[tuple[str, Member, int]] = []
        self.returned_members: list[tuple[str, Member, int]] = []
        self._changed = asyncio.Event()

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        self.events.append((room, id, payload))
        self._changed.set()

    def on_resync(self, room: str, last_id: str) -> None:
        self.resyncs.append((room, last_id))
        self._changed.set()

    def on_member_lost(self, room: str, member: Member, users: int) -> None:
        self.lost_members.append((room, member, users))
        self._changed.set()

    def on_member_returned(self, room: str, member: Member, users: int) -> None:
        self.returned_members.append((room, member, users))
        self._changed.set()

    def on_signal(self, message: bytes) -> None:
        self.signals.append(message)
        self._changed.set()

    def on_signals_lost(self) -> None:
        self.signals_lost += 1
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; fail after 10 s."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Harness:
    """A started broker, its listener, and a way to let time pass for the broker."""

    broker: Broker
    pass_time: Callable[[float], Awaitable[None]]
    listener: RecordingListener = field(default_factory=RecordingListener)

    async def fill(self, count: int, room: str = ROOM) -> list[str]:
        """Publish ``count`` events with the payloads b"0", b"1", ...; return their ids."""
        return [await self.broker.publish(room, b"%d" % i) for i in range(count)]

    async def received_events(self) -> list[tuple[str, str, bytes]]:
        """Return all events that the listener has received, after a marker event that is published now arrived."""
        marker = "channel:marker"
        await self.broker.subscribe([marker])
        last = await self.broker.publish(marker, b"")
        await self.listener.until(lambda: (marker, last, b"") in self.listener.events)
        return [event for event in self.listener.events if event[0] != marker]


def split(event_id: str) -> tuple[str, int]:
    """Return the epoch and the offset of an id; fail if it is not one."""
    found = re.fullmatch(r"([A-Za-z0-9_.~]+)-(0|[1-9][0-9]*)", event_id)
    assert found is not None, event_id
    return found[1], int(found[2])


def not_ids(good: str) -> dict[str, str]:
    """Return strings that a client may send but that are no ids of the room of ``good``, by name."""
    epoch, offset = split(good)
    return {
        "empty": "",
        "no dash": epoch,
        "no offset": f"{epoch}-",
        "only a dash": "-",
        "no epoch": f"-{offset}",
        "beyond the top": f"{epoch}-{offset + 1}",
        "far beyond the top": f"{epoch}-{2**64}",
        "more digits than int() takes": f"{epoch}-{'9' * 5000}",
        "many zeros": f"{epoch}-{'0' * 5000}{offset}",
        "negative": f"{epoch}--1",
        "signed": f"{epoch}-+{offset}",
        "leading zero": f"{epoch}-0{offset}",
        "spaces": f"{epoch}- {offset}",
        "underscore": f"{epoch}-1_0",
        "fraction": f"{epoch}-{offset}.0",
        "other digits": f"{epoch}-\u0663",
        "superscript": f"{epoch}-\u00b2",
        "line end": f"{epoch}-{offset}\n",
        "nul": f"{epoch}-{offset}\0",
        "lone surrogate": f"{epoch}-\ud800",
        "another epoch": f"{epoch}x-{offset}",
        "epoch cut short": f"{epoch[:-1]}-{offset}",
        "a stream's id": "1700000000000-0",
        "long": "x" * 100_000,
    }


class PublishContract:
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
    async def test_only_subscribed_rooms_are_delivered(self, harness: Harness) -> None:
        """Events are delivered from ``subscribe`` to ``unsubscribe``, and only those of that room."""
        await harness.broker.publish(ROOM, b"before")
        await harness.broker.subscribe([ROOM])
        received_id = await harness.broker.publish(ROOM, b"heard")
        await harness.broker.publish(OTHER, b"other room")
        await harness.received_events()
        await harness.broker.unsubscribe([ROOM])
        await harness.broker.publish(ROOM, b"after")
        assert await harness.received_events() == [(ROOM, received_id, b"heard")]

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
    async def test_a_room_without_events(self, harness: Harness) -> None:
        """An empty room has a last id with offset 0, and resuming from it returns all later events."""
        empty = await harness.broker.history(ROOM)
        assert (list(empty.events), empty.recovered, split(empty.last_id)[1]) == ([], True, 0)
        assert await harness.broker.history(ROOM, empty.last_id) == empty
        ids = await harness.fill(2)
        assert split(ids[0])[0] == split(empty.last_id)[0]
        expected = [Event(ids[0], b"0"), Event(ids[1], b"1")]
        assert await harness.broker.history(ROOM, empty.last_id) == History(expected, True, ids[1])

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
        """If the event after ``since`` is gone, resuming fails, however small the limit is."""
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

    async def test_an_answer_does_not_change(self, harness: Harness) -> None:
        """What history returned stays as it is when more is published."""
        await harness.fill(HISTORY_SIZE)
        found = await harness.broker.history(ROOM)
        before = list(found.events)
        await harness.fill(HISTORY_SIZE)
        assert list(found.events) == before


def _lost_history(found: History) -> str:
    """Assert that the history does not reach back to ``since``; return its last id."""
    assert (list(found.events), found.recovered) == ([], False)
    return found.last_id


class LeaseContract:
    async def test_admits_up_to_the_limit(self, harness: Harness) -> None:
        """A user gets as many leases as the limit; other users do not count."""
        assert [await harness.broker.admit(7, connection, 5) for connection in range(7)] == [True] * 5 + [False] * 2
        assert await harness.broker.admit(8, 100, 1)

    async def test_concurrent_admits(self, harness: Harness) -> None:
        """Of many concurrent connections exactly ``limit`` are admitted."""
        taken = await asyncio.gather(*[harness.broker.admit("u", connection, 5) for connection in range(30)])
        assert taken.count(True) == 5

    async def test_a_released_lease_can_be_taken(self, harness: Harness) -> None:
        """Each release gives one lease back, and a refused connection has none."""
        assert [await harness.broker.admit(7, connection, 2) for connection in (1, 2, 3)] == [True, True, False]
        await harness.broker.release(7, 1)
        assert [await harness.broker.admit(7, connection, 2) for connection in (3, 4)] == [True, False]
        for connection in (2, 3):
            await harness.broker.release(7, connection)
        assert [await harness.broker.admit(7, connection, 2) for connection in (5, 6, 7)] == [True, True, False]

    async def test_releasing_without_a_lease(self, harness: Harness) -> None:
        """Releasing a lease twice, of another user, or without having one gives nothing back."""
        await harness.broker.release(7, 1)
        assert await harness.broker.admit(7, 1, 2)
        assert await harness.broker.admit(7, 2, 2)
        await harness.broker.release(7, 3)
        await harness.broker.release(8, 1)
        assert not await harness.broker.admit(7, 4, 2)
        await harness.broker.release(7, 1)
        await harness.broker.release(7, 1)
        assert [await harness.broker.admit(7, connection, 2) for connection in (4, 5)] == [True, False]

    async def test_a_connection_has_one_lease(self, harness: Harness) -> None:
        """A connection that is admitted again keeps its lease and takes no second one."""
        assert [await harness.broker.admit(7, connection, 2) for connection in (1, 1, 2, 1, 3)] == [True] * 4 + [False]
        await harness.broker.release(7, 1)
        assert [await harness.broker.admit(7, connection, 2) for connection in (3, 4)] == [True, False]

    async def test_a_high_limit(self, harness: Harness) -> None:
        """A high limit is exact as well, while leases are taken and released."""
        assert all([await harness.broker.admit(7, connection, 40) for connection in range(40)])
        assert not await harness.broker.admit(7, 40, 40)
        for connection in range(0, 40, 2):
            await harness.broker.release(7, connection)
        taken = [await harness.broker.admit(7, connection, 40) for connection in range(100, 130)]
        assert taken == [True] * 20 + [False] * 10

    async def test_connections_are_counted(self, harness: Harness) -> None:
        """A user's connections are those admitted and not released; refused ones do not count."""
        counts = []
        for connection in (1, 1, 2, 3):
            await harness.broker.admit(7, connection, 2)
            counts.append(await harness.broker.connections(7))
        await harness.broker.admit("7", 4, 2)
        await harness.broker.release(7, 1)
        counts += [await harness.broker.connections(user_id) for user_id in (7, "7", 8)]
        assert counts == [1, 1, 2, 2, 1, 1, 0]

    async def test_limit_0_admits_no_connection(self, harness: Harness) -> None:
        """A limit of 0 admits no connection."""
        assert not await harness.broker.admit(7, 1, 0)


class PresenceContract:
    async def test_user_changed_for_the_first_and_the_last_connection(self, harness: Harness) -> None:
        """``user_changed`` is True for a user's first connection in and last one out; users count once."""
        broker = harness.broker
        assert await broker.enter(ROOM, 1, "alice", 10) == PresenceChange(True, 1)
        assert await broker.enter(ROOM, 1, "alice", 11) == PresenceChange(False, 1)
        assert await broker.enter(ROOM, 2, "bob", 20) == PresenceChange(True, 2)
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(False, 2)
        assert await broker.leave(ROOM, 1, 11) == PresenceChange(True, 1)
        assert await broker.leave(ROOM, 2, 20) == PresenceChange(True, 0)

    async def test_entering_and_leaving_twice(self, harness: Harness) -> None:
        """Entering again, and leaving without having entered, changes nothing."""
        broker = harness.broker
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(False, 0)
        await broker.enter(ROOM, 1, "alice", 10)
        assert await broker.enter(ROOM, 1, "alice", 10) == PresenceChange(False, 1)
        assert await broker.leave(ROOM, 1, 11) == PresenceChange(False, 1)
        assert await broker.leave(ROOM, 2, 10) == PresenceChange(False, 1)
        assert await broker.leave(OTHER, 1, 10) == PresenceChange(False, 0)
        assert await broker.members(ROOM) == [Member(1, "alice", 1)]
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(True, 0)
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(False, 0)

    async def test_members_are_in_order_of_arrival(self, harness: Harness) -> None:
        """Members are listed in order of arrival, with their connections; a user who returns is last."""
        broker = harness.broker
        for user_id, username, connection in ((3, "carol", 30), ("x-1", "Ünï", 40), (1, "alice", 10), (3, "carol", 31)):
            await broker.enter(ROOM, user_id, username, connection)
        assert await broker.members(ROOM) == [Member(3, "carol", 2), Member("x-1", "Ünï"), Member(1, "alice")]
        for connection in (30, 31):
            await broker.leave(ROOM, 3, connection)
        await broker.enter(ROOM, 3, "carol", 32)
        assert await broker.members(ROOM) == [Member("x-1", "Ünï"), Member(1, "alice"), Member(3, "carol")]

    async def test_the_last_username_counts(self, harness: Harness) -> None:
        """A user who enters with a new name has that name."""
        await harness.broker.enter(ROOM, 1, "alice", 10)
        assert await harness.broker.enter(ROOM, 1, "Alice B.", 11) == PresenceChange(False, 1)
        assert await harness.broker.members(ROOM) == [Member(1, "Alice B.", 2)]

    async def test_many_connections_of_one_user(self, harness: Harness) -> None:
        """A user stays in the room until the last connection has left, in any order."""
        broker = harness.broker
        for connection in range(12):
            assert await broker.enter(ROOM, 1, "alice", connection) == PresenceChange(connection == 0, 1)
        assert await broker.members(ROOM) == [Member(1, "alice", 12)]
        order = [5, 0, 11, 3, 8, 1, 10, 2, 9, 4, 7, 6]
        for left, connection in enumerate(order, 1):
            assert await broker.leave(ROOM, 1, connection) == PresenceChange(left == 12, int(left < 12))
            assert await broker.members(ROOM) == ([Member(1, "alice", 12 - left)] if left < 12 else [])

    async def test_rooms_with_members(self, harness: Harness) -> None:
        """Only rooms with members are listed, each with its number of users."""
        broker = harness.broker
        assert await broker.rooms() == {}
        await harness.fill(1, "task:1")
        await broker.subscribe(["task:2"])
        for room, user_id, connection in ((ROOM, 1, 10), (ROOM, 1, 11), (ROOM, 2, 20), (OTHER, 2, 20)):
            await broker.enter(room, user_id, "name", connection)
        assert await broker.rooms() == {ROOM: 2, OTHER: 1}
        await broker.leave(OTHER, 2, 20)
        assert await broker.rooms() == {ROOM: 2}
        assert await broker.members(OTHER) == []


class ClaimContract:
    async def test_one_caller_gets_a_claim(self, harness: Harness) -> None:
        """The first caller gets the claim; others get False while it is pending, then the answer."""
        broker = harness.broker
        claims = await asyncio.gather(*[broker.claim("k", 30) for _ in range(10)])
        assert sorted(claims) == [False] * 9 + [True]
        assert await broker.claim("other", 30) is True
        await broker.settle("k", b"answer")
        assert [await broker.claim("k", 30), await broker.claim("k", 30)] == [b"answer", b"answer"]

    async def test_an_empty_answer(self, harness: Harness) -> None:
        """An empty answer is different from a pending claim."""
        await harness.broker.claim("k", 30)
        await harness.broker.settle("k", b"")
        assert await harness.broker.claim("k", 30) == b""

    async def test_a_dropped_claim_can_be_taken_again(self, harness: Harness) -> None:
        """Settling with None drops a claim; without a claim it has no effect."""
        await harness.broker.settle("k", None)
        assert await harness.broker.claim("k", 30) is True
        await harness.broker.settle("k", None)
        assert await harness.broker.claim("k", 30) is True
        assert await harness.broker.claim("k", 30) is False

    async def test_an_answer_expires_after_key_ttl(self, harness: Harness) -> None:
        """An answer is returned until KEY_TTL after ``settle``; then the key can be claimed again."""
        await harness.broker.claim("k", 60)
        await harness.pass_time(30)
        await harness.broker.settle("k", b"answer")
        await harness.pass_time(KEY_TTL - 30)
        assert await harness.broker.claim("k", 60) == b"answer"
        await harness.pass_time(31)
        assert await harness.broker.claim("k", 60) is True

    async def test_a_claim_that_is_not_settled_expires(self, harness: Harness) -> None:
        """A claim without an answer expires after its time; other callers do not extend it."""
        await harness.broker.claim("k", 60)
        await harness.pass_time(30)
        assert await harness.broker.claim("k", 60) is False
        await harness.pass_time(31)
        assert await harness.broker.claim("k", 60) is True

    async def test_settling_an_expired_claim(self, harness: Harness) -> None:
        """An answer that is stored after its claim expired is returned."""
        await harness.broker.claim("k", 30)
        await harness.pass_time(31)
        await harness.broker.settle("k", b"late")
        assert await harness.broker.claim("k", 30) == b"late"

    async def test_claims_keys_and_values_are_separate(self, harness: Harness) -> None:
        """The same string can be a claim, an idempotency key and the key of a one-time value."""
        broker = harness.broker
        await broker.put("k", b"kept", 60)
        assert await broker.claim("k", 30) is True
        assert split(await broker.publish(ROOM, b"x", "k"))[1] == 1
        assert await broker.take("k") == b"kept"
        assert await broker.claim("k", 30) is False

    async def test_a_value_is_taken_once(self, harness: Harness) -> None:
        """Of all callers, concurrent or later, exactly one gets the value."""
        await harness.broker.put("k", b"value", 60)
        assert await harness.broker.take("other") is None
        taken = await asyncio.gather(*[harness.broker.take("k") for _ in range(10)])
        assert sorted(taken, key=str) == [None] * 9 + [b"value"]
        assert await harness.broker.take("k") is None

    async def test_values_expire(self, harness: Harness) -> None:
        """Each value expires after its own TTL."""
        for key, ttl in (("long", 300.0), ("short", 30.0), ("taken in time", 30.0)):
            await harness.broker.put(key, b"value", ttl)
        await harness.pass_time(20)
        assert await harness.broker.take("taken in time") == b"value"
        await harness.pass_time(11)
        assert await harness.broker.take("short") is None
        await harness.pass_time(200)
        assert await harness.broker.take("long") == b"value"

    async def test_put_replaces_a_value(self, harness: Harness) -> None:
        """Putting a key again replaces its value and its TTL."""
        await harness.broker.put("k", b"first", 30)
        await harness.broker.put("k", b"second", 300)
        await harness.pass_time(60)
        await harness.broker.put("another", b"", 30)
        assert await harness.broker.take("k") == b"second"
        assert await harness.broker.take("another") == b""


class RevocationContract:
    async def test_a_token_is_valid_before_a_revocation(self, harness: Harness) -> None:
        """No token is revoked initially, whatever its time of issue and id."""
        for issued in (None, 0.0, 1e9):
            for token_id in (None, "", "t"):
                assert not await harness.broker.is_revoked(1, issued, token_id)

    async def test_revoking_all_tokens_before_a_time(self, harness: Harness) -> None:
        """Tokens of this user issued before the time are revoked, and those without a time of issue."""
        await harness.broker.revoke_all(1, 1763900000.25, 60)
        assert await harness.broker.is_revoked(1, 1763900000.0, None)
        assert await harness.broker.is_revoked(1, None, "t")
        assert not await harness.broker.is_revoked(1, 1763900000.25, "t")
        for other in (2, 11, "x"):
            assert not await harness.broker.is_revoked(other, 0.0, "t")

    async def test_the_latest_revocation_counts(self, harness: Harness) -> None:
        """The latest time counts, in whatever order the calls come."""
        for before in (1000.0, 3000.0, 2000.5):
            await harness.broker.revoke_all("u", before, 60)
        assert await harness.broker.is_revoked("u", 2999.0, None)
        assert not await harness.broker.is_revoked("u", 3000.0, None)

    @pytest.mark.parametrize("token_id", ["t", "a b", "{x}:y\r\n*", "é\0", "\ud800", "x" * 5000])
    async def test_revoking_one_token(self, harness: Harness, token_id: str) -> None:
        """A token is revoked by its id, which may contain any characters, for this user only."""
        await harness.broker.revoke_one(1, token_id, 60)
        assert await harness.broker.is_revoked(1, 2e9, token_id)
        assert await harness.broker.is_revoked(1, None, token_id)
        assert not await harness.broker.is_revoked(1, None, token_id + "t")
        assert not await harness.broker.is_revoked(1, None, None)
        assert not await harness.broker.is_revoked(2, None, token_id)

    async def test_revocations_expire(self, harness: Harness) -> None:
        """Each revocation expires after its own TTL; a repeat extends it."""
        broker = harness.broker
        await broker.revoke_all(1, 1000.0, 30)
        await broker.revoke_one(2, "t", 30)
        await harness.pass_time(20)
        assert await broker.is_revoked(2, None, "t")
        await broker.revoke_all(1, 500.0, 30)
        await harness.pass_time(20)
        assert await broker.is_revoked(1, 999.0, None)
        assert not await broker.is_revoked(2, None, "t")
        await harness.pass_time(11)
        assert not await broker.is_revoked(1, 0.0, None)


#: A call of every method of a broker except start and close.
CALLS: dict[str, Callable[[Broker], Awaitable[object]]] = {
    "ping": lambda broker: broker.ping(),
    "publish": lambda broker: broker.publish(ROOM, b"x"),
    "publish_many": lambda broker: broker.publish_many([Publication(ROOM, b"x")]),
    "publish_many of nothing": lambda broker: broker.publish_many([]),
    "subscribe": lambda broker: broker.subscribe([ROOM]),
    "unsubscribe": lambda broker: broker.unsubscribe([ROOM]),
    "history": lambda broker: broker.history(ROOM),
    "admit": lambda broker: broker.admit(1, 1, 5),
    "release": lambda broker: broker.release(1, 1),
    "connections": lambda broker: broker.connections(1),
    "enter": lambda broker: broker.enter(ROOM, 1, "alice", 1),
    "leave": lambda broker: broker.leave(ROOM, 1, 1),
    "members": lambda broker: broker.members(ROOM),
    "rooms": lambda broker: broker.rooms(),
    "claim": lambda broker: broker.claim("k", 30),
    "settle": lambda broker: broker.settle("k", b""),
    "put": lambda broker: broker.put("k", b"", 1),
    "take": lambda broker: broker.take("k"),
    "revoke_all": lambda broker: broker.revoke_all(1, 1.0, 1),
    "revoke_one": lambda broker: broker.revoke_one(1, "t", 1),
    "is_revoked": lambda broker: broker.is_revoked(1, None, None),
    "signal": lambda broker: broker.signal(b""),
}


class LifecycleContract:
    async def test_ping(self, harness: Harness) -> None:
        """A running broker answers a ping."""
        await harness.broker.ping()

    @pytest.mark.parametrize("name", CALLS)
    async def test_calls_after_close(self, harness: Harness, name: str) -> None:
        """After ``close`` every method raises Unavailable with a sentence, and nothing is delivered."""
        await harness.broker.subscribe([ROOM])
        await harness.broker.close()
        with pytest.raises(Unavailable, match=r"\w+ \w+"):
            await CALLS[name](harness.broker)
        assert (harness.listener.events, harness.listener.signals) == ([], [])

    async def test_closing_twice(self, harness: Harness) -> None:
        """Closing a closed broker has no effect."""
        await harness.broker.close()
        await harness.broker.close()


class BrokerContract(
    PublishContract,
    SubscribeContract,
    HistoryContract,
    LeaseContract,
    PresenceContract,
    ClaimContract,
    RevocationContract,
    LifecycleContract,
):
    """The whole contract. ``harness`` has a new broker with HISTORY_SIZE and HISTORY_TTL, closed afterwards."""
