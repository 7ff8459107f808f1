"""The embedded broker: the contract, what it promises beyond it, and its history against a naive model."""

from __future__ import annotations

import asyncio
import operator
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from broker_contract import (
    CALLS,
    HISTORY_SIZE,
    HISTORY_TTL,
    OTHER,
    ROOM,
    BrokerContract,
    Harness,
    RecordingListener,
    not_ids,
    split,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roomcast.broker.base import KEY_TTL, Broker, Event, History
from roomcast.broker.event_log import EVENT_OVERHEAD
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable


class HandClock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    """A harness with an embedded broker on a hand clock."""
    clock = HandClock()
    harness = Harness(MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock), clock.pass_time)
    await harness.broker.start(harness.listener)
    yield harness
    await harness.broker.close()


@pytest.fixture
def broker(harness: Harness) -> MemoryBroker:
    """The broker of the harness, for what the contract does not have."""
    assert isinstance(harness.broker, MemoryBroker)
    return harness.broker


class TestContract(BrokerContract):
    """The embedded broker keeps the contract."""


def holders(thing: object) -> int:
    """How many references there are to ``thing``, to be compared with how many there were."""
    return sys.getrefcount(thing)


def at_once(coroutine: Coroutine[Any, Any, str]) -> str:
    """Run a coroutine that must not suspend."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return str(stop.value.value)


async def test_publish_never_suspends(harness: Harness) -> None:
    """Publish gives way to no other task, and the listener has heard of the event when it returns."""
    await harness.broker.subscribe([ROOM])
    event_id = at_once(harness.broker.publish(ROOM, b"x"))
    assert harness.listener.events == [(ROOM, event_id, b"x")]


@pytest.mark.parametrize("name", CALLS)
async def test_a_broker_that_was_not_started(name: str) -> None:
    """Before start every method raises Unavailable."""
    with pytest.raises(Unavailable, match="not started"):
        await CALLS[name](MemoryBroker())


async def test_epochs_differ_between_brokers() -> None:
    """The ids of one broker are none of the next one's, as after a restart."""
    epochs = set()
    for _ in range(20):
        broker = MemoryBroker()
        await broker.start(RecordingListener())
        epochs |= {split(await broker.publish(room, b"x"))[0] for room in (ROOM, OTHER)}
        await broker.close()
    assert len(epochs) == 40


async def test_a_swept_room_begins_anew(harness: Harness, broker: MemoryBroker) -> None:
    """A room not written to for its ttl is forgotten by a sweep, and what comes after has a new epoch."""
    ids = await harness.fill(2)
    await harness.pass_time(HISTORY_TTL + 1)
    await broker.sweep()
    found = await broker.history(ROOM, ids[-1])
    assert (list(found.events), found.recovered, split(found.last_id)[1]) == ([], False, 0)
    assert split(await broker.publish(ROOM, b"x"))[0] == split(found.last_id)[0] != split(ids[-1])[0]


@pytest.mark.parametrize("holder", ["member", "subscription", "young event", "young room"])
async def test_a_room_in_use_survives_the_sweep(harness: Harness, broker: MemoryBroker, holder: str) -> None:
    """A room that has members, is subscribed, was written to or was begun of late keeps epoch and offset."""
    if holder != "young room":
        await harness.fill(2)
        await harness.pass_time(HISTORY_TTL + 1)
    if holder == "member":
        await broker.enter(ROOM, 1, "alice", 1)
    elif holder == "subscription":
        await broker.subscribe([ROOM])
    elif holder == "young event":
        await broker.publish(ROOM, b"young")
    last_id = (await broker.history(ROOM)).last_id
    await broker.sweep()
    found = await broker.history(ROOM, last_id)
    assert (list(found.events), found.recovered, found.last_id) == ([], True, last_id)


async def test_a_room_let_go_is_forgotten(harness: Harness, broker: MemoryBroker) -> None:
    """A room is forgotten once its last member has left and its subscription ended, not before."""
    await broker.enter(ROOM, 1, "alice", 1)
    await broker.subscribe([ROOM])
    (last_id,) = await harness.fill(1)
    await harness.pass_time(HISTORY_TTL + 1)
    await broker.leave(ROOM, 1, 1)
    await broker.sweep()
    assert (await broker.history(ROOM, last_id)).recovered
    await broker.unsubscribe([ROOM])
    await broker.sweep()
    assert not (await broker.history(ROOM, last_id)).recovered


