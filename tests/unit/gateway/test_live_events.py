"""Tests of ``gateway.live_events``: throttle, leave, withdrawal, and the bound of what is kept."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manual_loop import ManualLoop
from marshmallow import Schema, fields

from roomcast import Plugin
from roomcast.errors import BrokerUnavailable, InvalidEvent
from roomcast.gateway import live_events
from roomcast.gateway.delivery import CROWD
from roomcast.gateway.live_events import LiveEvents
from roomcast.live_event import LivePublication
from roomcast.protocol import messages
from roomcast.protocol.user_id import personal_room
from roomcast.registry import LoadedPlugin, Registry

ROOM = "place:1"
demo = Plugin("demo")
demo.room("place")


class State(Schema):
    """A state."""

    on = fields.Boolean(required=True)
    value = fields.Integer()


class Plain(Schema):
    """Without state."""

    value = fields.Integer()


class Throttled(Schema):
    """With a throttle only."""

    value = fields.Integer()


class Stored(Schema):
    """Stored."""


demo.event("state", stored=False, throttle=1.0, leave={"on": False})(State)
demo.event("plain", stored=False)(Plain)
demo.event("throttled", stored=False, throttle=5.0)(Throttled)
demo.event("stored")(Stored)
registry = Registry([LoadedPlugin(demo, "test", "demo")])


class Node:
    """The parts of a node that ``LiveEvents`` uses, with a clock of the test."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.registry = registry
        self.broker = self.delivery = self
        self.is_up = True
        #: When what was sent: the time, the user's id or sender, the type and the data.
        self.sent: list[tuple[float, object, str, dict[str, Any]]] = []
        self.personal: dict[str, tuple[object, ...]] = {}
        self.rooms: dict[str, Any] = {}
        self.live = LiveEvents(self)  # type: ignore[arg-type]

    def broadcast(self, room: str, message: bytes) -> None:
        if not self.is_up:
            raise BrokerUnavailable("a test has stopped it")
        assert room == ROOM
        head, _, payload = message.partition(b"\n")
        user_id, sender, *_ = orjson.loads(head)
        event = orjson.loads(payload)
        self.sent.append((round(self.loop.now - 1000, 3), user_id or sender, event["type"], event["data"]))

    def has(self, room: str, client: Any) -> bool:
        return room in client.rooms

    def connect(self, user_id: int) -> Any:
        """Return a client in ROOM."""
        room = personal_room(user_id)
        client = SimpleNamespace(identity=SimpleNamespace(user_id=user_id), personal_room=room, rooms=(ROOM,))
        self.personal[room] = (*self.personal.get(room, ()), client)
        return client

    def send(self, type: str, data: dict[str, Any], user_id: int | None = 1, *, is_member: bool = True) -> None:
        options = registry.event(type).live
        assert options is not None
        sender = f"user {user_id}"
        payload = messages.event(type, ROOM, data, sender)
        self.live.send(LivePublication(type, options, ROOM, sender, user_id, payload, is_member))

    def leave(self, client: Any) -> None:
        client.rooms = ()
        self.live.left(client, ROOM)

    @property
    def data(self) -> list[dict[str, Any]]:
        return [data for *_, data in self.sent]


@pytest.fixture
def node() -> Node:
    """A node with a manual clock."""
    return Node()


def test_the_first_event_is_sent_at_once_and_the_newest_at_the_end(node: Node) -> None:
    """Within the throttle only the newest event is kept; it is sent at the end of the throttle, and begins the next."""
    for value in range(5):
        node.send("throttled", {"value": value})
        node.loop.advance(1)
    node.send("throttled", {"value": 9})
    node.loop.advance(20)
    assert [(at, data["value"]) for at, *_, data in node.sent] == [(0, 0), (5, 4), (10, 9)]
    assert len(node.live.states) == 0
    assert node.loop.timers == 0


def test_each_user_counts_alone(node: Node) -> None:
    """Users, and senders without an id, have a throttle each; one timer serves all."""
    for user_id in (1, 2, None):
        node.send("throttled", {"value": 1}, user_id)
        node.send("throttled", {"value": 2}, user_id)
    assert [user for _, user, *_ in node.sent] == [1, 2, "user None"]
    assert node.loop.timers == 1
    node.loop.advance(5.1)
    assert node.data[3:] == [{"value": 2}] * 3


