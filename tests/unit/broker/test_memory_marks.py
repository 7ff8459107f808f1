"""Marks of the embedded broker: the model, and the limits. ``broker_contract.marks`` has the tests of all brokers."""

from __future__ import annotations

import asyncio

from broker_contract import HISTORY_BYTES, HISTORY_SIZE, HISTORY_TTL, Harness, ManualClock
from hypothesis import given
from unread_model import STEPS, Step, play

from roomcast.broker.event_log import EventLog, LogLimits, MessageCounts
from roomcast.broker.memory import MemoryBroker
from roomcast.broker.memory_marks import MemoryMarks


@given(STEPS)
def test_marks_and_counts_match_a_naive_model(steps: list[Step]) -> None:
    """Whatever is published, trimmed and marked, the counts are those of a model that looks at each event."""

    async def run() -> None:
        clock = ManualClock()
        broker = MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock, history_bytes=HISTORY_BYTES)
        harness = Harness(broker, clock.pass_time)
        await broker.start(harness.listener)
        try:
            await play([harness], "channel:1", steps)
        finally:
            await broker.close()

    asyncio.run(run())


def marks_with(rooms: int, max_marks: int) -> tuple[MemoryMarks, ManualClock, list[str]]:
    """Return marks in ``rooms`` rooms with one message each, their clock, and the ids of the messages."""
    clock = ManualClock()
    logs = {}
    for number in range(rooms):
        log = logs[f"channel:{number}"] = EventLog(f"e{number}-", clock(), LogLimits(10, 60.0, 1000))
        log.last_offset = 1
        log.payloads.append(b"x")
        log.times.append(clock())
        log.messages = MessageCounts(first=0)
    return MemoryMarks(logs, lambda: None, 100.0, clock, max_marks), clock, [f"e{number}-1" for number in range(rooms)]


async def test_all_marks_together_are_limited() -> None:
    """The users who have set no mark for longest lose theirs, and rooms without marks can be dropped."""
    marks, _, ids = marks_with(2, max_marks=4)
    for user in range(6):
        await marks.move("channel:0", user, ids[0])
    assert marks.rooms == {"channel:0": 4}
    await marks.move("channel:0", 2, ids[0])  # sets it again
    await marks.move("channel:1", 9, ids[1])
    assert [await marks.count_read("channel:0", user) for user in range(6)] == [0, 0, 1, 0, 1, 1]
    assert marks.rooms == {"channel:0": 3, "channel:1": 1}


async def test_own_marks_keep_their_room() -> None:
    """The mark of the newest author keeps the room when its history is dropped, and until the mark expires."""
    clock = ManualClock()
    broker = MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock, max_history_bytes=200, read_ttl=10 * HISTORY_TTL)
    await broker.start(Harness(broker, clock.pass_time).listener)
    first = await broker.publish("channel:0", b"x", None, True, 1)
    for _ in range(20):
        await broker.publish("channel:1", b"x" * 100, None, True)
    assert not (await broker.history("channel:0")).events
    assert await broker.marks.count_read("channel:0", 1) == 1
    second = await broker.publish("channel:0", b"x", None, True, 1)
    await clock.pass_time(2 * HISTORY_TTL)
    await broker.sweep()
    assert await broker.marks.count_read("channel:0", 1) == 2
    third = await broker.publish("channel:0", b"x", None, True, 2)
    assert [id.rpartition("-") for id in (second, third)] == [(*first.rpartition("-")[:2], n) for n in ("2", "3")]
    await broker.sweep()
    await clock.pass_time(20 * HISTORY_TTL)
    await broker.sweep()
    assert broker.marks.rooms == {}
    await broker.sweep()  # now the room is not used any more
    assert (await broker.publish("channel:0", b"x", None, True, 1)).split("-")[0] != first.split("-")[0]
    await broker.close()


async def test_own_marks_delay_the_expiry_of_the_marks_of_their_user() -> None:
    """A user who only publishes keeps the marks in other rooms."""
    clock = ManualClock()
    broker = MemoryBroker(HISTORY_SIZE, HISTORY_TTL, clock, read_ttl=100.0)
    await broker.start(Harness(broker, clock.pass_time).listener)
    id = await broker.publish("channel:0", b"x", None, True)
    for user in (1, 2):
        await broker.marks.move("channel:0", user, id)
    for _ in range(3):
        await clock.pass_time(60)
        await broker.publish("channel:1", b"x", None, True, 1)
        await broker.sweep()
    assert broker.marks.rooms == {"channel:0": 1, "channel:1": 1}
    assert await broker.marks.count_read("channel:0", 1) == 1
    await broker.close()


async def test_own_marks_are_written_when_another_user_publishes() -> None:
    """Messages of one author in a row write one mark, and each author's mark is kept."""
    broker = MemoryBroker()
    await broker.start(Harness(broker, asyncio.sleep).listener)
    for author in (1, 1, "1", 1, 1):
        await broker.publish("channel:0", b"x", None, True, author)
    assert broker.marks.rooms == {"channel:0": 2}  # and the newest one is not written yet
    assert [await broker.marks.count_read("channel:0", user) for user in (1, "1", 2)] == [5, 3, 0]
    await broker.publish("channel:0", b"edit", None, False, "1")
    id = await broker.publish("channel:0", b"x", None, True)
    assert [await broker.marks.count_read("channel:0", user) for user in (1, "1", 2)] == [5, 3, 0]
    older = f"{id.rpartition('-')[0]}-4"
    assert await broker.marks.move("channel:0", 1, older) == (f"{id.rpartition('-')[0]}-5", 5)
    assert await broker.marks.move("channel:0", 1, id) == (id, 6)
    assert await broker.marks.count_read("channel:0", 1) == 6
    await broker.close()


async def test_expired_marks_are_dropped_in_slices() -> None:
    """Marks expire with the last one of their user, and free their rooms."""
    marks, clock, ids = marks_with(1, max_marks=100)
    for user in range(5):
        await marks.move("channel:0", user, ids[0])
    await clock.pass_time(60)
    await marks.move("channel:0", 0, ids[0])
    await clock.pass_time(60)
    assert marks.expire(clock(), 3)
    assert marks.rooms == {"channel:0": 2}
    assert not marks.expire(clock(), 3)
    assert marks.rooms == {"channel:0": 1}
    assert await marks.count_read("channel:0", 0) == 1
