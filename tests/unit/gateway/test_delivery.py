"""Tests of ``gateway.delivery``: recipients, order and number of writes."""

import asyncio
import weakref
from collections.abc import Iterable

import pytest

from roomcast.errors import NORMAL
from roomcast.gateway.delivery import CROWD, DELIVERY_BOUNDS, Delivery
from roomcast.transport.connection import Connection, Keepalive

pytest_plugins = ("loops",)
LOOPS = ("uvloop",)

ROOM = "channel:1"


class MemoryTransport(asyncio.Transport):
    """A transport in memory that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.full = False
        self.protocol: asyncio.Protocol | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0, "pause_writing must be called as soon as the kernel buffer is full"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.writes)) if self.full else 0

    def resume_reading(self) -> None:
        """Do nothing: reading is never paused."""

    def writelines(self, list_of_data: Iterable[bytes]) -> None:
        self.write(b"".join(list_of_data))

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        if self.full and not self.protocol.paused:
            self.protocol.pause_writing()


class Member(Connection):
    """A connection with a ``MemoryTransport``."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery, Keepalive(asyncio.get_running_loop(), 30, 1000, 100))
        self.wire = MemoryTransport()
        self.take_over(self.wire, b"101")
        delivery.flush()
        assert self.take_writes() == [b"101"]

    def take_writes(self) -> list[bytes]:
        """Return the writes since the last call."""
        writes, self.wire.writes = self.wire.writes, []
        return writes


@pytest.fixture
async def delivery():
    """Return a Delivery on the running event loop."""
    return Delivery(asyncio.get_running_loop())


async def flushed() -> None:
    """Wait for the end of the loop iteration, when the frames are written."""
    await asyncio.sleep(0)


async def test_join_and_leave(delivery) -> None:
    """has, members and the result of leave change with each join and leave."""
    anna, bert = Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.join(ROOM, bert)
    assert delivery.has(ROOM, anna)
    assert delivery.members(ROOM) == (anna, bert)
    assert not delivery.has("channel:2", anna)
    assert delivery.members("channel:2") == ()
    assert delivery.leave(ROOM, anna) is False, "one member is left"
    assert not delivery.has(ROOM, anna)
    assert delivery.leave(ROOM, anna) is False, "anna is not a member"
    assert delivery.leave(ROOM, bert) is True
    assert delivery.leave(ROOM, bert) is False
    assert delivery.rooms == {}, "an empty room is removed"


async def test_frames_are_written_at_the_end_of_the_iteration(delivery) -> None:
    """Members get one write for all frames of a loop iteration, others nothing."""
    anna, bert, carl = Member(delivery), Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.join(ROOM, bert)
    delivery.join("channel:2", carl)
    for frame in (b"one ", b"two ", b"three"):
        delivery.deliver(ROOM, frame)
    assert anna.take_writes() == []
    await flushed()
    assert anna.take_writes() == bert.take_writes() == [b"one two three"]
    assert carl.take_writes() == []
    await flushed()
    assert anna.take_writes() == []


async def test_a_frame_is_not_copied(delivery) -> None:
    """All members are written the same object."""
    members = [Member(delivery) for _ in range(3)]
    for member in members:
        delivery.join(ROOM, member)
    frame = bytes(1000)
    delivery.deliver(ROOM, frame)
    await flushed()
    assert all(member.take_writes()[0] is frame for member in members)


async def test_one_write_for_all_frames_of_an_iteration(delivery) -> None:
    """Frames of the connection and of several rooms are one write; each room keeps its order."""
    anna, bert = Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.join("channel:2", anna)
    delivery.join(ROOM, bert)
    delivery.deliver(ROOM, b"a1 ")
    delivery.deliver("channel:2", b"b1 ")
    delivery.send(anna, b"own1 ")
    delivery.deliver(ROOM, b"a2 ")
    delivery.send(anna, b"own2 ")
    await flushed()
    assert anna.take_writes() == [b"own1 own2 a1 a2 b1 "]
    assert bert.take_writes() == [b"a1 a2 "]


async def test_one_write_per_iteration(delivery) -> None:
    """Each loop iteration has its own write."""
    anna = Member(delivery)
    delivery.join(ROOM, anna)
    for _ in range(3):
        delivery.deliver(ROOM, b"room")
        await flushed()
        delivery.send(anna, b"own")
        await flushed()
    assert anna.take_writes() == [b"room", b"own"] * 3


async def test_delivery_to_an_empty_room(delivery) -> None:
    """Nothing is kept for later members."""
    delivery.deliver(ROOM, b"x")
    delivery.deliver_later(ROOM, b"x")
    anna = Member(delivery)
    delivery.join(ROOM, anna)
    await flushed()
    assert anna.take_writes() == []


