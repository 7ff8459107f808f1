"""The history of the embedded broker against a simple model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from broker_contract import (
    ManualClock,
    RecordingListener,
    not_ids,
    split,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roomcast.broker.base import Broker, Event
from roomcast.broker.memory import MemoryBroker


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
