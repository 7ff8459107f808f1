"""Tests of ``transport.socket_poller`` and its C code: each client's data is handled completely and in order."""

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
    fastpath.NativeSocketPoller is None, reason="C is not in use, or the system has no epoll"
)

LIMIT = 1 << 20


class Client:
    """A connected socket with a reader. ``handled`` lists the calls of the reader in order."""

    def __init__(self, poller: SocketPoller, *, is_within_message: bool = False) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.create_connection(listener.getsockname())
        self.ours, _ = listener.accept()
        listener.close()
        self.ours.setblocking(False)
        self.poller = poller
        self.handled: list[Any] = []
        self.is_within_message = False
        self.on_message: Callable[[], None] = lambda: None
        assert poller.add(self.ours.fileno(), self, is_within_message=is_within_message)

    def messages_received(self, payloads: list[bytearray]) -> None:
        self.handled += [bytes(payload) for payload in payloads]
        self.on_message()

    def bytes_received(self, data: bytes) -> bool:
        self.handled.append(("read", data))
        return self.is_within_message

    def read_failed(self) -> None:
        self.handled.append("end")
        self.remove()

    def reader_raised(self, error: Exception) -> None:
        self.handled.append(error)

    def remove(self) -> None:
        self.poller.remove(self.ours.fileno())

    async def wait_for(self, count: int = 1) -> list[Any]:
        """Wait for ``count`` calls of the reader; return all calls."""
        async with asyncio.timeout(10):
            while len(self.handled) < count:
                await asyncio.sleep(0)
        return self.handled


@pytest.fixture
async def poller() -> AsyncIterator[SocketPoller]:
    """A poller on the running event loop."""
    yield SocketPoller(asyncio.get_running_loop(), LIMIT)


