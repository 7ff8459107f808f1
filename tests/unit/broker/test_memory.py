"""The embedded broker: the contract, and its further guarantees."""

from __future__ import annotations

import asyncio
import operator
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from broker_contract import (
    ANNOUNCEMENTS,
    CALLS,
    HISTORY_BY_TYPE,
    HISTORY_BYTES,
    HISTORY_SIZE,
    HISTORY_TTL,
    OTHER,
    QUEUE_LIMITS,
    ROOM,
    BrokerContract,
    Harness,
    ManualClock,
    RecordingListener,
    split,
)

from roomcast.broker import memory
from roomcast.broker.base import KEY_TTL, Event, History, Publication
from roomcast.broker.event_log import EVENT_OVERHEAD
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    """A harness with an embedded broker on a manual clock."""
    clock = ManualClock()
    broker = MemoryBroker(
        HISTORY_SIZE,
        HISTORY_TTL,
        clock,
        history_bytes=HISTORY_BYTES,
        history_by_type=HISTORY_BY_TYPE,
        queue_limits=QUEUE_LIMITS,
    )
    harness = Harness(broker, clock.pass_time)
    await harness.broker.start(harness.listener, ANNOUNCEMENTS)
    yield harness
    await harness.broker.close()


@pytest.fixture
def broker(harness: Harness) -> MemoryBroker:
    """The broker of the harness, for tests beyond the contract."""
    assert isinstance(harness.broker, MemoryBroker)
    return harness.broker


class TestContract(BrokerContract):
    """The embedded broker fulfils the contract."""


def reference_count(value: object) -> int:
    """Return the number of references to an object, to compare it with an earlier number."""
    return sys.getrefcount(value)


