"""Tests of ``gateway.live_delivery``: recipients, delays, slow readers and the bounds under a flood."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from manual_loop import ManualLoop

from roomcast.fastpath import WriteQueue
from roomcast.gateway import live_delivery
from roomcast.gateway.counters import Counters
from roomcast.gateway.delivery import CROWD, Delivery
from roomcast.gateway.live_delivery import WRITE_BURST, WRITE_RATE, LiveDelivery
from roomcast.protocol import frames
from roomcast.protocol.user_id import personal_room

ROOM = "channel:1"


class Member(WriteQueue):
    """A connection that records what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.writer = self  # type: ignore[assignment]

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def defer(self, data: bytes) -> None:
        raise AssertionError("a live event was kept for a slow reader")


class Node:
    """A node with a clock of the test."""

    def __init__(self, members: int) -> None:
        self.loop = ManualLoop()
        self.delivery = Delivery(self.loop)  # type: ignore[arg-type]
        self.counters = Counters()
        self.live = LiveDelivery(self.loop, self.delivery, self.counters)  # type: ignore[arg-type]
        self.members = [self.join() for _ in range(members)]

    def join(self, room: str = ROOM, user_id: int | None = None) -> Member:
        member = Member()
        self.delivery.join(room, member)
        if user_id is not None:
            self.delivery.join_personal(personal_room(user_id), member)
        return member

    def receive(self, payload: bytes, user_id: int | None = 1, room: str = ROOM, **options: Any) -> None:
        head = [user_id, None, options.get("conflated"), options.get("others_only", False)]
        self.live.receive(room, orjson.dumps(head) + b"\n" + payload)


def written(member: Member) -> bytes:
    """Return everything that was written to a member."""
    return b"".join(member.writes)


def text(*payloads: bytes) -> bytes:
    """Return the frames of ``payloads``."""
    return b"".join(map(frames.text, payloads))


def test_a_small_room_receives_at_once() -> None:
    """In a small room the events of a loop iteration are one write, without a delay, and nothing is kept after it."""
    node = Node(3)
    for payload in (b"1", b"2", b"3"):
        node.receive(payload)
    assert not node.members[0].writes
    node.loop.run()
    assert [member.writes for member in node.members] == [[text(b"1", b"2", b"3")]] * 3
    assert not node.live._rooms
    assert node.live._size == 0
    assert node.loop.timers == 0


def test_rooms_without_members() -> None:
    """An event of a room without members on this node is ignored."""
    node = Node(0)
    node.receive(b"1")
    assert not node.live._rooms


def test_a_personal_room() -> None:
    """All connections of a user receive an event of the personal room."""
    node = Node(0)
    first, second = node.join(user_id=7), node.join(user_id=7)
    node.receive(b"1", room=personal_room(7))
    node.loop.run()
    assert first.writes == second.writes == [text(b"1")]


def test_others_only() -> None:
    """The user's own connections receive only what is for all; others, and other events, are complete and in order."""
    node = Node(1)
    alice, alice_too, bob = node.join(user_id=1), node.join(user_id=1), node.join(user_id=2)
    node.receive(b"a", 1, others_only=True)
    node.receive(b"b", 2, others_only=True)
    node.receive(b"c", 1)
    node.receive(b"d", None, others_only=True)
    node.loop.run()
    assert written(node.members[0]) == text(b"a", b"c", b"b", b"d")
    assert written(alice) == written(alice_too) == text(b"c", b"b", b"d")
    assert written(bob) == text(b"a", b"c", b"d")
    node.receive(b"e", 1, others_only=True)
    node.loop.run()
    assert alice.writes == alice.writes[:1]


def test_a_large_room_collects_and_conflates() -> None:
    """A large room waits for further events; of a conflated type only the newest of each user is delivered."""
    node = Node(CROWD)
    for number in range(10):
        node.receive(b"%d" % number, 1, conflated="typing")
        node.receive(b"x%d" % number, 2, conflated="typing")
    node.loop.run()
    assert not node.members[0].writes
    node.loop.advance(0.1)
    assert [member.writes for member in node.members] == [[text(b"9", b"x9")]] * CROWD
    assert node.loop.timers == 0


def test_stored_events_do_not_wait() -> None:
    """A stored event is written at once while live events wait."""
    node = Node(CROWD)
    node.receive(b"live")
    node.delivery.deliver(ROOM, b"stored")
    node.loop.run()
    assert node.members[0].writes == [b"stored"]
    node.loop.advance(0.1)
    assert node.members[0].writes == [b"stored", text(b"live")]