async def test_a_new_member_gets_only_later_frames(delivery) -> None:
    """It has earlier frames from the history; the others get all frames."""
    anna, bert, carl = Member(delivery), Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.deliver(ROOM, b"1")
    delivery.join(ROOM, bert)
    delivery.deliver(ROOM, b"2")
    delivery.join(ROOM, carl)
    delivery.deliver(ROOM, b"3")
    await flushed()
    assert anna.take_writes() == [b"123"]
    assert bert.take_writes() == [b"23"]
    assert carl.take_writes() == [b"3"]
    delivery.deliver(ROOM, b"4")
    await flushed()
    assert anna.take_writes() == bert.take_writes() == carl.take_writes() == [b"4"]


async def test_a_new_member_without_frames(delivery) -> None:
    """It gets only its reply."""
    anna, bert = Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.deliver(ROOM, b"1")
    delivery.join(ROOM, bert)
    delivery.send(bert, b"joined")
    await flushed()
    assert anna.take_writes() == [b"1"]
    assert bert.take_writes() == [b"joined"]


async def test_a_member_that_leaves_gets_earlier_frames(delivery) -> None:
    """It gets the frames before it left, and none after, in one loop iteration."""
    anna, bert = Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.join(ROOM, bert)
    delivery.deliver(ROOM, b"1")
    delivery.leave(ROOM, anna)
    delivery.deliver(ROOM, b"2")
    await flushed()
    assert anna.take_writes() == [b"1"]
    assert bert.take_writes() == [b"12"]


async def test_the_last_member_that_leaves_gets_earlier_frames(delivery) -> None:
    """It gets them although the room does not exist at the end of the loop iteration."""
    anna = Member(delivery)
    delivery.join(ROOM, anna)
    delivery.deliver(ROOM, b"1")
    assert delivery.leave(ROOM, anna) is True
    delivery.deliver(ROOM, b"2")
    await flushed()
    assert anna.take_writes() == [b"1"]


async def test_leaving_and_joining_in_one_iteration(delivery) -> None:
    """The member gets the frames before and after its absence, each once."""
    anna, bert = Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.join(ROOM, bert)
    delivery.deliver(ROOM, b"1")
    delivery.leave(ROOM, anna)
    delivery.deliver(ROOM, b"2")
    delivery.join(ROOM, anna)
    delivery.deliver(ROOM, b"3")
    await flushed()
    assert anna.take_writes() == [b"13"]
    assert bert.take_writes() == [b"123"]


async def test_joining_and_leaving_in_one_iteration(delivery) -> None:
    """The member gets only the frames in between."""
    anna, bert = Member(delivery), Member(delivery)
    delivery.join(ROOM, anna)
    delivery.deliver(ROOM, b"1")
    delivery.join(ROOM, bert)
    delivery.deliver(ROOM, b"2")
    delivery.leave(ROOM, bert)
    delivery.deliver(ROOM, b"3")
    await flushed()
    assert anna.take_writes() == [b"123"]
    assert bert.take_writes() == [b"2"]


async def test_closed_members(delivery) -> None:
    """A closed and a lost member get no frames; the others do."""
    anna, bert, carl = Member(delivery), Member(delivery), Member(delivery)
    for member in (anna, bert, carl):
        delivery.join(ROOM, member)
    delivery.deliver(ROOM, b"1")
    delivery.send(anna, b"own")
    anna.close(NORMAL)
    bert.connection_lost(None)
    await flushed()
    assert anna.take_writes() == [b"own\x88\x02\x03\xe8"], "its own frame, then the close"
    assert bert.take_writes() == []
    assert carl.take_writes() == [b"1"]


@pytest.mark.parametrize("also", [False, True])
async def test_a_full_member_during_a_fan_out(delivery, also) -> None:
    """It is closed with 1013; the others get their frames."""
    anna, bert, carl = Member(delivery), Member(delivery), Member(delivery)
    for member in (anna, bert, carl):
        delivery.join(ROOM, member)
    bert.wire.full = True
    for number in range(3):
        delivery.deliver(ROOM, b"%02d" % number * 40)
        if also:
            delivery.send(carl, b"own")
        await flushed()
    assert len(anna.take_writes()) == len(carl.take_writes()) == 3
    assert bert.take_writes() == [b"00" * 40, b"01" * 40 + b"\x88\x0a\x03\xf5Too Slow"]
    assert delivery.members(ROOM) == (anna, bert, carl), "delivery does not remove members"


