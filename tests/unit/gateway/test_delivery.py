"""The hub: who gets what, in which order, and in how many writes."""

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


class Outlet(asyncio.Transport):
    """A transport in memory that keeps its writes apart, as a socket does not."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.full = False
        self.protocol: asyncio.Protocol | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0, "the hub counts on hearing at once when the kernel is full"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.writes)) if self.full else 0

    def resume_reading(self) -> None:
        """It is never paused."""

    def writelines(self, list_of_data: Iterable[bytes]) -> None:
        self.write(b"".join(list_of_data))

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        if self.full and not self.protocol.paused:
            self.protocol.pause_writing()


class Member(Connection):
    """A connection of a test; ``got`` are the writes that it had since the last look."""

    def __init__(self, hub: Delivery) -> None:
        super().__init__(hub, Keepalive(asyncio.get_running_loop(), 30, 1000, 100))
        self.wire = Outlet()
        self.take_over(self.wire, b"101")
        hub.flush()
        assert self.got() == [b"101"]

    def got(self) -> list[bytes]:
        writes, self.wire.writes = self.wire.writes, []
        return writes


@pytest.fixture
async def hub():
    """A hub on the running loop."""
    return Delivery(asyncio.get_running_loop())


async def turn_ends() -> None:
    """Let the loop turn once, so that what waits for the turn's end is written."""
    await asyncio.sleep(0)


async def test_a_room_has_its_members(hub):
    """Joining and leaving, told by has, members and what leave returns."""
    anna, bert = Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.join(ROOM, bert)
    assert hub.has(ROOM, anna)
    assert hub.members(ROOM) == (anna, bert)
    assert not hub.has("channel:2", anna)
    assert hub.members("channel:2") == ()
    assert hub.leave(ROOM, anna) is False, "one is left"
    assert not hub.has(ROOM, anna)
    assert hub.leave(ROOM, anna) is False, "who is not in it cannot empty it"
    assert hub.leave(ROOM, bert) is True
    assert hub.leave(ROOM, bert) is False
    assert hub.rooms == {}, "an empty room is forgotten"


async def test_members_get_what_is_delivered_at_the_end_of_the_turn(hub):
    """Nothing before; then one write for all of a turn, to members only."""
    anna, bert, carl = Member(hub), Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.join(ROOM, bert)
    hub.join("channel:2", carl)
    for frame in (b"one ", b"two ", b"three"):
        hub.deliver(ROOM, frame)
    assert anna.got() == []
    await turn_ends()
    assert anna.got() == bert.got() == [b"one two three"]
    assert carl.got() == []
    await turn_ends()
    assert anna.got() == []


async def test_all_members_are_written_the_same_object(hub):
    """A frame is not copied for each member."""
    members = [Member(hub) for _ in range(3)]
    for member in members:
        hub.join(ROOM, member)
    frame = bytes(1000)
    hub.deliver(ROOM, frame)
    await turn_ends()
    assert all(member.got()[0] is frame for member in members)


async def test_everything_of_a_turn_goes_out_in_one_write(hub):
    """Own frames, and those of several rooms; each room's in its order."""
    anna, bert = Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.join("channel:2", anna)
    hub.join(ROOM, bert)
    hub.deliver(ROOM, b"a1 ")
    hub.deliver("channel:2", b"b1 ")
    hub.send(anna, b"own1 ")
    hub.deliver(ROOM, b"a2 ")
    hub.send(anna, b"own2 ")
    await turn_ends()
    assert anna.got() == [b"own1 own2 a1 a2 b1 "]
    assert bert.got() == [b"a1 a2 "]


async def test_the_next_turn_gets_a_write_of_its_own(hub):
    """The hub schedules itself anew each time."""
    anna = Member(hub)
    hub.join(ROOM, anna)
    for _ in range(3):
        hub.deliver(ROOM, b"room")
        await turn_ends()
        hub.send(anna, b"own")
        await turn_ends()
    assert anna.got() == [b"room", b"own"] * 3


async def test_delivering_to_an_empty_room_is_nothing(hub):
    """Nobody there, nothing kept."""
    hub.deliver(ROOM, b"x")
    hub.deliver_later(ROOM, b"x")
    anna = Member(hub)
    hub.join(ROOM, anna)
    await turn_ends()
    assert anna.got() == []