@pytest.mark.parametrize("is_flush_scheduled", [False, True])
def test_a_live_event_comes_before_later_stored_events(is_flush_scheduled: bool) -> None:
    """In a small room, a stored event does not overtake an earlier live event, also if a reply was sent before both."""
    node = Node(2)
    if is_flush_scheduled:
        node.delivery.send(node.members[0], b"reply")
    node.receive(b"live")
    node.delivery.deliver(ROOM, b"stored")
    node.loop.run()
    assert written(node.members[1]) == text(b"live") + b"stored"
    node.receive(b"live again")
    node.loop.run()
    assert node.members[1].writes[-1] == text(b"live again")


def test_slow_readers_get_none() -> None:
    """A connection that takes no more bytes is left out and counted; it gets the next event when it takes some."""
    node = Node(3)
    node.members[1].paused = True
    node.receive(b"1")
    node.receive(b"2")
    node.loop.run()
    assert node.members[1].writes == []
    assert node.counters.live_skips == 2
    node.members[1].paused = False
    node.receive(b"3")
    node.loop.run()
    assert node.members[1].writes == [text(b"3")]
    assert node.members[0].writes == [text(b"1", b"2"), text(b"3")]


def test_members_that_left() -> None:
    """A member that leaves while events wait, or while a large room is written in parts, receives no more."""
    node = Node(CROWD)
    node.receive(b"1")
    node.delivery.leave(ROOM, node.members[0])
    node.loop.advance(0.2)
    assert node.members[0].writes == []
    assert node.members[1].writes == [text(b"1")]
    node.receive(b"2")
    for member in node.members:
        node.delivery.leave(ROOM, member)
    node.loop.advance(1)
    assert node.members[1].writes == [text(b"1")]
    assert not node.live._rooms
    assert node.live._size == 0


def test_a_large_room_is_written_in_parts() -> None:
    """The node writes at most WRITE_BURST connections at once, and everyone receives the same in the end."""
    node = Node(5 * WRITE_BURST)
    node.receive(b"1")
    parts = []
    for _ in range(100):
        before = sum(len(member.writes) for member in node.members)
        node.loop.advance(0.025)
        parts.append(sum(len(member.writes) for member in node.members) - before)
    assert max(parts) <= WRITE_BURST + 1
    assert all(member.writes == [text(b"1")] for member in node.members)
    assert not node.live._rooms


@pytest.mark.parametrize("limit", [live_delivery.MAX_NODE_BYTES, 500_000])
def test_a_flood_is_bounded(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is sent in however many rooms, the writes per second and the memory are bounded, and counted."""
    monkeypatch.setattr(live_delivery, "MAX_NODE_BYTES", limit)
    node = Node(0)
    rooms = [f"channel:{number}" for number in range(60)]
    members = [node.join(room) for room in rooms for _ in range(CROWD)]
    for step in range(100):
        for room in rooms:
            for user_id in range(3):
                node.receive(b"%500d" % step, user_id, room)
        node.loop.advance(0.01)
        assert node.live._size <= limit + 1000
    writes = sum(len(member.writes) for member in members)
    assert writes <= WRITE_RATE * 1.0 + WRITE_BURST + 60
    assert node.counters.live_overflows > 0
    node.loop.advance(20)
    assert node.live._size == 0
    assert not node.live._rooms
    if limit > 500_000:  # the rooms take turns
        assert len({len(member.writes) for member in members}) <= 3
    assert node.loop.timers == 0


def test_a_flood_in_small_rooms_leaves_half_of_the_budget() -> None:
    """Small rooms that are written at once do not keep a large room from its turn."""
    node = Node(CROWD)
    rooms = [f"channel:{number}" for number in range(2, 40)]
    others = [node.join(room) for room in rooms for _ in range(CROWD - 1)]
    for step in range(400):
        if step == 100:
            node.receive(b"1")
        for room in rooms:
            node.receive(b"x", room=room)
        node.loop.advance(0.001)
    assert node.members[0].writes == [text(b"1")]
    assert sum(len(member.writes) for member in others) <= WRITE_RATE * 0.4 + WRITE_BURST + CROWD


def test_many_small_rooms_share_the_budget() -> None:
    """When the budget is used up, small rooms wait for their turn as well."""
    node = Node(0)
    rooms = [f"channel:{number}" for number in range(2 * WRITE_BURST)]
    members = [node.join(room) for room in rooms]
    for room in rooms:
        node.receive(b"1", room=room)
    node.loop.run()
    assert 0 < sum(len(member.writes) for member in members) <= WRITE_BURST / 2 + 1
    node.loop.advance(0.2)
    assert all(member.writes == [text(b"1")] for member in members)