def test_a_shorter_throttle_is_not_late(node: Node) -> None:
    """A throttle that begins later and ends earlier than another one ends in time."""
    for type, value in (("throttled", 1), ("throttled", 2), ("state", 3), ("state", 4)):
        node.send(type, {"value": value, "on": True})
    assert node.loop.timers == 1
    node.loop.advance(10)
    assert [(at, data["value"]) for at, *_, data in node.sent] == [(0, 1), (0, 3), (1, 4), (5, 2)]
    assert node.loop.timers == 0


def test_leaving_in_a_loop_keeps_nothing(node: Node) -> None:
    """A user who types, leaves and returns again and again leaves no entries behind."""
    for _ in range(20_000):
        client = node.connect(1)
        node.send("throttled", {"value": 1})
        node.leave(client)
        node.personal.clear()
    assert not node.live.states
    assert len(node.live._due) <= 1001
    node.loop.advance(5.1)
    assert not node.live._due


def test_events_without_options_keep_no_state(node: Node) -> None:
    """An event without throttle and leave is sent at once, however many there are."""
    for value in range(10):
        node.send("plain", {"value": value})
    assert len(node.sent) == 10
    assert len(node.live.states) == 0


def test_leave_repeats_the_last_event(node: Node) -> None:
    """When the user leaves, the last event is sent at once with the fields of leave, and nothing waits any more."""
    client = node.connect(1)
    node.send("state", {"on": True, "value": 1})
    node.send("state", {"on": True, "value": 2})
    node.loop.advance(0.5)
    node.leave(client)
    node.loop.advance(10)
    assert node.data == [{"on": True, "value": 1}, {"on": False, "value": 1}]
    assert len(node.live.states) == 0
    node.leave(client)
    assert len(node.sent) == 2


def test_leave_after_a_long_time(node: Node) -> None:
    """The last event is kept for as long as the user is in the room."""
    client = node.connect(1)
    node.send("state", {"on": True})
    node.loop.advance(100_000)
    assert len(node.live.states) == 1
    node.leave(client)
    assert node.data == [{"on": True}, {"on": False}]


def test_leave_is_not_repeated(node: Node) -> None:
    """Nothing is sent if the last event had the fields already, also if it still waited."""
    client = node.connect(1)
    node.send("state", {"on": True})
    node.send("state", {"on": False})
    node.loop.advance(1.1)
    assert node.data == [{"on": True}, {"on": False}]
    node.leave(client)
    node.loop.advance(5)
    assert len(node.sent) == 2
    assert len(node.live.states) == 0


def test_another_connection_of_the_user(node: Node) -> None:
    """Only the user's last connection in the room ends it."""
    first, second = node.connect(1), node.connect(1)
    node.send("state", {"on": True})
    node.leave(first)
    assert len(node.sent) == 1
    node.leave(second)
    assert node.data[1:] == [{"on": False}]


def test_only_members_leave(node: Node) -> None:
    """An event that the user did not send as a member is not kept."""
    node.send("state", {"on": True}, is_member=False)
    node.loop.advance(1.1)
    assert len(node.live.states) == 0


def test_a_user_who_returns_at_once(node: Node) -> None:
    """A throttle from before the user left does not end the one after it."""
    client = node.connect(1)
    node.send("state", {"on": True, "value": 1})
    node.loop.advance(0.9)
    node.leave(client)
    client = node.connect(1)
    node.send("state", {"on": True, "value": 2})
    node.send("state", {"on": True, "value": 3})
    node.loop.advance(0.5)
    assert [data.get("value") for data in node.data] == [1, 1, 2]
    node.loop.advance(0.6)
    assert node.data[3:] == [{"on": True, "value": 3}]


def test_withdraw(node: Node) -> None:
    """A withdrawn event is not sent later, and not when the user leaves; the throttle goes on."""
    client = node.connect(1)
    node.live.withdraw(State, ROOM, 1)
    node.send("state", {"on": True, "value": 1})
    node.send("state", {"on": True, "value": 2})
    node.live.withdraw(State, ROOM, 1)
    node.send("state", {"on": True, "value": 3})
    node.loop.advance(3)
    assert [data["value"] for data in node.data] == [1, 3]
    node.live.withdraw("state", ROOM, 1)
    assert len(node.live.states) == 0
    node.leave(client)
    assert len(node.sent) == 2
    node.send("state", {"on": True})
    with pytest.raises(InvalidEvent, match="send it with publish"):
        node.live.withdraw(Stored, ROOM, 1)