async def test_expired_without_a_sweep(harness: Harness) -> None:
    """A room whose events all expired and that was not swept goes on where it was."""
    ids = await harness.fill(2)
    await harness.pass_time(HISTORY_TTL + 1)
    assert (await harness.broker.history(ROOM, ids[1])).recovered
    assert not (await harness.broker.history(ROOM, ids[0])).recovered
    third = await harness.broker.publish(ROOM, b"x")
    assert split(third) == (split(ids[0])[0], 3)
    assert (await harness.broker.history(ROOM, ids[1])).events == [Event(third, b"x")]


async def test_at_the_very_end_of_the_ttl(harness: Harness) -> None:
    """An event as old as the ttl is kept; an older one is gone."""
    await harness.fill(1)
    await harness.pass_time(HISTORY_TTL)
    assert len((await harness.broker.history(ROOM)).events) == 1
    await harness.pass_time(0.001)
    assert list((await harness.broker.history(ROOM)).events) == []


async def test_a_history_of_nothing() -> None:
    """With history_size 0 events have ids and are listener, but none is kept."""
    broker, listener = MemoryBroker(history_size=0), RecordingListener()
    await broker.start(listener)
    await broker.subscribe([ROOM])
    first, second = await broker.publish(ROOM, b"1"), await broker.publish(ROOM, b"2")
    assert [event_id for _, event_id, _ in listener.events] == [first, second]
    assert list((await broker.history(ROOM)).events) == []
    assert not (await broker.history(ROOM, first)).recovered
    assert (await broker.history(ROOM, second)).recovered
    await broker.close()


async def test_dropped_payloads_are_let_go() -> None:
    """A payload is freed by the time an eighth more than history_size came after it."""
    broker, payload = MemoryBroker(history_size=16), bytes(1000)
    await broker.start(RecordingListener())
    before = holders(payload)
    await broker.publish(ROOM, payload)
    assert holders(payload) > before
    for _ in range(18):
        await broker.publish(ROOM, b"")
    assert holders(payload) == before
    assert len((await broker.history(ROOM)).events) == 16
    await broker.close()


async def test_a_sweep_frees_what_has_expired(harness: Harness, broker: MemoryBroker) -> None:
    """Expired payloads, idempotency keys, claims and kept values are freed by a sweep, with nobody asking for them."""
    payload, value = bytes(1000), bytes(1001)
    key, claim = "".join(["the ", "key"]), "".join(["the ", "claim"])
    before = [holders(thing) for thing in (payload, value, key, claim)]
    await broker.publish(ROOM, payload, key)
    await broker.subscribe([ROOM])
    await broker.put("k", value, KEY_TTL)
    await broker.claim(claim, 60)
    between = [holders(thing) for thing in (payload, value, key, claim)]
    assert all(map(operator.gt, between, before))
    await harness.pass_time(KEY_TTL + 1)
    await broker.sweep()
    assert [holders(thing) for thing in (payload, value, key, claim)] == before


async def test_what_is_kept_for_a_time_is_bounded() -> None:
    """Keys, claims with their answers, and values: beyond the bound the oldest go, and nothing is counted twice."""
    clock = HandClock()
    broker = MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock, max_expiring_bytes=100_000)
    await broker.start(RecordingListener())
    for number in range(1000):
        clock.now += 0.01
        await broker.publish(ROOM, b"", f"key {number}")
        if await broker.claim(f"claim {number}", 60):
            await broker.settle(f"claim {number}", None if number % 2 else bytes(1000))
        await broker.put(f"value {number}", bytes(5000), 60)
    held = (broker._keys, broker._claims, broker._values)
    assert all(80_000 < one.size <= 100_000 for one in held)
    first = (await broker.history(ROOM)).events[0].id
    assert await broker.publish(ROOM, b"", "key 999") == (await broker.history(ROOM)).last_id
    assert await broker.publish(ROOM, b"", "key 0") != first
    assert await broker.claim("claim 998", 60) == bytes(1000)
    assert await broker.claim("claim 0", 60) is True
    assert await broker.take("value 999") == bytes(5000)
    assert await broker.take("value 0") is None
    await clock.pass_time(KEY_TTL)
    await broker.sweep()
    assert [one.size for one in held] == [0, 0, 0]
    await broker.close()