async def test_a_newcomer_does_not_get_what_was_delivered_before(hub):
    """It has, or will get, that from the history; the others get it as ever, and the newcomer what comes after."""
    anna, bert, carl = Member(hub), Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.deliver(ROOM, b"1")
    hub.join(ROOM, bert)
    hub.deliver(ROOM, b"2")
    hub.join(ROOM, carl)
    hub.deliver(ROOM, b"3")
    await turn_ends()
    assert anna.got() == [b"123"]
    assert bert.got() == [b"23"]
    assert carl.got() == [b"3"]
    hub.deliver(ROOM, b"4")
    await turn_ends()
    assert anna.got() == bert.got() == carl.got() == [b"4"]


async def test_a_newcomer_with_nothing_to_come_gets_no_write(hub):
    """Its reply goes out alone."""
    anna, bert = Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.deliver(ROOM, b"1")
    hub.join(ROOM, bert)
    hub.send(bert, b"joined")
    await turn_ends()
    assert anna.got() == [b"1"]
    assert bert.got() == [b"joined"]


async def test_who_leaves_gets_what_was_delivered_before(hub):
    """And nothing of what comes after, in the same turn."""
    anna, bert = Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.join(ROOM, bert)
    hub.deliver(ROOM, b"1")
    hub.leave(ROOM, anna)
    hub.deliver(ROOM, b"2")
    await turn_ends()
    assert anna.got() == [b"1"]
    assert bert.got() == [b"12"]


async def test_the_last_one_out_gets_what_was_delivered_before(hub):
    """Though the room is no more at the end of the turn."""
    anna = Member(hub)
    hub.join(ROOM, anna)
    hub.deliver(ROOM, b"1")
    assert hub.leave(ROOM, anna) is True
    hub.deliver(ROOM, b"2")
    await turn_ends()
    assert anna.got() == [b"1"]


async def test_leaving_and_coming_back_in_one_turn_doubles_nothing(hub):
    """Before the leaving, and after the return; between them nothing."""
    anna, bert = Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.join(ROOM, bert)
    hub.deliver(ROOM, b"1")
    hub.leave(ROOM, anna)
    hub.deliver(ROOM, b"2")
    hub.join(ROOM, anna)
    hub.deliver(ROOM, b"3")
    await turn_ends()
    assert anna.got() == [b"13"]
    assert bert.got() == [b"123"]


async def test_a_newcomer_that_leaves_gets_only_its_own(hub):
    """Joined between two deliveries and gone after the second."""
    anna, bert = Member(hub), Member(hub)
    hub.join(ROOM, anna)
    hub.deliver(ROOM, b"1")
    hub.join(ROOM, bert)
    hub.deliver(ROOM, b"2")
    hub.leave(ROOM, bert)
    hub.deliver(ROOM, b"3")
    await turn_ends()
    assert anna.got() == [b"123"]
    assert bert.got() == [b"2"]


async def test_a_closed_member_gets_nothing_and_harms_nobody(hub):
    """Whether it closed before the turn's end or is dead: the others get theirs."""
    anna, bert, carl = Member(hub), Member(hub), Member(hub)
    for member in (anna, bert, carl):
        hub.join(ROOM, member)
    hub.deliver(ROOM, b"1")
    hub.send(anna, b"own")
    anna.close(NORMAL)
    bert.connection_lost(None)
    await turn_ends()
    assert anna.got() == [b"own\x88\x02\x03\xe8"], "what waited for it alone, then the close"
    assert bert.got() == []
    assert carl.got() == [b"1"]


@pytest.mark.parametrize("also", [False, True])
async def test_a_member_that_is_full_in_the_middle_of_a_fan_out_harms_nobody(hub, also):
    """It is closed with 1013 while the room is being written, alone or among others' frames."""
    anna, bert, carl = Member(hub), Member(hub), Member(hub)
    for member in (anna, bert, carl):
        hub.join(ROOM, member)
    bert.wire.full = True
    for number in range(3):
        hub.deliver(ROOM, b"%02d" % number * 40)
        if also:
            hub.send(carl, b"own")
        await turn_ends()
    assert len(anna.got()) == len(carl.got()) == 3
    assert bert.got() == [b"00" * 40, b"01" * 40 + b"\x88\x0a\x03\xf5Too Slow"]
    assert hub.members(ROOM) == (anna, bert, carl), "the hub takes nobody out by itself"