@pytest.mark.parametrize(("members", "after", "sent"), [(CROWD, 0.4, 1), (CROWD, 0.6, 0), (CROWD - 1, 0.4, 0)])
def test_withdraw_in_a_large_room(node: Node, members: int, after: float, sent: int) -> None:
    """If the event may still wait in a large room, it is replaced there by one with the fields of leave."""
    node.rooms[ROOM] = SimpleNamespace(members=range(members))
    node.send("state", {"on": True, "value": 1})
    node.loop.advance(after)
    node.live.withdraw(State, ROOM, 1)
    assert node.data[1:] == [{"on": False, "value": 1}] * sent


def test_the_broker_is_unavailable(node: Node) -> None:
    """An event that cannot be sent raises; one that waits, or follows a departure, is dropped."""
    client = node.connect(1)
    node.send("state", {"on": True, "value": 1})
    node.send("state", {"on": True, "value": 2})
    node.is_up = False
    node.loop.advance(1.1)
    with pytest.raises(BrokerUnavailable):
        node.send("plain", {})
    node.leave(client)
    node.loop.advance(5)
    assert len(node.sent) == 1
    assert len(node.live.states) == 0
    assert node.loop.timers == 0
    with pytest.raises(BrokerUnavailable):
        node.send("state", {"on": True})
    assert len(node.live.states) == 0


def test_what_is_kept_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of bytes the oldest states are dropped, and their users' events are not."""
    monkeypatch.setattr(live_events, "MAX_STATE_BYTES", 20_000)
    for user_id in range(1, 1001):
        node.send("state", {"on": True}, user_id)
        assert node.live._bytes <= 20_000
    assert len(node.sent) == 1000
    assert 5 < len(node.live.states) <= 20
    clients = [node.connect(user_id) for user_id in range(1, 1001)]
    for client in clients:
        node.leave(client)
    node.loop.advance(10)
    assert 1005 < len(node.sent) <= 1020
    assert (len(node.live.states), node.live._bytes) == (0, 0)


USERS = st.integers(1, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), USERS, st.booleans()),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0, 1.5])),
        st.tuples(st.just("leave"), USERS),
        st.tuples(st.just("withdraw"), USERS),
    ),
    max_size=60,
)


@given(STEPS)
def test_any_order(steps: list[tuple[Any, ...]]) -> None:
    """Events of a user keep the throttle, the newest one is sent last, and users who left are removed."""
    node = Node()
    clients = {user_id: node.connect(user_id) for user_id in (1, 2, 3)}
    wanted: dict[int, int | None] = {}  # the number of the newest event that must be sent
    left_at: dict[int, int] = {}
    withdrawn_after: dict[int, int] = {}  # the number of the user's events that were sent before
    for number, step in enumerate(steps):
        if step[0] == "send":
            node.send("state", {"on": step[2], "value": number}, step[1])
            wanted[step[1]] = number
        elif step[0] == "pass":
            node.loop.advance(step[1])
        elif step[0] == "withdraw":
            node.live.withdraw(State, ROOM, step[1])
            wanted[step[1]] = None
            withdrawn_after[step[1]] = sum(user == step[1] for _, user, *_ in node.sent)
        else:
            sent = [data for _, user, _, data in node.sent if user == step[1]]
            node.leave(clients[step[1]])
            node.personal.pop(personal_room(step[1]))
            clients[step[1]] = node.connect(step[1])
            after = [data for _, user, _, data in node.sent if user == step[1]]
            assert len(after) - len(sent) <= 1
            # The last event says so, or was withdrawn since.
            assert not after or not after[-1]["on"] or withdrawn_after.get(step[1]) == len(after)
            wanted[step[1]] = None
            left_at[step[1]] = len(node.sent)
    node.loop.advance(5)
    on = 0
    for user_id in clients:
        mine = [(at, data) for at, user, _, data in node.sent if user == user_id]
        values = [data["value"] for _, data in mine]
        assert values == sorted(values)
        if (newest := wanted.get(user_id)) is not None:
            assert values[-1] == newest
            on += mine[-1][1]["on"]
        if user_id not in left_at:
            times = [at for at, _ in mine]
            assert all(later - earlier >= 0.999 for earlier, later in pairwise(times))
    assert len(node.live.states) == on
    assert node.loop.timers == 0