async def test_histories_are_bounded_in_all() -> None:
    """Beyond the bound the rooms that were quiet longest lose theirs, which a client that resumes there is told."""
    listener = RecordingListener()
    broker = MemoryBroker(100, HISTORY_TTL, max_history_bytes=100_000)
    await broker.start(listener)
    await broker.subscribe(["channel:kept"])
    await broker.enter("channel:full", 7, "alice", 1)
    ids = {room: await broker.publish(room, bytes(900)) for room in ("channel:kept", "channel:full", "channel:gone")}
    for room in ids:
        assert len((await broker.history(room)).events) == 1
    for number in range(1000):
        await broker.publish(f"channel:{number}", bytes(900))
        assert broker._history_bytes <= 100_000
    assert 90 < len(broker._logs) < 110
    for room, id in ids.items():
        history = await broker.history(room, id)
        if room == "channel:gone":
            assert not history.recovered and history.last_id != id
        else:  # it goes on as it was
            assert history == History([], True, id)
    assert len((await broker.history("channel:999")).events) == 1
    for _ in range(1000):
        await broker.publish("channel:999", bytes(2000))
        assert broker._history_bytes <= 100_000
    events = (await broker.history("channel:999")).events
    assert 20 < len(events) < 60 and events[-1].id.endswith("-1001")
    assert await broker.publish("channel:999", bytes(200_000)) == (await broker.history("channel:999")).last_id
    await broker.publish("channel:998", b"")
    assert broker._history_bytes < 100_000
    await broker.close()


async def test_what_histories_take_is_counted_and_freed() -> None:
    """By size, by time, by a sweep: when nothing is kept any more, nothing is counted."""
    clock = HandClock()
    broker = MemoryBroker(10, 60, clock)
    await broker.start(RecordingListener())
    for number in range(100):
        await broker.publish(f"channel:{number % 3}", bytes(number))
        clock.now += 1
    for name in broker._logs:
        await broker.history(name)
    assert (
        broker._history_bytes
        == sum(len(one) + EVENT_OVERHEAD for log in broker._logs.values() for one in log.payloads)
        > 0
    )
    await clock.pass_time(61)
    await broker.sweep()
    assert (broker._history_bytes, broker._logs) == (0, {})
    await broker.close()


async def test_one_answer_beyond_the_bound_is_kept_alone() -> None:
    """What was just done is not done again at once, however long its answer."""
    broker = MemoryBroker(max_expiring_bytes=10)
    await broker.start(RecordingListener())
    for key in ("a", "b"):
        assert await broker.claim(key, 60) is True
        await broker.settle(key, bytes(1000))
        assert await broker.claim(key, 60) == bytes(1000)
    assert await broker.claim("a", 60) is True
    await broker.close()


async def test_close_lets_go_of_everything(broker: MemoryBroker) -> None:
    """A closed broker that is still referred to keeps nothing of what it was given."""
    payload, value, name = bytes(1000), bytes(1001), "".join(["the ", "name"])
    before = [holders(thing) for thing in (payload, value, name)]
    await broker.publish(ROOM, payload, name)
    await broker.put(name, value, 60)
    await broker.claim(name, 60)
    await broker.subscribe([name])
    await broker.admit(name, 1, 1)
    await broker.enter(ROOM, name, name, 1)
    await broker.close()
    assert [holders(thing) for thing in (payload, value, name)] == before


async def test_a_sweep_of_many_lets_others_run() -> None:
    """A sweep of thousands of rooms gives way to other tasks on its way, which may publish and be lost nothing."""
    clock, listener = HandClock(), RecordingListener()
    broker = MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock)
    await broker.start(listener)
    for i in range(5000):
        await broker.publish(f"task:{i}", b"old")
    await clock.pass_time(HISTORY_TTL + 1)
    sweep = asyncio.create_task(broker.sweep())
    turns = 0
    while not sweep.done():
        await asyncio.sleep(0)
        turns += 1
        await broker.publish("task:4999", b"new")
    assert turns >= 5
    found = await broker.history("task:4999")
    assert len(found.events) == HISTORY_SIZE
    assert split(found.last_id)[1] == turns + 1
    await broker.close()


async def test_a_started_broker_sweeps_by_itself() -> None:
    """A room is forgotten in time with nobody calling sweep, and close ends the task that does it."""
    tasks = asyncio.all_tasks()
    broker = MemoryBroker(history_ttl=0.05)
    await broker.start(RecordingListener())
    event_id = await broker.publish(ROOM, b"x")
    async with asyncio.timeout(10):
        while split((await broker.history(ROOM)).last_id)[0] == split(event_id)[0]:
            await asyncio.sleep(0.02)
    await broker.close()
    assert asyncio.all_tasks() == tasks


async def test_put_frees_what_was_put_before(harness: Harness) -> None:
    """Without a sweep too, values that nobody takes are freed by those that are put later."""
    value = bytes(1000)
    before = holders(value)
    for i in range(10):
        await harness.broker.put(f"old {i}", value, 10)
    await harness.pass_time(11)
    for i in range(5):
        await harness.broker.put(f"new {i}", b"", 10)
    assert holders(value) == before