def run_without_suspending(coroutine: Coroutine[Any, Any, str]) -> str:
    """Run a coroutine that must not suspend."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return str(stop.value.value)


async def test_publish_takes_effect_before_it_suspends(harness: Harness) -> None:
    """A single publish does not suspend, and the listener has received the event when it returns."""
    await harness.broker.subscribe([ROOM])
    event_id = run_without_suspending(harness.broker.publish(ROOM, b"x"))
    assert harness.listener.events == [(ROOM, event_id, b"x")]


async def publish_until_one_suspends(broker: MemoryBroker, room: Callable[[int], str]) -> int:
    """Publish to ``room(number)`` until a publish suspends, and finish that one. Return how many there were."""
    for number in range(1, 10_000):
        coroutine = broker.publish(room(number), b"x" * 150)
        try:
            coroutine.send(None)
        except StopIteration:
            continue
        assert broker._logs[room(number)].payloads  # it has taken effect
        with pytest.raises(StopIteration):
            coroutine.send(None)
        return number
    raise AssertionError("no publish has suspended")


@pytest.mark.parametrize("rooms", [1, 1000])
async def test_a_long_series_of_publishes_suspends(harness: Harness, broker: MemoryBroker, rooms: int) -> None:
    """About one of 200 small publishes suspends, however many rooms they are for. Large ones suspend earlier."""
    harness.listener.wait_for_members = suspend_once  # type: ignore[method-assign]
    for _ in range(3):
        count = await publish_until_one_suspends(broker, lambda number: f"channel:{number % rooms}")
        assert 100 < count <= 300
    coroutine = broker.publish(ROOM, b"x" * 100_000)
    coroutine.send(None)
    with pytest.raises(StopIteration):
        coroutine.send(None)


async def suspend_once(room: str) -> None:
    """Suspend until the next ``send``."""
    await asyncio.sleep(0)


async def test_others_run_during_a_long_series_of_publishes(harness: Harness, broker: MemoryBroker) -> None:
    """Other coroutines run a part of the time, and the room of the publish may slow the publisher down."""
    turns, waits = 0, []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def wait_for_members(room: str) -> None:
        waits.append(room)
        await asyncio.sleep(0)

    harness.listener.wait_for_members = wait_for_members  # type: ignore[method-assign]
    counting = asyncio.create_task(count_turns())
    for _ in range(10_000):
        await broker.publish(ROOM, b"x" * 150)
    counting.cancel()
    assert turns > 30
    assert len(waits) > 30 and set(waits) == {ROOM}


async def test_a_list_is_published_before_others_run(harness: Harness, broker: MemoryBroker) -> None:
    """A long list suspends once, when all of it is published."""
    await broker.subscribe([ROOM])
    publishing = broker.publish_many([Publication(ROOM, b"x" * 1000)] * 1000)
    publishing.send(None)
    assert len(harness.listener.events) == 1000
    with pytest.raises(StopIteration) as stop:
        publishing.send(None)
    assert stop.value.value == [id for _, id, _ in harness.listener.events]


@pytest.mark.parametrize("read", ["history", "members"])
async def test_a_long_series_of_reads_suspends(broker: MemoryBroker, read: str) -> None:
    """A read suspends before it reads, so that its result is current."""
    for number in range(100):
        await broker.enter(ROOM, number, "x", number)
        await broker.publish(ROOM, b"x")
    for _ in range(1000):
        coroutine = getattr(broker, read)(ROOM)
        try:
            coroutine.send(None)
        except StopIteration:
            continue
        break
    else:
        raise AssertionError("no read has suspended")
    await broker.enter(ROOM, 100, "x", 100)
    id = await broker.publish(ROOM, b"new")
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    result = stop.value.value
    assert result.last_id == id if read == "history" else len(result) == 101


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
    before = [reference_count(one) for one in (payload, value, key, claim)]
    await broker.publish(ROOM, payload, key)
    await broker.subscribe([ROOM])
    await broker.put("k", value, KEY_TTL)
    await broker.claim(claim, 60)
    between = [reference_count(one) for one in (payload, value, key, claim)]
    assert all(map(operator.gt, between, before))
    await harness.pass_time(KEY_TTL + 1)
    await broker.sweep()
    assert [reference_count(one) for one in (payload, value, key, claim)] == before


async def test_expiring_entries_are_limited() -> None:
    """Beyond the limit new keys, claims, values and revocations are refused, and none is forgotten before its time."""
    clock = ManualClock()
    broker = MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock, max_expiring_bytes=100_000)
    await broker.start(RecordingListener())

    async def work(key: str) -> None:
        assert await broker.claim(key, 60) is True
        await broker.settle(key, bytes(1000))

    calls: dict[str, Callable[[str], Coroutine[Any, Any, Any]]] = {
        "publish": lambda key: broker.publish(ROOM, b"", key),
        "publish_many": lambda key: broker.publish_many([Publication(OTHER, b""), Publication(OTHER, b"", key)]),
        "claim": work,
        "put": lambda key: broker.put(key, bytes(5000), KEY_TTL),
        "revoke_all": lambda key: broker.revoke_all(key, 1.0, KEY_TTL),
        "revoke_one": lambda key: broker.revoke_one(key, "t", KEY_TTL),
    }
    accepted: dict[str, dict[str, Any]] = {name: {} for name in calls}
    for name, call in calls.items():
        with pytest.raises(Unavailable):
            for number in range(1000):
                accepted[name][f"{name} {number}"] = await call(f"{name} {number}")
    kinds = (broker._keys, broker._claims, broker._values, broker._revocations.entries)
    assert all(100_000 <= one.size < 107_000 for one in kinds)
    assert all(len(accepted[name]) > 10 for name in ("publish", "claim", "put", "revoke_all"))
    last_id = (await broker.history(ROOM)).last_id
    for key, id in accepted["publish"].items():
        assert await broker.publish(ROOM, b"", key) == id
    assert (await broker.history(ROOM)).last_id == last_id  # also of the event whose key was refused
    assert (await broker.history(OTHER)).events == []
    assert [await broker.claim(key, 60) for key in accepted["claim"]] == [bytes(1000)] * len(accepted["claim"])
    assert await broker.publish(ROOM, b"no key")
    for key in accepted["revoke_all"]:
        assert await broker.is_revoked(key, 0.0, None)
    await clock.pass_time(KEY_TTL)
    for call in calls.values():
        await call("after a while")
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


async def test_reads_of_rooms_without_events_are_limited(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, the rooms that were read first are dropped, but none with events or members."""
    monkeypatch.setattr(memory, "MAX_EMPTY_HISTORIES", 10)
    await broker.subscribe(["channel:subscribed"])
    await broker.enter("channel:entered", 7, "alice", 1)
    kept = ["channel:subscribed", "channel:entered", "channel:published"]
    ids = {room: (await broker.history(room)).last_id for room in [*kept, "channel:dropped"]}
    await broker.publish("channel:published", b"event")
    for number in range(100):
        ids[f"channel:{number}"] = (await broker.history(f"channel:{number}")).last_id
    assert len(broker._logs) == len(kept) + 10
    for room in (*kept, "channel:90", "channel:99"):
        assert (await broker.history(room, ids[room])).recovered
    assert not (await broker.history("channel:dropped", ids["channel:dropped"])).recovered


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
    """An answer is stored even if it alone exceeds the limit, so its command is not repeated. Others are refused."""
    clock = ManualClock()
    broker = MemoryBroker(clock=clock, max_expiring_bytes=1000)
    await broker.start(RecordingListener())
    for key in ("a", "b"):
        assert await broker.claim(key, 60) is True
    for key in ("a", "b"):
        await broker.settle(key, bytes(1000))
    with pytest.raises(Unavailable):
        await broker.claim("c", 60)
    assert [await broker.claim(key, 60) for key in ("a", "b")] == [bytes(1000)] * 2
    await clock.pass_time(KEY_TTL)
    assert await broker.claim("c", 60) is True
    await broker.close()


async def test_close_frees_everything(broker: MemoryBroker) -> None:
    """A closed broker that is still referenced keeps nothing."""
    payload, value, name = bytes(1000), bytes(1001), "".join(["the ", "name"])
    before = [reference_count(one) for one in (payload, value, name)]
    await broker.publish(ROOM, payload, name)
    await broker.put(name, value, 60)
    await broker.claim(name, 60)
    await broker.subscribe([name])
    await broker.admit(name, 1, 1)
    await broker.enter(ROOM, name, name, 1)
    await broker.close()
    assert [reference_count(one) for one in (payload, value, name)] == before


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
