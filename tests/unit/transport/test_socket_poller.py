"""The poller: many sockets are read together, and each client is heard whole and in order, to its end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import socket
import struct
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from wire import masked

from roomcast import fastpath
from roomcast.protocol import frames
from roomcast.transport.socket_poller import SocketPoller

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")

pytestmark = pytest.mark.skipif(
    fastpath.NativeSocketPoller is None, reason="it was not compiled, or the system has no epoll"
)

LIMIT = 1 << 20


class Client:
    """One whose socket is read; ``heard`` is what came of it, in order."""

    def __init__(self, poller: SocketPoller, *, is_within: bool = False) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.theirs = socket.create_connection(listener.getsockname())
        self.ours, _ = listener.accept()
        listener.close()
        self.ours.setblocking(False)
        self.poller = poller
        self.heard: list[Any] = []
        self.within = False
        self.on_take: Callable[[], None] = lambda: None
        assert poller.add(self.ours.fileno(), self, is_within_message=is_within)

    def messages_received(self, payloads: list[bytearray]) -> None:
        self.heard += [bytes(payload) for payload in payloads]
        self.on_take()

    def bytes_received(self, data: bytes) -> bool:
        self.heard.append(("read", data))
        return self.within

    def read_failed(self) -> None:
        self.heard.append("end")
        self.remove()

    def reader_raised(self, error: Exception) -> None:
        self.heard.append(error)

    def remove(self) -> None:
        self.poller.remove(self.ours.fileno())

    async def hears(self, count: int = 1) -> list[Any]:
        """The first so many things that it heard, when there are so many."""
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                await asyncio.sleep(0)
        return self.heard


@pytest.fixture
async def poller() -> AsyncIterator[SocketPoller]:
    """On the running loop, and of as many clients as the test makes of it."""
    yield SocketPoller(asyncio.get_running_loop(), LIMIT)


@contextlib.contextmanager
def clients(poller: SocketPoller, count: int = 1, *, is_within: bool = False) -> Any:
    """So many, closed at the end."""
    made = [Client(poller, is_within=is_within) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.remove()
            one.ours.close()
            one.theirs.close()


def text(payload: bytes) -> bytes:
    """A message, as a client sends it."""
    return masked(frames.TEXT, payload)


async def test_whole_messages_are_taken(poller):
    """All that came in one read, unmasked and in order."""
    with clients(poller) as [one]:
        one.theirs.sendall(text(b"one") + text("zwölf".encode()) + text(b""))
        assert await one.hears(3) == [b"one", "zwölf".encode(), b""]
        one.theirs.sendall(text(b"more"))
        assert (await one.hears(4))[3:] == [b"more"]


async def test_anything_else_is_read_as_it_came(poller):
    """Parts of frames, pings, what is not UTF-8; and while a message is half read, also what looks like whole ones."""
    ping, whole = masked(frames.PING, b"?"), text(b"whole")
    with clients(poller) as [one]:
        for data in (ping, whole[:5], text(b"\xff")):
            one.heard.clear()
            one.theirs.sendall(data)
            assert await one.hears() == [("read", data)]
        one.heard.clear()
        one.within = True
        one.theirs.sendall(ping)
        await one.hears()
        one.theirs.sendall(whole)
        assert (await one.hears(2))[1] == ("read", whole)
        one.within = False
        one.theirs.sendall(whole)
        assert (await one.hears(3))[2] == ("read", whole)
        one.theirs.sendall(whole)
        assert (await one.hears(4))[3] == b"whole"


async def test_it_can_begin_within_a_message(poller):
    """The beginning was read by somebody else."""
    with clients(poller, is_within=True) as [one]:
        one.theirs.sendall(text(b"x"))
        assert await one.hears() == [("read", text(b"x"))]


@pytest.mark.parametrize("size", [4100, 4152, 4153, 60_000, 200_000])
async def test_a_long_message_arrives_whole(poller, size):
    """Be it longer than what is read at first, or than what is read in one turn."""
    data = bytes(i % 251 for i in range(size))
    stream = masked(frames.TEXT, data)
    with clients(poller) as [one]:
        one.within = True
        one.theirs.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(one.theirs, stream)
        got = b""
        async with asyncio.timeout(10):
            while len(got) < len(stream) and got != data:
                await one.hears()
                part = one.heard.pop(0)
                got += part[1] if isinstance(part, tuple) else part
        assert got in (stream, data)


async def test_more_sockets_than_are_read_at_once(poller):
    """600 clients are all heard, each its own."""
    with clients(poller, 600) as many:
        for round in range(3):
            for number, one in enumerate(many):
                one.theirs.sendall(text(b"%d %d" % (round, number)))
            for number, one in enumerate(many):
                assert (await one.hears(round + 1))[round] == b"%d %d" % (round, number)


@pytest.mark.parametrize("reset", [False, True])
async def test_the_end_is_told(poller, reset):
    """After all that came before it, be it a close or a reset; and then no more."""
    with clients(poller, 6) as many:
        for one in many:
            one.theirs.sendall(text(b"last"))
            await one.hears()
        for one in many:
            if reset:
                one.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.theirs.close()
        for one in many:
            assert await one.hears(2) == [b"last", "end"]
        await asyncio.sleep(0)
        assert all(one.heard == [b"last", "end"] for one in many)


async def test_what_came_with_the_end_is_heard_first(poller):
    """A client that says something and hangs up at once is heard."""
    with clients(poller) as [one]:
        one.theirs.sendall(text(b"last"))
        one.theirs.close()
        assert await one.hears(2) == [b"last", "end"]


class Panic(BaseException):
    """What no ``except Exception`` catches."""


@pytest.mark.parametrize("trouble", [RuntimeError("too much"), Panic("far too much")])
async def test_a_failure_is_its_own(poller, trouble):
    """The one whose message was not borne is told; the others are heard all the same."""
    with clients(poller, 5) as many:

        def fail() -> None:
            raise trouble

        many[2].on_take = fail
        for one in many:
            one.theirs.sendall(text(b"x"))
        for number, one in enumerate(many):
            assert await one.hears(2 if number == 2 else 1) == ([b"x", trouble] if number == 2 else [b"x"])
        assert trouble.__traceback__ is not None


async def test_what_ends_the_process_comes_when_all_were_heard(poller):
    """SystemExit is nobody's failure; nor is it that of one whose own failure could not be told."""
    with clients(poller, 6) as many:
        sockets = poller._native
        asyncio.get_running_loop().remove_reader(sockets.fileno())

        def leave() -> None:
            raise SystemExit(3)

        def fail(error: BaseException | None = None) -> None:
            raise ValueError("and this") from error

        many[1].on_take = leave
        many[2].on_take = many[2].reader_raised = fail
        for one in many:
            one.theirs.sendall(text(b"x"))
        async with asyncio.timeout(10):
            ends = []
            while not all(one.heard for one in many):
                try:
                    sockets.read()
                except (SystemExit, ValueError) as end:
                    ends.append(end)
        assert [one.heard for one in many] == [[b"x"]] * 6
        assert isinstance(ends[0], SystemExit)