@dataclass
class ModelRoom:
    """All that ever happened in a room since its history began."""

    epoch: str
    born: float
    events: list[tuple[Event, float]] = field(default_factory=list)
    members: set[int] = field(default_factory=set)


class HistoryMachine(RuleBasedStateMachine):
    """Whatever is published, expires or is swept: no gap, no double, recovered False exactly when an event is gone."""

    SIZE, TTL = 17, 20
    rooms = st.sampled_from(["task:1", "task:2"])

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = HandClock()
        self.listener = RecordingListener()
        self.broker: Broker = MemoryBroker(self.SIZE, self.TTL, self.clock)
        self.model: dict[str, ModelRoom] = {}
        self.epochs: set[str] = set()
        self.ids: list[str] = ["task:1"]
        self.expected: list[tuple[str, str, bytes]] = []
        self.published = 0
        self.runner.run(self.broker.start(self.listener))
        self.runner.run(self.broker.subscribe(["task:1"]))

    def teardown(self) -> None:
        self.runner.run(self.broker.close())
        self.runner.close()

    def room_of(self, room: str, an_id: str) -> ModelRoom:
        """The model of ``room``; a new one must have an epoch that was never there before."""
        epoch = split(an_id)[0]
        if room not in self.model:
            assert epoch not in self.epochs
            self.epochs.add(epoch)
            self.ids.append(f"{epoch}-0")
            self.model[room] = ModelRoom(epoch, self.clock.now)
        assert self.model[room].epoch == epoch
        return self.model[room]

    def kept(self, model: ModelRoom) -> list[Event]:
        return [event for event, at in model.events[-self.SIZE :] if at >= self.clock.now - self.TTL]

    @rule(room=rooms, count=st.integers(1, 12))
    def publish(self, room: str, count: int) -> None:
        for _ in range(count):
            self.published += 1
            payload = b"%d" % self.published
            event_id = self.runner.run(self.broker.publish(room, payload))
            model = self.room_of(room, event_id)
            model.events.append((Event(event_id, payload), self.clock.now))
            assert split(event_id)[1] == len(model.events)
            self.ids.append(event_id)
            if room == "task:1":
                self.expected.append((room, event_id, payload))

    @rule(seconds=st.integers(0, 25))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(room=rooms, user_id=st.integers(1, 2))
    def enter_or_leave(self, room: str, user_id: int) -> None:
        model = self.room_of(room, self.runner.run(self.broker.history(room)).last_id)
        if user_id in model.members:
            model.members.remove(user_id)
            self.runner.run(self.broker.leave(room, user_id, user_id))
        else:
            model.members.add(user_id)
            self.runner.run(self.broker.enter(room, user_id, "name", user_id))

    @rule()
    def sweep(self) -> None:
        assert isinstance(self.broker, MemoryBroker)
        self.runner.run(self.broker.sweep())
        for room, model in list(self.model.items()):
            written = model.events[-1][1] if model.events else model.born
            if written < self.clock.now - self.TTL and not model.members and room != "task:1":
                del self.model[room]

    @rule(room=rooms, limit=st.none() | st.integers(0, 20))
    def read(self, room: str, limit: int | None) -> None:
        found = self.runner.run(self.broker.history(room, None, limit))
        model = self.room_of(room, found.last_id)
        kept = self.kept(model)
        assert list(found.events) == (kept if limit is None else kept[max(0, len(kept) - limit) :])
        assert (found.recovered, found.last_id) == (True, f"{model.epoch}-{len(model.events)}")

    @rule(room=rooms, data=st.data(), limit=st.none() | st.integers(1, 20))
    def resume(self, room: str, data: st.DataObject, limit: int | None) -> None:
        newest_first = list(reversed(self.ids))
        since = data.draw(st.sampled_from(newest_first) | st.text(max_size=8) | st.sampled_from(beside(self.ids[-1])))
        found = self.runner.run(self.broker.history(room, since, limit))
        model = self.room_of(room, found.last_id)
        assert found.last_id == f"{model.epoch}-{len(model.events)}"
        ids = [f"{model.epoch}-0", *[event.id for event, _ in model.events]]
        after = [event for event, _ in model.events[ids.index(since) :]] if since in ids else None
        reached = after is not None and all(event in self.kept(model) for event in after)
        assert found.recovered is reached
        assert list(found.events) == ((after or [])[:limit] if reached else [])

    @invariant()
    def heard_each_once_in_order(self) -> None:
        assert self.listener.events == self.expected


def beside(event_id: str) -> list[str]:
    """Strings close to an id, or to none while nothing was published."""
    return list(not_ids(event_id).values()) if "-" in event_id else [""]


HistoryMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHistoryAgainstModel = pytest.mark.slow(HistoryMachine.TestCase)