async def test_a_personal_room_is_for_one_user(hub):
    """A few connections, told apart by first and last; events reach them all, in the order of everything else sent."""
    anna, bert = Member(hub), Member(hub)
    assert hub.join_personal("user:1", anna) is True
    assert hub.join_personal("user:1", bert) is False
    hub.send(anna, b"own ")
    hub.deliver("user:1", b"a ")
    hub.deliver("user:1", b"b")
    hub.deliver("user:2", b"c")
    await turn_ends()
    assert anna.got() == [b"own a b"]
    assert bert.got() == [b"a b"]
    assert hub.leave_personal("user:1", anna) is False
    assert hub.leave_personal("user:1", anna) is False, "who is gone cannot go again"
    assert hub.leave_personal("user:1", bert) is True
    assert hub.leave_personal("user:1", bert) is False
    assert hub.personal == {}
    hub.deliver("user:1", b"late")
    await turn_ends()
    assert anna.got() == bert.got() == []


async def test_a_small_room_hears_of_comings_at_once(hub):
    """deliver_later is deliver where there is no crowd."""
    anna = Member(hub)
    hub.join(ROOM, anna)
    hub.deliver_later(ROOM, b"one")
    await turn_ends()
    assert anna.got() == [b"one"]


async def test_a_crowd_hears_of_comings_together(hub):
    """In a large room they wait a moment, keep their order, and go out in one write."""
    crowd = [Member(hub) for _ in range(CROWD)]
    for member in crowd:
        hub.join(ROOM, member)
    hub.deliver_later(ROOM, b"1")
    await turn_ends()
    hub.deliver_later(ROOM, b"2")
    assert crowd[0].got() == []
    async with asyncio.timeout(10):
        while not crowd[0].wire.writes:
            await asyncio.sleep(0.005)
    assert all(member.got() == [b"12"] for member in crowd)


async def test_a_message_takes_along_the_comings_that_wait(hub):
    """An event is never behind a later one of its room, and never waits for it."""
    crowd = [Member(hub) for _ in range(CROWD)]
    for member in crowd:
        hub.join(ROOM, member)
    hub.deliver_later(ROOM, b"came ")
    await turn_ends()
    hub.join(ROOM, newcomer := Member(hub))
    hub.deliver(ROOM, b"said ")
    hub.deliver_later(ROOM, b"went")
    await turn_ends()
    assert all(member.got() == [b"came said went"] for member in crowd)
    assert newcomer.got() == [b"said went"]
    await asyncio.sleep(0.05)
    assert crowd[0].got() == [], "the timer has nothing left to say"


async def test_who_leaves_a_crowd_gets_the_comings_that_wait(hub):
    """They were published while it was there."""
    crowd = [Member(hub) for _ in range(CROWD)]
    for member in crowd:
        hub.join(ROOM, member)
    hub.deliver_later(ROOM, b"came")
    hub.leave(ROOM, crowd[0])
    await turn_ends()
    assert crowd[0].got() == [b"came"]


async def test_deliveries_are_counted_by_their_time(hub):
    """One for each member and frame, in one of the histogram's classes."""
    for _ in range(3):
        hub.join(ROOM, Member(hub))
    hub.deliver(ROOM, b"1")
    hub.deliver(ROOM, b"2")
    await turn_ends()
    assert sum(hub.delivery_counts) == 6
    assert len(hub.delivery_counts) == len(DELIVERY_BOUNDS) + 1
    assert hub.delivery_seconds > 0


async def test_the_hub_keeps_nobody_alive(hub):
    """After its leaving nothing of a connection is left in the hub."""
    anna = Member(hub)
    hub.join(ROOM, anna)
    hub.join_personal("user:1", anna)
    hub.deliver(ROOM, b"1")
    hub.deliver("user:1", b"2")
    hub.leave(ROOM, anna)
    hub.leave_personal("user:1", anna)
    await turn_ends()
    anna.keepalive.connections.clear()
    gone = weakref.finalize(anna.wire, lambda: None)
    anna.wire.protocol = None
    del anna
    assert not gone.alive


async def test_a_write_that_fails_mutes_nobody_else(hub):
    """The others get what waited for them a turn later, and everybody what comes then."""
    members = [Member(hub) for _ in range(6)]
    for one in members:
        hub.join(ROOM, one)
    broken = members[2]

    def fail(data: bytes) -> None:
        raise RuntimeError("this wire is broken")

    broken.wire.write = fail
    hub.deliver(ROOM, b"first")
    hub.deliver(ROOM, b" second")
    with pytest.raises(RuntimeError, match="broken"):
        hub.flush()
    await turn_ends()
    assert [one.got() for one in members if one is not broken] == [[b"first second"]] * 5
    del broken.wire.write
    hub.deliver(ROOM, b"third")
    await turn_ends()
    assert [one.got() for one in members] == [[b"third"]] * 6