async def test_everybody_is_heard_in_the_context_of_the_start(poller):
    """And not in that of who came first."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="the start's")
    variable.set("the first client's")
    with clients(poller, 2) as many:
        seen = []
        for one in many:
            one.on_take = lambda: seen.append(variable.get())
            one.theirs.sendall(text(b"x"))
            await one.hears()
    assert seen == ["the start's"] * 2


async def test_a_loop_that_can_watch_no_more_may_another_time():
    """Who came meanwhile is read by its transport; who comes then, by the poller."""
    loop = asyncio.get_running_loop()
    fails = [OSError(28, "No space left on device")]

    class Loop:
        def add_reader(self, *args: Any) -> None:
            if fails:
                raise fails.pop()
            loop.add_reader(*args)

        def remove_reader(self, fd: int) -> bool:
            return loop.remove_reader(fd)

    tight = SocketPoller(Loop(), LIMIT)  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert tight.add(ours.fileno(), None) is False
    with clients(tight, 2) as many:
        for one in many:
            one.theirs.sendall(text(b"x"))
            assert await one.hears() == [b"x"]


async def test_who_is_removed_is_read_no_more(poller):
    """What comes later waits in the kernel, and is heard when it is added again."""
    with clients(poller, 2) as [one, other]:
        one.remove()
        one.theirs.sendall(text(b"waits"))
        other.theirs.sendall(text(b"x"))
        await other.hears()
        assert one.heard == []
        assert poller.add(one.ours.fileno(), one)
        assert await one.hears() == [b"waits"]


async def test_what_was_read_of_one_removed_meanwhile_is_not_lost(poller):
    """One client's message may pause another, whose own has been read already."""
    with clients(poller, 8) as many:
        for one in many:
            one.on_take = lambda one=one: [other.remove() for other in many if other is not one]
            one.theirs.sendall(text(b"x"))
        await many[0].hears()
        for one in many:
            one.on_take = lambda: None
            poller.remove(one.ours.fileno())
            assert poller.add(one.ours.fileno(), one)
        for one in many:
            assert await one.hears() == [b"x"]


async def test_the_loop_is_left_alone_without_native(poller):
    """Its reader goes with the last of them, and comes back with the next."""
    loop = asyncio.get_running_loop()
    fileno = poller._native.fileno()
    for _ in range(2):
        with clients(poller, 2) as [one, other]:
            one.remove()
            one.remove()
            other.theirs.sendall(text(b"x"))
            await other.hears()
        assert not loop.remove_reader(fileno)


async def test_what_cannot_be_watched_is_refused(poller, tmp_path: Path):
    """Its transport must read it: a file, say, or a number that is no socket's."""
    with (tmp_path / "file").open("w") as file:
        assert poller.add(file.fileno(), None) is False
    assert poller.add(-1, None) is False
    assert not asyncio.get_running_loop().remove_reader(poller._native.fileno())


def test_loops_of_several_threads_do_not_meet():
    """Each reads its own clients' sockets while the others do."""
    failures: list[BaseException] = []

    async def echo(name: bytes) -> None:
        poller = SocketPoller(asyncio.get_running_loop(), LIMIT)
        with clients(poller, 20) as many:
            for round in range(100):
                for number, one in enumerate(many):
                    one.theirs.sendall(text(b"%b %d %d" % (name, round, number)))
                for number, one in enumerate(many):
                    assert (await one.hears(round + 1))[round] == b"%b %d %d" % (name, round, number)

    def run(name: bytes) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(echo(name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(b"%d" % number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_readers_that_refer_to_it_are_freed():
    """As connections do, over the keepalive."""

    class Reader:
        sockets: Any

    reader = Reader()
    reader.sockets = fastpath.NativeSocketPoller(LIMIT)
    known = weakref.ref(reader)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader.sockets.add(ours.fileno(), reader, False)
        assert len(reader.sockets) == 1
        del reader
        gc.collect()
        assert known() is None


def test_what_is_of_a_wrong_type_is_refused():
    """C must not take one thing for another."""
    sockets = fastpath.NativeSocketPoller(LIMIT)
    for call in (
        lambda: fastpath.NativeSocketPoller("1"),
        lambda: sockets.add("1", None, False),
        lambda: sockets.remove("1"),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="negative"):
        sockets.add(-1, None, False)
    sockets.remove(-1)
    sockets.remove(10**6)
    sockets.read()
    assert len(sockets) == 0
