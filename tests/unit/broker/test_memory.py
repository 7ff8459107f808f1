"""The embedded broker: the contract, its further guarantees, and its history against a simple model."""

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


class ManualClock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    """A harness with an embedded broker on a manual clock."""
    clock = ManualClock()
    harness = Harness(MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock), clock.pass_time)
    await harness.broker.start(harness.listener)
    yield harness
    await harness.broker.close()


@pytest.fixture
def broker(harness: Harness) -> MemoryBroker:
    """The broker of the harness, for tests beyond the contract."""
    assert isinstance(harness.broker, MemoryBroker)
    return harness.broker


class TestContract(BrokerContract):
    """The embedded broker fulfils the contract."""


def reference_count(thing: object) -> int:
    """Return the number of references to an object, to compare it with an earlier number."""
    return sys.getrefcount(thing)


def run_without_suspending(coroutine: Coroutine[Any, Any, str]) -> str:
    """Run a coroutine that must not suspend."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return str(stop.value.value)


async def test_publish_never_suspends(harness: Harness) -> None:
    """Publish does not suspend, and the listener has received the event when it returns."""
    await harness.broker.subscribe([ROOM])
    event_id = run_without_suspending(harness.broker.publish(ROOM, b"x"))
    assert harness.listener.events == [(ROOM, event_id, b"x")]


@pytest.mark.parametrize("name", CALLS)
async def test_calls_before_start(name: str) -> None:
    """Before ``start`` every method raises Unavailable."""
    with pytest.raises(Unavailable, match="not started"):
        await CALLS[name](MemoryBroker())


async def test_epochs_differ_between_brokers() -> None:
    """Two brokers never share an epoch, so ids from before a restart do not resume."""
    epochs = set()
    for _ in range(20):
        broker = MemoryBroker()
        await broker.start(RecordingListener())
        epochs |= {split(await broker.publish(room, b"x"))[0] for room in (ROOM, OTHER)}
        await broker.close()
    assert len(epochs) == 40


async def test_a_swept_room_begins_a_new_epoch(harness: Harness, broker: MemoryBroker) -> None:
    """A sweep drops a room without events for the TTL; its next event begins a new epoch."""
    ids = await harness.fill(2)
    await harness.pass_time(HISTORY_TTL + 1)
    await broker.sweep()
    found = await broker.history(ROOM, ids[-1])
    assert (list(found.events), found.recovered, split(found.last_id)[1]) == ([], False, 0)
    assert split(await broker.publish(ROOM, b"x"))[0] == split(found.last_id)[0] != split(ids[-1])[0]


@pytest.mark.parametrize("holder", ["member", "subscription", "new event", "new room"])
async def test_a_sweep_keeps_used_rooms(harness: Harness, broker: MemoryBroker, holder: str) -> None:
    """A room with members, a subscription or a recent event, or that is new, keeps epoch and offset."""
    if holder != "new room":
        await harness.fill(2)
        await harness.pass_time(HISTORY_TTL + 1)
    if holder == "member":
        await broker.enter(ROOM, 1, "alice", 1)
    elif holder == "subscription":
        await broker.subscribe([ROOM])
    elif holder == "new event":
        await broker.publish(ROOM, b"new")
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


async def test_a_room_continues_before_the_sweep(harness: Harness) -> None:
    """A room whose events have expired continues its ids until it is swept."""
    ids = await harness.fill(2)
    await harness.pass_time(HISTORY_TTL + 1)
    assert (await harness.broker.history(ROOM, ids[1])).recovered
    assert not (await harness.broker.history(ROOM, ids[0])).recovered
    third = await harness.broker.publish(ROOM, b"x")
    assert split(third) == (split(ids[0])[0], 3)
    assert (await harness.broker.history(ROOM, ids[1])).events == [Event(third, b"x")]


async def test_an_event_exactly_as_old_as_the_ttl(harness: Harness) -> None:
    """An event exactly as old as the TTL is stored, an older one is not."""
    await harness.fill(1)
    await harness.pass_time(HISTORY_TTL)
    assert len((await harness.broker.history(ROOM)).events) == 1
    await harness.pass_time(0.001)
    assert list((await harness.broker.history(ROOM)).events) == []


async def test_history_size_0() -> None:
    """With history_size 0 events have ids and are delivered, but none is stored."""
    broker, listener = MemoryBroker(history_size=0), RecordingListener()
    await broker.start(listener)
    await broker.subscribe([ROOM])
    first, second = await broker.publish(ROOM, b"1"), await broker.publish(ROOM, b"2")
    assert [event_id for _, event_id, _ in listener.events] == [first, second]
    assert list((await broker.history(ROOM)).events) == []
    assert not (await broker.history(ROOM, first)).recovered
    assert (await broker.history(ROOM, second)).recovered
    await broker.close()


async def test_dropped_payloads_are_freed() -> None:
    """A payload is freed after at most an eighth more than history_size later events."""
    broker, payload = MemoryBroker(history_size=16), bytes(1000)
    await broker.start(RecordingListener())
    before = reference_count(payload)
    await broker.publish(ROOM, payload)
    assert reference_count(payload) > before
    for _ in range(18):
        await broker.publish(ROOM, b"")
    assert reference_count(payload) == before
    assert len((await broker.history(ROOM)).events) == 16
    await broker.close()


async def test_a_sweep_frees_expired_entries(harness: Harness, broker: MemoryBroker) -> None:
    """A sweep frees expired payloads, idempotency keys, claims and values that are not used again."""
    payload, value = bytes(1000), bytes(1001)
    key, claim = "".join(["the ", "key"]), "".join(["the ", "claim"])
    before = [reference_count(thing) for thing in (payload, value, key, claim)]
    await broker.publish(ROOM, payload, key)
    await broker.subscribe([ROOM])
    await broker.put("k", value, KEY_TTL)
    await broker.claim(claim, 60)
    between = [reference_count(thing) for thing in (payload, value, key, claim)]
    assert all(map(operator.gt, between, before))
    await harness.pass_time(KEY_TTL + 1)
    await broker.sweep()
    assert [reference_count(thing) for thing in (payload, value, key, claim)] == before


async def test_expiring_entries_are_limited() -> None:
    """Beyond the limit the oldest keys, claims and values are dropped, and sizes are counted exactly."""
    clock = ManualClock()
    broker = MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock, max_expiring_bytes=100_000)
    await broker.start(RecordingListener())
    for number in range(1000):
        clock.now += 0.01
        await broker.publish(ROOM, b"", f"key {number}")
        if await broker.claim(f"claim {number}", 60):
            await broker.settle(f"claim {number}", None if number % 2 else bytes(1000))
        await broker.put(f"value {number}", bytes(5000), 60)
    kinds = (broker._keys, broker._claims, broker._values)
    assert all(80_000 < one.size <= 100_000 for one in kinds)
    first = (await broker.history(ROOM)).events[0].id
    assert await broker.publish(ROOM, b"", "key 999") == (await broker.history(ROOM)).last_id
    assert await broker.publish(ROOM, b"", "key 0") != first
    assert await broker.claim("claim 998", 60) == bytes(1000)
    assert await broker.claim("claim 0", 60) is True
    assert await broker.take("value 999") == bytes(5000)
    assert await broker.take("value 0") is None
    await clock.pass_time(KEY_TTL)
    await broker.sweep()
    assert [one.size for one in kinds] == [0, 0, 0]
    await broker.close()


async def test_histories_are_limited_together() -> None:
    """Beyond the limit the rooms without new events for longest lose their history, and clients are told."""
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
        else:  # the room keeps its epoch and offset
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


async def test_the_size_of_histories_is_counted() -> None:
    """The size is exact after trimming, expiry and a sweep, and 0 when no event is stored."""
    clock = ManualClock()
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


async def test_an_answer_beyond_the_limit() -> None:
    """The newest answer is stored even if it alone exceeds the limit, so its command is not repeated at once."""
    broker = MemoryBroker(max_expiring_bytes=10)
    await broker.start(RecordingListener())
    for key in ("a", "b"):
        assert await broker.claim(key, 60) is True
        await broker.settle(key, bytes(1000))
        assert await broker.claim(key, 60) == bytes(1000)
    assert await broker.claim("a", 60) is True
    await broker.close()


async def test_close_frees_everything(broker: MemoryBroker) -> None:
    """A closed broker that is still referenced keeps nothing."""
    payload, value, name = bytes(1000), bytes(1001), "".join(["the ", "name"])
    before = [reference_count(thing) for thing in (payload, value, name)]
    await broker.publish(ROOM, payload, name)
    await broker.put(name, value, 60)
    await broker.claim(name, 60)
    await broker.subscribe([name])
    await broker.admit(name, 1, 1)
    await broker.enter(ROOM, name, name, 1)
    await broker.close()
    assert [reference_count(thing) for thing in (payload, value, name)] == before


async def test_a_long_sweep_yields_to_other_tasks() -> None:
    """During a sweep of thousands of rooms other tasks run, and events published meanwhile are not lost."""
    clock, listener = ManualClock(), RecordingListener()
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


async def test_a_started_broker_sweeps_periodically() -> None:
    """An unused room is dropped without a call of ``sweep``, and ``close`` ends the task."""
    tasks = asyncio.all_tasks()
    broker = MemoryBroker(history_ttl=0.05)
    await broker.start(RecordingListener())
    event_id = await broker.publish(ROOM, b"x")
    async with asyncio.timeout(10):
        while split((await broker.history(ROOM)).last_id)[0] == split(event_id)[0]:
            await asyncio.sleep(0.02)
    await broker.close()
    assert asyncio.all_tasks() == tasks


async def test_put_frees_expired_values(harness: Harness) -> None:
    """Values that are never taken are freed by later calls of ``put``, without a sweep."""
    value = bytes(1000)
    before = reference_count(value)
    for i in range(10):
        await harness.broker.put(f"old {i}", value, 10)
    await harness.pass_time(11)
    for i in range(5):
        await harness.broker.put(f"new {i}", b"", 10)
    assert reference_count(value) == before


@dataclass
class ModelRoom:
    """All events of a room since its epoch began, and its members."""

    epoch: str
    born: float
    events: list[tuple[Event, float]] = field(default_factory=list)
    members: set[int] = field(default_factory=set)


class HistoryMachine(RuleBasedStateMachine):
    """Whatever is published, expires or is swept, history has no gap and no duplicate, and ``recovered`` is exact."""

    SIZE, TTL = 17, 20
    rooms = st.sampled_from(["task:1", "task:2"])

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
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
        """Return the model of ``room``. A new one must have an epoch that was never used before."""
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
        newest_first, similar = list(reversed(self.ids)), similar_ids(self.ids[-1])
        since = data.draw(st.sampled_from(newest_first) | st.text(max_size=8) | st.sampled_from(similar))
        found = self.runner.run(self.broker.history(room, since, limit))
        model = self.room_of(room, found.last_id)
        assert found.last_id == f"{model.epoch}-{len(model.events)}"
        ids = [f"{model.epoch}-0", *[event.id for event, _ in model.events]]
        after = [event for event, _ in model.events[ids.index(since) :]] if since in ids else None
        reached = after is not None and all(event in self.kept(model) for event in after)
        assert found.recovered is reached
        assert list(found.events) == ((after or [])[:limit] if reached else [])

    @invariant()
    def received_each_once_in_order(self) -> None:
        assert self.listener.events == self.expected


def similar_ids(event_id: str) -> list[str]:
    """Return strings that are similar to an id, or to none if nothing was published yet."""
    return list(not_ids(event_id).values()) if "-" in event_id else [""]


HistoryMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHistoryAgainstModel = pytest.mark.slow(HistoryMachine.TestCase)
