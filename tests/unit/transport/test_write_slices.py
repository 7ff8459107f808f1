"""A large fan-out is written in slices, so that other work runs in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roomcast.fastpath import WriteQueue
from roomcast.gateway import delivery as gateway_delivery
from roomcast.gateway.delivery import Delivery
from roomcast.transport import write_scheduler

#: The bytes of a slice in these tests.
MAX_WRITE = 1000


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make slices of ``MAX_WRITE`` bytes."""
    for module in (write_scheduler, gateway_delivery):
        monkeypatch.setattr(module, "MAX_WRITE", MAX_WRITE)
    monkeypatch.setattr(gateway_delivery, "LARGE", MAX_WRITE // 2)


class Writer:
    """A transport that records what is written. ``log`` has all writes of all connections."""

    def __init__(self, name: int, log: list[tuple[int, bytes]]) -> None:
        self.name = name
        self.log = log
        self.fails = False

    def write(self, data: bytes) -> None:
        """Record ``data``."""
        if self.fails:
            raise OSError("broken")
        self.log.append((self.name, bytes(data)))


class Scene:
    """A room with ``count`` members."""

    def __init__(self, count: int) -> None:
        self.delivery = Delivery(asyncio.get_running_loop())
        self.log: list[tuple[int, bytes]] = []
        self.members = [WriteQueue() for _ in range(count)]
        for number, member in enumerate(self.members):
            member.writer = Writer(number, self.log)  # type: ignore[assignment]
            self.delivery.join("channel:1", member)

    async def iterations(self) -> list[int]:
        """Return the number of writes in each loop iteration, until all is written."""
        counts: list[int] = []
        await asyncio.sleep(0)
        while True:
            counts.append(len(self.log) - sum(counts))
            if not self.delivery.is_writing:
                return counts
            await asyncio.sleep(0)

    def add(self, name: int, *rooms: str) -> WriteQueue:
        """Return another connection, which is in these rooms."""
        connection = WriteQueue()
        connection.writer = Writer(name, self.log)  # type: ignore[assignment]
        for room in rooms:
            self.delivery.join(room, connection)
        return connection

    def received(self) -> list[bytes]:
        """Return what each member has received."""
        return [b"".join(data for name, data in self.log if name == number) for number in range(len(self.members))]


async def test_a_large_fan_out_is_written_in_slices() -> None:
    """Each iteration writes about MAX_WRITE bytes, and each member gets the event once, in one write."""
    scene = Scene(25)
    scene.delivery.deliver("channel:1", b"x" * 100)
    assert await scene.iterations() == [10, 10, 5]
    assert scene.received() == [b"x" * 100] * 25
    assert sum(scene.delivery.delivery_counts) == 25


async def test_a_small_fan_out_is_written_at_once() -> None:
    """A fan-out of MAX_WRITE bytes is one slice."""
    scene = Scene(10)
    scene.delivery.deliver("channel:1", b"x" * 100)
    assert await scene.iterations() == [10]


async def test_a_frame_larger_than_a_slice() -> None:
    """Each iteration writes to at least one member; a single member gets any frame at once."""
    scene = Scene(3)
    scene.delivery.deliver("channel:1", b"x" * 5000)
    assert await scene.iterations() == [1, 1, 1]
    alone = Scene(1)
    alone.delivery.deliver("channel:1", b"x" * 5000)
    assert await alone.iterations() == [1]


async def test_small_frames_do_not_wait_for_the_slices() -> None:
    """A member of another room receives its event in the next iteration, between two slices."""
    scene = Scene(30)
    scene.add(99, "channel:2")
    scene.delivery.deliver("channel:1", b"x" * 100)
    await asyncio.sleep(0)
    scene.delivery.deliver("channel:2", b"small")
    await scene.iterations()
    names = [name for name, _ in scene.log]
    assert 10 <= names.index(99) <= 20


@pytest.mark.parametrize("is_writing", [False, True])
async def test_small_frames_of_the_same_iteration_come_first(is_writing: bool) -> None:
    """Frames of other rooms and direct ones do not wait for a large fan-out, whether or not another one is written."""
    scene = Scene(30)
    scene.add(98, "channel:2")
    other = scene.add(99)
    if is_writing:
        scene.delivery.deliver("channel:1", b"x" * 100)
        await asyncio.sleep(0)
        scene.log.clear()
    scene.delivery.deliver("channel:1", b"y" * 100)
    scene.delivery.deliver("channel:2", b"small")
    scene.delivery.send(other, b"direct")
    await asyncio.sleep(0)
    names = [name for name, _ in scene.log]
    assert {98, 99} <= set(names)
    assert len(names) <= 12


async def test_large_fan_outs_that_follow() -> None:
    """They are written in slices as well, and a member that waits gets all of them in one write."""
    scene = Scene(30)
    sizes: list[int] = []
    for number in range(4):
        scene.delivery.deliver("channel:1", b"%d" % number * 100)
        await asyncio.sleep(0)
        sizes.append(sum(len(data) for _, data in scene.log) - sum(sizes))
    while scene.delivery.is_writing:
        await asyncio.sleep(0)
        sizes.append(sum(len(data) for _, data in scene.log) - sum(sizes))
    assert max(sizes) <= MAX_WRITE + 300
    assert scene.received() == [b"0" * 100 + b"1" * 100 + b"2" * 100 + b"3" * 100] * 30
    assert len(scene.log) < 4 * 30
    assert sum(scene.delivery.delivery_counts) == 120


async def test_publishers_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """If much waits for a member, the rest is written at once: publishing takes the time that the writing takes."""
    monkeypatch.setattr(write_scheduler, "MAX_QUEUED", 300)
    scene = Scene(30)
    for _ in range(20):
        scene.delivery.deliver("channel:1", b"x" * 100)
        await asyncio.sleep(0)
        assert all(member.queued_bytes <= 400 for member in scene.members)
    await scene.iterations()
    assert scene.received() == [b"x" * 2000] * 30


async def test_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration writes to MAX_CONNECTIONS members, however small the event is."""
    monkeypatch.setattr(write_scheduler, "MAX_CONNECTIONS", 20)
    scene = Scene(50)
    scene.delivery.deliver("channel:1", b"x")
    assert await scene.iterations() == [20, 20, 10]


async def test_a_member_that_ended_is_skipped() -> None:
    """Nothing is written to a connection that ended between two slices, or twice to one that wrote its queue itself."""
    scene = Scene(30)
    scene.delivery.deliver("channel:1", b"x" * 100)
    await asyncio.sleep(0)
    scene.members[29].writer = None
    assert scene.members[28].take() == b"x" * 100
    await scene.iterations()
    assert [number for number, data in enumerate(scene.received()) if not data] == [28, 29]


async def test_a_member_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not keep the frames of the others from being written."""
    scene = Scene(30)
    scene.members[3].writer.fails = True  # type: ignore[union-attr]
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    scene.delivery.deliver("channel:1", b"x" * 100)
    for _ in range(10):
        await asyncio.sleep(0)
    assert [number for number, data in enumerate(scene.received()) if data != b"x" * 100] == [3]
    assert len(failures) == 1


def steps() -> Iterator[st.SearchStrategy[tuple[str, int, int]]]:
    """Yield the strategies of steps: deliver to a room, send to a member, or let an iteration pass."""
    yield st.tuples(st.just("deliver"), st.integers(1, 3), st.sampled_from([1, 50, 400, 3000]))
    yield st.tuples(st.just("send"), st.integers(0, 11), st.sampled_from([1, 50, 2000]))
    yield st.tuples(st.just("pass"), st.just(0), st.just(0))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.one_of(*steps()), max_size=30))