async def test_personal_rooms(delivery) -> None:
    """All connections of the user get events in order; the first and the last connection are reported."""
    anna, bert = Member(delivery), Member(delivery)
    assert delivery.join_personal("user:1", anna) is True
    assert delivery.join_personal("user:1", bert) is False
    delivery.send(anna, b"own ")
    delivery.deliver("user:1", b"a ")
    delivery.deliver("user:1", b"b")
    delivery.deliver("user:2", b"c")
    await flushed()
    assert anna.take_writes() == [b"own a b"]
    assert bert.take_writes() == [b"a b"]
    assert delivery.leave_personal("user:1", anna) is False
    assert delivery.leave_personal("user:1", anna) is False, "anna has left already"
    assert delivery.leave_personal("user:1", bert) is True
    assert delivery.leave_personal("user:1", bert) is False
    assert delivery.personal == {}
    delivery.deliver("user:1", b"late")
    await flushed()
    assert anna.take_writes() == bert.take_writes() == []


async def test_deliver_later_in_a_small_room(delivery) -> None:
    """In a small room, deliver_later does not delay."""
    anna = Member(delivery)
    delivery.join(ROOM, anna)
    delivery.deliver_later(ROOM, b"one")
    await flushed()
    assert anna.take_writes() == [b"one"]


async def test_deliver_later_in_a_large_room(delivery) -> None:
    """In a large room, frames are delayed and written together, in order."""
    crowd = [Member(delivery) for _ in range(CROWD)]
    for member in crowd:
        delivery.join(ROOM, member)
    delivery.deliver_later(ROOM, b"1")
    await flushed()
    delivery.deliver_later(ROOM, b"2")
    assert crowd[0].take_writes() == []
    async with asyncio.timeout(10):
        while not crowd[0].wire.writes:
            await asyncio.sleep(0.005)
    assert all(member.take_writes() == [b"12"] for member in crowd)


async def test_deliver_after_deliver_later(delivery) -> None:
    """Delayed frames precede a later frame of the room, which is not delayed."""
    crowd = [Member(delivery) for _ in range(CROWD)]
    for member in crowd:
        delivery.join(ROOM, member)
    delivery.deliver_later(ROOM, b"joined ")
    await flushed()
    delivery.join(ROOM, late := Member(delivery))
    delivery.deliver(ROOM, b"message ")
    delivery.deliver_later(ROOM, b"left")
    await flushed()
    assert all(member.take_writes() == [b"joined message left"] for member in crowd)
    assert late.take_writes() == [b"message left"]
    await asyncio.sleep(0.05)
    assert crowd[0].take_writes() == [], "the timer finds no frames"


async def test_leaving_a_large_room_with_delayed_frames(delivery) -> None:
    """The member gets the delayed frames, because they were published before it left."""
    crowd = [Member(delivery) for _ in range(CROWD)]
    for member in crowd:
        delivery.join(ROOM, member)
    delivery.deliver_later(ROOM, b"joined")
    delivery.leave(ROOM, crowd[0])
    await flushed()
    assert crowd[0].take_writes() == [b"joined"]


async def test_delivery_counts(delivery) -> None:
    """Each frame to each member is counted in one interval of the histogram."""
    for _ in range(3):
        delivery.join(ROOM, Member(delivery))
    delivery.deliver(ROOM, b"1")
    delivery.deliver(ROOM, b"2")
    await flushed()
    assert sum(delivery.delivery_counts) == 6
    assert len(delivery.delivery_counts) == len(DELIVERY_BOUNDS) + 1
    assert delivery.delivery_seconds > 0


async def test_no_reference_to_a_connection_remains(delivery) -> None:
    """After it left, nothing refers to a connection."""
    anna = Member(delivery)
    delivery.join(ROOM, anna)
    delivery.join_personal("user:1", anna)
    delivery.deliver(ROOM, b"1")
    delivery.deliver("user:1", b"2")
    delivery.leave(ROOM, anna)
    delivery.leave_personal("user:1", anna)
    await flushed()
    anna.keepalive.connections.clear()
    finalizer = weakref.finalize(anna.wire, lambda: None)
    anna.wire.protocol = None
    del anna
    assert not finalizer.alive


async def test_a_failing_write_affects_no_other_member(delivery) -> None:
    """The others get their frames one loop iteration later."""
    members = [Member(delivery) for _ in range(6)]
    for one in members:
        delivery.join(ROOM, one)
    broken = members[2]

    def fail(data: bytes) -> None:
        raise RuntimeError("this wire is broken")

    broken.wire.write = fail
    delivery.deliver(ROOM, b"first")
    delivery.deliver(ROOM, b" second")
    with pytest.raises(RuntimeError, match="broken"):
        delivery.flush()
    await flushed()
    assert [one.take_writes() for one in members if one is not broken] == [[b"first second"]] * 5
    del broken.wire.write
    delivery.deliver(ROOM, b"third")
    await flushed()
    assert [one.take_writes() for one in members] == [[b"third"]] * 6