@contextlib.contextmanager
def clients(poller: SocketPoller, count: int = 1, *, is_within_message: bool = False) -> Any:
    """Yield ``count`` clients, and close them at the end."""
    made = [Client(poller, is_within_message=is_within_message) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.remove()
            one.ours.close()
            one.peer.close()


def text(payload: bytes) -> bytes:
    """Return a masked text frame."""
    return masked(frames.TEXT, payload)


async def test_whole_messages_are_decoded(poller):
    """All messages of one read are passed unmasked and in order."""
    with clients(poller) as [one]:
        one.peer.sendall(text(b"one") + text("zwölf".encode()) + text(b""))
        assert await one.wait_for(3) == [b"one", "zwölf".encode(), b""]
        one.peer.sendall(text(b"more"))
        assert (await one.wait_for(4))[3:] == [b"more"]


async def test_other_data_is_passed_as_bytes(poller):
    """This applies to parts of frames, pings and invalid UTF-8, and to all data within a message."""
    ping, whole = masked(frames.PING, b"?"), text(b"whole")
    with clients(poller) as [one]:
        for data in (ping, whole[:5], text(b"\xff")):
            one.handled.clear()
            one.peer.sendall(data)
            assert await one.wait_for() == [("read", data)]
        one.handled.clear()
        one.is_within_message = True
        one.peer.sendall(ping)
        await one.wait_for()
        one.peer.sendall(whole)
        assert (await one.wait_for(2))[1] == ("read", whole)
        one.is_within_message = False
        one.peer.sendall(whole)
        assert (await one.wait_for(3))[2] == ("read", whole)
        one.peer.sendall(whole)
        assert (await one.wait_for(4))[3] == b"whole"


async def test_a_socket_can_be_added_within_a_message(poller):
    """The beginning of the message was read by the transport."""
    with clients(poller, is_within_message=True) as [one]:
        one.peer.sendall(text(b"x"))
        assert await one.wait_for() == [("read", text(b"x"))]


@pytest.mark.parametrize("size", [4100, 4152, 4153, 60_000, 200_000])
async def test_a_long_message_is_complete(poller, size):
    """It may be longer than the first read, and than all reads of one iteration."""
    data = bytes(i % 251 for i in range(size))
    stream = masked(frames.TEXT, data)
    with clients(poller) as [one]:
        one.is_within_message = True
        one.peer.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(one.peer, stream)
        got = b""
        async with asyncio.timeout(10):
            while len(got) < len(stream) and got != data:
                await one.wait_for()
                part = one.handled.pop(0)
                got += part[1] if isinstance(part, tuple) else part
        assert got in (stream, data)


async def test_more_sockets_than_fit_into_one_batch(poller):
    """Each of 600 clients gets its own messages."""
    with clients(poller, 600) as many:
        for round in range(3):
            for number, one in enumerate(many):
                one.peer.sendall(text(b"%d %d" % (round, number)))
            for number, one in enumerate(many):
                assert (await one.wait_for(round + 1))[round] == b"%d %d" % (round, number)


@pytest.mark.parametrize("reset", [False, True])
async def test_the_end_of_the_stream_is_reported_once(poller, reset):
    """The reader gets it after all messages, for a close and for a reset."""
    with clients(poller, 6) as many:
        for one in many:
            one.peer.sendall(text(b"last"))
            await one.wait_for()
        for one in many:
            if reset:
                one.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.peer.close()
        for one in many:
            assert await one.wait_for(2) == [b"last", "end"]
        await asyncio.sleep(0)
        assert all(one.handled == [b"last", "end"] for one in many)


async def test_data_before_the_end_of_the_stream_is_handled(poller):
    """A client may send a message and close its socket at once."""
    with clients(poller) as [one]:
        one.peer.sendall(text(b"last"))
        one.peer.close()
        assert await one.wait_for(2) == [b"last", "end"]


class NotAnException(BaseException):
    """An exception that ``except Exception`` does not catch."""


@pytest.mark.parametrize("error", [RuntimeError("too much"), NotAnException("far too much")])
async def test_an_exception_is_reported_to_its_reader(poller, error):
    """The messages of the other clients are handled."""
    with clients(poller, 5) as many:

        def fail() -> None:
            raise error

        many[2].on_message = fail
        for one in many:
            one.peer.sendall(text(b"x"))
        for number, one in enumerate(many):
            assert await one.wait_for(2 if number == 2 else 1) == ([b"x", error] if number == 2 else [b"x"])
        assert error.__traceback__ is not None


async def test_system_exit_is_raised_after_all_messages(poller):
    """So is an exception of ``reader_raised`` itself."""
    with clients(poller, 6) as many:
        sockets = poller._native
        asyncio.get_running_loop().remove_reader(sockets.fileno())

        def leave() -> None:
            raise SystemExit(3)

        def fail(error: BaseException | None = None) -> None:
            raise ValueError("and this") from error

        many[1].on_message = leave
        many[2].on_message = many[2].reader_raised = fail
        for one in many:
            one.peer.sendall(text(b"x"))
        async with asyncio.timeout(10):
            ends = []
            while not all(one.handled for one in many):
                try:
                    sockets.read()
                except (SystemExit, ValueError) as end:
                    ends.append(end)
        assert [one.handled for one in many] == [[b"x"]] * 6
        assert isinstance(ends[0], SystemExit)


async def test_messages_are_handled_in_the_context_of_the_creation(poller):
    """The context is not that of the first client."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="the start's")
    variable.set("the first client's")
    with clients(poller, 2) as many:
        seen = []
        for one in many:
            one.on_message = lambda: seen.append(variable.get())
            one.peer.sendall(text(b"x"))
            await one.wait_for()
    assert seen == ["the start's"] * 2


async def test_a_socket_that_cannot_be_watched_is_refused_until_it_can():
    """If the system limit is reached, the transport reads the socket. A later socket is polled."""
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
    ours, peer = socket.socketpair()
    with ours, peer:
        assert tight.add(ours.fileno(), None) is False
    with clients(tight, 2) as many:
        for one in many:
            one.peer.sendall(text(b"x"))
            assert await one.wait_for() == [b"x"]


async def test_a_removed_socket_is_not_read(poller):
    """Its data waits in the kernel until it is added again."""
    with clients(poller, 2) as [one, other]:
        one.remove()
        one.peer.sendall(text(b"waits"))
        other.peer.sendall(text(b"x"))
        await other.wait_for()
        assert one.handled == []
        assert poller.add(one.ours.fileno(), one)
        assert await one.wait_for() == [b"waits"]


async def test_data_read_before_the_removal_is_not_lost(poller):
    """The message of one client may pause another, whose data was read in the same batch."""
    with clients(poller, 8) as many:
        for one in many:
            one.on_message = lambda one=one: [other.remove() for other in many if other is not one]
            one.peer.sendall(text(b"x"))
        await many[0].wait_for()
        for one in many:
            one.on_message = lambda: None
            poller.remove(one.ours.fileno())
            assert poller.add(one.ours.fileno(), one)
        for one in many:
            assert await one.wait_for() == [b"x"]


async def test_the_loop_does_not_watch_an_empty_poller(poller):
    """The last removal ends the watch, and the next socket starts it again."""
    loop = asyncio.get_running_loop()
    fileno = poller._native.fileno()
    for _ in range(2):
        with clients(poller, 2) as [one, other]:
            one.remove()
            one.remove()
            other.peer.sendall(text(b"x"))
            await other.wait_for()
        assert not loop.remove_reader(fileno)


async def test_other_descriptors_are_refused(poller, tmp_path: Path):
    """Regular files and negative numbers cannot be polled."""
    with (tmp_path / "file").open("w") as file:
        assert poller.add(file.fileno(), None) is False
    assert poller.add(-1, None) is False
    assert not asyncio.get_running_loop().remove_reader(poller._native.fileno())


def test_pollers_of_several_threads_are_independent():
    """Each reads the sockets of its own clients."""
    failures: list[BaseException] = []

    async def echo(name: bytes) -> None:
        poller = SocketPoller(asyncio.get_running_loop(), LIMIT)
        with clients(poller, 20) as many:
            for round in range(100):
                for number, one in enumerate(many):
                    one.peer.sendall(text(b"%b %d %d" % (name, round, number)))
                for number, one in enumerate(many):
                    assert (await one.wait_for(round + 1))[round] == b"%b %d %d" % (name, round, number)

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


def test_a_reader_that_refers_to_the_poller_is_freed():
    """Connections refer to it through their keepalive."""

    class Reader:
        sockets: Any

    reader = Reader()
    reader.sockets = fastpath.NativeSocketPoller(LIMIT)
    known = weakref.ref(reader)
    ours, peer = socket.socketpair()
    with ours, peer:
        reader.sockets.add(ours.fileno(), reader, False)
        assert len(reader.sockets) == 1
        del reader
        gc.collect()
        assert known() is None


def test_arguments_of_a_wrong_type_are_refused():
    """C raises ``TypeError`` or ``ValueError`` and does not misinterpret its arguments."""
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