def test_each_connection_keeps_its_order(sequence: list[tuple[str, int, int]]) -> None:
    """Whatever is delivered and sent between the slices, each member receives the frames of a room once, in order."""

    async def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(write_scheduler, "MAX_CONNECTIONS", 8)
            patch.setattr(write_scheduler, "MAX_QUEUED", 2500)
            await play()

    async def play() -> None:
        scene = Scene(12)
        delivered: dict[int, list[list[bytes]]] = {number: [[], [], [], []] for number in range(12)}
        for room in (2, 3):
            for member in scene.members[::room]:
                scene.delivery.join(f"channel:{room}", member)
        rooms = {1: range(12), 2: range(0, 12, 2), 3: range(0, 12, 3)}
        for count, (kind, target, size) in enumerate(sequence):
            if kind == "pass":
                await asyncio.sleep(0)
                continue
            frame = b"<%d:%d:%b>" % (count, target if kind == "deliver" else 0, b"x" * size)
            if kind == "deliver":
                scene.delivery.deliver(f"channel:{target}", frame)
                for number in rooms[target]:
                    delivered[number][target].append(frame)
            else:
                scene.delivery.send(scene.members[target], frame)
                delivered[target][0].append(frame)
        await scene.iterations()
        for number, data in enumerate(scene.received()):
            frames = [b"<" + one for one in data.split(b"<")[1:]]
            assert sorted(frames) == sorted(chain(*delivered[number]))
            for source, expected in enumerate(delivered[number]):
                assert [one for one in frames if one.split(b":")[1] == b"%d" % source] == expected

    asyncio.run(run())
