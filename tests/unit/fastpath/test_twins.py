"""The hot path in C does what its equals in Python do, on anything; and what only it does: write past the transport."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paths import ROOT
from wire import masked

from roomcast import fastpath
from roomcast.fastpath import coroutine, envelope, text_frames, write_queue
from roomcast.protocol import frames

COMPILER = shutil.which(os.environ.get("CC", "cc"))
CAN_COMPILE = COMPILER is not None and os.name == "posix" and Path(sysconfig.get_path("include"), "Python.h").exists()

#: The equals in Python, and what is in use, which is the one in C wherever it can be compiled.
PYTHON = SimpleNamespace(
    decode_text_frames=text_frames.decode_text_frames,
    encode_event_frame=text_frames.encode_event_frame,
    WriteQueue=write_queue.WriteQueue,
    enqueue_all=write_queue.enqueue_all,
    flush_all=write_queue.flush_all,
    start_coroutine=coroutine.start_coroutine,
)
Kind = ModuleType | SimpleNamespace
both = pytest.mark.parametrize("kind", [PYTHON, fastpath], ids=["python", "in use"])


def test_it_is_compiled_where_it_can_be() -> None:
    """Where there is a compiler, an installed roomcast has the hot path in C, unless it was left out on purpose."""
    assert fastpath.IS_NATIVE is (CAN_COMPILE and os.environ.get("ROOMCAST_NATIVE") != "0")


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", CAN_COMPILE), ("", CAN_COMPILE)])
def test_it_can_be_left_out(value: str, expected: bool) -> None:
    """ROOMCAST_NATIVE=0 does, and nothing else."""
    code = "from roomcast import fastpath; print(fastpath.IS_NATIVE)"
    environment = {**os.environ, "ROOMCAST_NATIVE": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(expected), done.stderr


@pytest.mark.slow
def test_the_python_in_its_place_passes_the_same_tests() -> None:
    """Frames, hub and connections without the C: a server where it cannot be compiled is as good."""
    modules = [
        "tests/unit/protocol/test_frames.py",
        "tests/unit/protocol/test_messages.py",
        "tests/unit/schemas/test_validator.py",
        "tests/unit/gateway/test_delivery.py",
        "tests/unit/transport/test_connection.py",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules],
        cwd=ROOT,
        env={**os.environ, "ROOMCAST_NATIVE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Frames.

payloads = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.integers(100, 70_000).map(lambda size: b"x" * size),
    st.integers(100, 300).map(lambda size: "é✓".encode() * size),
)
whole = st.builds(masked, st.just(frames.TEXT), payloads, key=st.binary(min_size=4, max_size=4))
odd = st.builds(masked, st.integers(0, 15), payloads, fin=st.booleans(), rsv=st.integers(0, 7))
reads = st.one_of(st.binary(max_size=60), st.lists(st.one_of(whole, whole, odd), max_size=4).map(b"".join))


@settings(max_examples=200)
@given(reads, st.integers(0, 12), st.sampled_from([0, 5, 125, 126, 65_536, 10**9]))
@example(b"\x81\xfe\x00", 0, 100)
@example(b"\x81\xfe\x00\x7e\0\0\0", 0, 1000)
@example(masked(frames.TEXT, b"\xed\xa0\x80"), 0, 100)
@example(masked(frames.TEXT, b"x" * 126), 0, 125)
def test_reads_are_understood_alike(data: bytes, cut: int, limit: int) -> None:
    """The same payloads, or the same None, of whole frames, parts of them, and any bytes at all."""
    data = data[: len(data) - cut]
    expected, found = text_frames.decode_text_frames(data, limit), fastpath.decode_text_frames(data, limit)
    assert found == expected
    assert found is None or all(type(payload) is bytearray for payload in found)


@settings(max_examples=100)
@given(st.one_of(st.binary(min_size=1, max_size=300), st.integers(65_400, 65_600)), st.text())
@example(b"{}", "")
@example(114, "ab-1")
@example(115, "ab-1")
@example(65_523, "ab-1")
@example(65_524, "ab-1")
def test_events_are_built_alike(given: bytes | int, id: str) -> None:
    """Byte for byte, whatever the length's form."""
    payload = bytes(given)
    try:
        expected = text_frames.encode_event_frame(payload, id)
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            fastpath.encode_event_frame(payload, id)
    else:
        assert fastpath.encode_event_frame(payload, id) == expected


# Envelopes.

#: The last of an envelope.
TIME = rb"[-0-9]{10}T[:0-9]{8}Z\"}\Z"


@settings(max_examples=200)
@given(st.text(max_size=30), st.none() | st.text(max_size=30), st.none() | st.text(max_size=30), st.text(max_size=300))
@example("message", "channel:1", "".join(map(chr, range(0x180))), "")
@example("message", None, '"', "")
@example("message", "\\", "\ud800", "")
@example("\udfff", None, None, "")
def test_envelopes_are_built_alike(type: str, room: str | None, sender: str | None, content: str) -> None:
    """Byte for byte, but for the time, which is that of the moment; what UTF-8 cannot carry is refused alike."""
    data = orjson.dumps({"content": content.encode(errors="replace").decode()})
    try:
        expected = envelope.build_envelope(type, room, data, sender)
    except TypeError as error:
        with pytest.raises(TypeError, match=f"^{re.escape(str(error))}$"):
            fastpath.build_envelope(type, room, data, sender)
    else:
        built = fastpath.build_envelope(type, room, data, sender)
        assert re.sub(TIME, b"", built) == re.sub(TIME, b"", expected)
        assert orjson.loads(built)["data"] == orjson.loads(data)


def test_envelopes_tell_the_time_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the second and in UTC, wherever the server stands; the clock goes on."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        seen = set()
        while len(seen) < 2:
            before = envelope.timestamp()
            shown = json.loads(fastpath.build_envelope("message", None, b"{}", None))["timestamp"]
            assert before <= shown <= envelope.timestamp()
            seen.add(shown)
    finally:
        monkeypatch.undo()
        time.tzset()


# Loaders; that they do as the generated functions do, and as marshmallow, tests/unit/schemas/test_validator.py shows.

PART = ("a", None, False, 0, 10, True, None)


@pytest.mark.skipif(
    fastpath.FieldLoader is None, reason="The functions generated in its place are test_schemas' business."
)
def test_a_loader_gives_what_is_not_plain_to_another() -> None:
    """As it is; what that raises is raised, and what a key raises that is compared."""
    assert fastpath.FieldLoader is not None
    load = fastpath.FieldLoader((PART,), lambda data: ["slow", data], None)
    assert load({"a": 1}) == {"a": 1}
    for data in ({}, {"a": 1, "b": 2}, {"a": None}, OrderedDict(a=1), [1], None):
        assert load(data) == ["slow", data]
    with pytest.raises(ZeroDivisionError):
        fastpath.FieldLoader((PART,), lambda data: 1 / 0, None)({})

    class Odd(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            raise LookupError(other)

    with pytest.raises(LookupError):
        load({Odd("a"): 1})


@pytest.mark.skipif(
    fastpath.FieldLoader is None, reason="The functions generated in its place are test_schemas' business."
)
def test_a_loader_leaks_nothing_and_is_freed() -> None:
    """Also one whose other refers to it, as a validator does to both."""
    assert fastpath.FieldLoader is not None

    class Other:
        load: Any = None

        def slow(self, data: object) -> dict[str, Any]:
            return {}

    value, filler = "".join(["val", "ue"]), "".join(["fil", "ler"])
    fields = [
        ("a", str, True, 0, 10, True, None),
        ("b", None, False, 0, 9, False, filler),
        ("c", dict, False, 0, 9, False, dict),
    ]
    other = Other()
    other.load = fastpath.FieldLoader(
        (*fields, ("d", None, False, 0, 9, False, list), ("e", int, False, 0, 9, False, None)), other.slow, None
    )

    def work(other: Other) -> None:
        for data in ({"a": value}, {"a": None, "c": {}}, {"a": value, "b": value}, {"b": value}, {"a": value, "x": 1}):
            other.load(data)
        with suppress(TypeError):
            fastpath.FieldLoader((PART, ("b", None)), other.slow, None)  # type: ignore[misc, arg-type]

    work(other)
    gc.collect()
    before = [sys.getrefcount(one) for one in (value, filler, other)]
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        work(other)
    gc.collect()
    assert [sys.getrefcount(one) for one in (value, filler, other)] == before
    assert sys.getallocatedblocks() - blocks < 100
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


# Steps.

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outside")


@types.coroutine
def waiting(what: Any) -> Generator[Any, Any, Any]:
    """Yield ``what``, as a future does itself; return what is sent."""
    return (yield what)


@both
def test_a_step_ends_with_a_result_a_wait_or_an_error(kind: Kind) -> None:
    """And a coroutine that waited goes on where it stood."""

    async def work(what: Any) -> Any:
        VARIABLE.set("inside")
        if isinstance(what, BaseException):
            raise what
        return what if what is None or isinstance(what, tuple) else ("sent", await waiting(what))

    context = contextvars.copy_context()
    for result in (None, (1, 2)):
        assert kind.start_coroutine(work(result), context, pytest.fail) is result
    unfinished = work("future")
    assert kind.start_coroutine(unfinished, context, lambda awaited: ["awaits", awaited]) == ["awaits", "future"]
    with pytest.raises(StopIteration) as end:
        unfinished.send("there")
    assert end.value.value == ("sent", "there")
    for error in (ValueError("mine"), asyncio.CancelledError(), StopAsyncIteration(), SystemExit(3)):
        with pytest.raises(type(error)) as raised:
            kind.start_coroutine(work(error), context, pytest.fail)
        assert raised.value is error
    assert (context[VARIABLE], VARIABLE.get()) == ("inside", "outside")


@both
def test_a_step_is_taken_in_a_context_that_is_free(kind: Kind) -> None:
    """Or not at all; and a coroutine that is over already says so."""

    async def work() -> str:
        return "done"

    context = contextvars.copy_context()
    unstarted = work()
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(kind.start_coroutine, unstarted, context, pytest.fail)
    assert kind.start_coroutine(unstarted, context, pytest.fail) == "done"
    with pytest.raises(RuntimeError, match="cannot reuse"):
        kind.start_coroutine(unstarted, context, pytest.fail)
    with pytest.raises(ZeroDivisionError):
        kind.start_coroutine(waiting(1), context, lambda awaited: awaited / 0)


# Outlets.


class Wire:
    """A transport in memory."""

    def __init__(self, *, fails: bool = False) -> None:
        self.written: list[bytes] = []
        self._fails = fails

    def write(self, data: bytes) -> None:
        if self._fails:
            raise RuntimeError("it fails")
        self.written.append(data)


def queue_of(kind: Kind, *, fails: bool = False) -> Any:
    """A queue, with a ``wire`` and what was ``held``."""

    class Tested(kind.WriteQueue):
        def __init__(self) -> None:
            super().__init__()
            self.held: list[bytes] = []
            self.wire = self.writer = Wire(fails=fails)

        def defer(self, data: bytes) -> None:
            self.held.append(data)

    return Tested()


STATES: dict[str, dict[str, Any]] = {
    "open": {},
    "shut": {"writer": None},
    "paused": {"paused": True},
    "shut and paused": {"writer": None, "paused": True},
    "one waits": {"pending": b"one"},
    "two wait": {"pending": [b"one", b"two"]},
    "none of a list waits": {"pending": []},
    "paused and one waits": {"pending": b"one", "paused": True},
    "shut and one waits": {"pending": b"one", "writer": None},
}


def after(kind: Kind, work: Callable[[Kind, dict[Any, None], list[Any]], None]) -> list[Any]:
    """What became of a queue in each state, and who was due, when ``work`` was done on all of them."""
    queues = []
    for state in STATES.values():
        one = queue_of(kind)
        for name, value in state.items():
            setattr(one, name, list(value) if isinstance(value, list) else value)
        queues.append(one)
    due: list[Any] = []
    work(kind, dict.fromkeys(queues), due)
    known = [(one.wire.written, one.held, one.pending, one.paused, one.fd) for one in queues]
    return [*known, [queues.index(one) for one in due]]


WORK: dict[str, Callable[[Kind, dict[Any, None], list[Any]], None]] = {
    "spread": lambda kind, queues, due: kind.enqueue_all(queues, b"data", due),
    "spread twice": lambda kind, queues, due: [kind.enqueue_all(queues, b"%d" % n, due) for n in range(3)],
    "write_pending": lambda kind, queues, due: kind.flush_all(list(queues)),
    "write_pending twice": lambda kind, queues, due: [kind.flush_all(list(queues)) for _ in range(2)],
    "spread, then write": lambda kind, queues, due: (kind.enqueue_all(queues, b"data", due), kind.flush_all(due)),
    "nobody": lambda kind, queues, due: (kind.enqueue_all({}, b"", due), kind.flush_all([])),
}


@pytest.mark.parametrize("name", WORK)
def test_queues_are_written_to_alike(name: str) -> None:
    """Open, shut, paused, with something waiting or not: the same is written, held and left."""
    assert after(fastpath, WORK[name]) == after(PYTHON, WORK[name])


@both
def test_the_fields_are_there(kind: Kind) -> None:
    """A queue begins shut, with nothing waiting, no socket, and not paused; each can be set."""
    one = kind.WriteQueue()
    assert (one.writer, one.pending, one.fd, one.paused) == (None, None, -1, False)
    one.writer, one.pending, one.fd, one.paused = 1, 2, 3, True
    assert (one.writer, one.pending, one.fd, one.paused) == (1, 2, 3, True)


@both
def test_an_outlet_that_refers_to_itself_is_freed(kind: Kind) -> None:
    """As a connection does over its transport."""
    one = queue_of(kind)
    one.writer = one
    one.pending = [one]
    known = weakref.ref(type(one))
    del one
    gc.collect()
    assert known() is None


@both
def test_a_failure_is_raised(kind: Kind) -> None:
    """What a transport or a queue raises reaches the caller."""
    one = queue_of(kind, fails=True)
    kind.enqueue_all({one: None}, b"x", due := [])
    with pytest.raises(RuntimeError, match="it fails"):
        kind.flush_all(due)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastpath.decode_text_frames("x", 1),
        lambda: fastpath.decode_text_frames(b"x", "1"),
        lambda: fastpath.decode_text_frames(b"x"),
        lambda: fastpath.encode_event_frame("x", "1"),
        lambda: fastpath.encode_event_frame(b"x", b"1"),
        lambda: fastpath.build_envelope("x", "y", "{}", "z"),
        lambda: fastpath.build_envelope(1, "y", b"{}", "z"),
        lambda: fastpath.build_envelope("x", 1, b"{}", "z"),
        lambda: fastpath.build_envelope("x", "y", b"{}", 1),
        lambda: fastpath.enqueue_all([], b"x", []),
        lambda: fastpath.enqueue_all({}, "x", []),
        lambda: fastpath.enqueue_all({1: None}, b"x", []),
        lambda: fastpath.enqueue_all({}, b"x", ()),
        lambda: fastpath.flush_all([1]),
        lambda: fastpath.flush_all([1] * 10),
        lambda: fastpath.flush_all(()),
        lambda: fastpath.FieldLoader([], print, None),
        lambda: fastpath.FieldLoader((1,), print, None),
        lambda: fastpath.FieldLoader((("a",),), print, None),
        lambda: fastpath.FieldLoader(((1, None, False, 0, 1, True, None),), print, None),
        lambda: fastpath.FieldLoader((("a", None, False, 0, "1", True, None),), print, None),
        lambda: fastpath.FieldLoader((), print, None)(),
        lambda: fastpath.FieldLoader((), print, None)({}, {}),
        lambda: fastpath.FieldLoader((), print, None)(data={}),
        lambda: fastpath.start_coroutine(1, None, print),
        lambda: fastpath.start_coroutine(1, contextvars.copy_context()),
    ],
)
def test_what_is_of_a_wrong_type_is_refused(call: Callable[[], Any]) -> None:
    """C must not take one thing for another, whatever a future caller gets wrong."""
    if fastpath.IS_NATIVE:
        with pytest.raises(TypeError):
            call()


def test_what_waits_must_be_bytes() -> None:
    """And not, say, a bytearray or a list of texts."""
    if fastpath.IS_NATIVE:
        for wrong in (bytearray(b"x"), ["x"], "x", (b"x",)):
            one = queue_of(fastpath)
            one.pending = wrong
            with pytest.raises(TypeError, match="bytes"):
                fastpath.flush_all([one])


def test_nothing_is_leaked(pair: tuple[socket.socket, socket.socket]) -> None:
    """Frames and queues that went through it a thousand times are referred to as before, sent or not."""
    ours, theirs = pair
    data, piece, id = b"".join([b"some", b"thing"]), b"".join([b"pie", b"ce"]), "".join(["ab", "-1"])
    open_, paused, *sent = (queue_of(fastpath) for _ in range(8))
    paused.paused = True
    for one in sent:
        one.fd = ours.fileno()
    queues = dict.fromkeys((open_, paused, *sent))
    watched = (data, piece, id, *queues)
    read = masked(frames.TEXT, "é".encode() * 20) * 3

    def work() -> None:
        due: list[Any] = []
        for one in (data, piece, data):
            fastpath.enqueue_all(queues, one, due)
        fastpath.flush_all(due)
        drained(theirs)
        fastpath.enqueue_all(queues, bytes(100_000), due := [])
        fastpath.flush_all(due)
        drained(theirs)
        fastpath.encode_event_frame(data, id)
        fastpath.decode_text_frames(read, 100)
        fastpath.decode_text_frames(read[:-1], 100)
        for one in queues:
            one.held.clear()
            one.wire.written.clear()

    work()
    before = [sys.getrefcount(one) for one in watched]
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        work()
    assert [sys.getrefcount(one) for one in watched] == before
    assert sys.getallocatedblocks() - blocks < 100


@pytest.mark.parametrize("allocations", range(-2, 4))
def test_a_collection_of_garbage_in_the_midst_does_no_harm(allocations: int) -> None:
    """Before Python 3.12 any new list may begin one, and a finalizer may do anything: close every member, say."""
    first, second = b"".join([b"fi", b"rst"]), b"".join([b"sec", b"ond"])

    class Finalized:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            for one in members:
                one.pending = None
            members.clear()

    gc.collect()
    gc.disable()
    limits = gc.get_threshold()
    members = {queue_of(fastpath): None}
    (one,) = members
    one.pending = first
    known = sys.getrefcount(first)
    due: list[Any] = []
    Finalized()
    try:
        gc.set_threshold(max(gc.get_count()[0] + allocations, 1))
        gc.enable()
        fastpath.enqueue_all(members, second, due)
    except RuntimeError:  # in Python: the members were changed under way
        assert not fastpath.IS_NATIVE
    finally:
        gc.disable()
        gc.set_threshold(*limits)
        gc.enable()
    assert one.pending in ([first, second], None)
    assert sys.getrefcount(first) == (known if one.pending else known - 1)


# Past the transport.


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected, with little room between them."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def drained(theirs: socket.socket) -> bytes:
    """All that has arrived."""
    data = b""
    try:
        while more := theirs.recv(65536):
            data += more
    except BlockingIOError:
        pass
    return data


def write(one: Any, data: bytes) -> None:
    """Write to one queue as the hub does."""
    fastpath.enqueue_all({one: None}, data, due := [])
    fastpath.flush_all(due)


def test_the_socket_gets_what_it_takes_and_the_transport_the_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    """A frame that fits is sent; of one that does not, each byte goes one way or the other, in order."""
    ours, theirs = pair
    one = queue_of(fastpath)
    one.fd = ours.fileno()
    write(one, b"fits")
    past = fastpath.IS_NATIVE
    assert (drained(theirs), one.wire.written) == ((b"fits", []) if past else (b"", [b"fits"]))
    one.wire.written.clear()
    large = bytes(range(256)) * 4000
    one.pending = [large[:1000], large[1000:]]
    fastpath.flush_all([one])
    arrived = drained(theirs)
    assert arrived + b"".join(one.wire.written) == large
    assert (0 < len(arrived) < len(large)) is past


def test_a_full_socket_and_a_lost_peer_are_the_transports_business(pair: tuple[socket.socket, socket.socket]) -> None:
    """It gets all of the frame, tries again, and tells the connection what is wrong."""
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(4096))
    one = queue_of(fastpath)
    one.fd = ours.fileno()
    write(one, b"full")
    theirs.close()
    write(one, b"gone")
    ours.close()
    write(one, b"closed")
    assert one.wire.written == [b"full", b"gone", b"closed"]


def test_a_paused_or_shut_outlet_is_not_passed_by(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nothing overtakes what the transport has yet to write, and nothing follows a close."""
    ours, theirs = pair
    for state in ({"paused": True}, {"writer": None}):
        one = queue_of(fastpath)
        one.fd = ours.fileno()
        for name, value in state.items():
            setattr(one, name, value)
        write(one, b"x")
        assert (drained(theirs), one.wire.written) == (b"", [])


# Many writes in one call.


@contextmanager
def sockets(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """So many pairs."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        for one in (one for two in pairs for one in two):
            one.setblocking(False)
            stack.enter_context(one)
        yield pairs


def test_they_are_batched_where_the_kernel_lets_us() -> None:
    """A process that may have a ring uses one, and none other: ROOMCAST_URING=0 forbids it."""
    code = """if True:
        import ctypes
        from roomcast import fastpath
        about = ctypes.create_string_buffer(120)
        print(ctypes.CDLL(None).syscall(425, 8, about) >= 0, fastpath.uses_io_uring())"""

    def said(**more: str) -> list[str]:
        environment = {**os.environ, "ROOMCAST_URING": "1", **more}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    allowed, used = said()
    assert used == str(fastpath.IS_NATIVE and sys.platform == "linux" and allowed == "True")
    assert said(ROOMCAST_URING="0")[1] == "False"
    assert said(ROOMCAST_NATIVE="0")[1] == "False"


@pytest.mark.slow
def test_without_it_everything_is_as_well() -> None:
    """Connections and all that is tested here."""
    modules = ["tests/unit/fastpath/test_twins.py", "tests/unit/transport/test_connection.py"]
    modules += ["-k", "not without_it and not same_tests"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules],
        cwd=ROOT,
        env={**os.environ, "ROOMCAST_URING": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_of_many_gets_its_own() -> None:
    """Whatever their states: what the kernel does not take, the transport gets, and who is paused holds it."""
    with sockets(24) as pairs:
        queues, expected = [], []
        for number, (ours, theirs) in enumerate(pairs):
            one = queue_of(fastpath)
            one.fd = ours.fileno()
            data = b"%d " % number * 10
            match number % 8:
                case 1:
                    one.paused = True
                case 2:
                    one.writer = None
                case 3:
                    one.fd = -1
                case 4:
                    data *= 50_000  # more than the kernel takes
                case 5:
                    theirs.close()
                case 6:
                    one.pending = [data[:5], data[5:]]
            if one.pending is None:
                one.pending = data
            queues.append(one)
            expected.append(data)
        fastpath.flush_all(queues)
        for number, (one, data) in enumerate(zip(queues, expected, strict=True)):
            theirs = pairs[number][1]
            arrived = drained(theirs) if theirs.fileno() >= 0 else b""
            written, held = b"".join(one.wire.written), b"".join(one.held)
            past = fastpath.IS_NATIVE
            match number % 8:
                case 1:
                    assert (arrived, written, held) == (b"", b"", data)
                case 2:
                    assert (arrived, written, held) == (b"", b"", b"")
                case 3 | 5:
                    assert (arrived, written, held) == (b"", data, b"")
                case 4:
                    assert arrived + written == data
                    assert (0 < len(arrived) < len(data)) is past
                case _:
                    assert (arrived, written) == ((data, b"") if past else (b"", data))
            assert one.pending is None


def test_there_may_be_more_than_go_into_one_call() -> None:
    """3,000 frames through one socket arrive in their order."""
    with sockets(1) as [(ours, theirs)]:
        queues = []
        for number in range(3000):
            one = queue_of(fastpath)
            one.fd = ours.fileno()
            one.pending = b"%d," % number
            queues.append(one)
        arrived = []
        for start in range(0, 3000, 60):  # so many at most that the kernel takes them
            fastpath.flush_all(queues[start : start + 60])
            arrived.append(drained(theirs))
        whole = b"".join(b"%d," % number for number in range(3000))
        written = b"".join(data for one in queues for data in one.wire.written)
        assert (b"".join(arrived), written) == ((whole, b"") if fastpath.IS_NATIVE else (b"", whole))
    with sockets(1100) as pairs:
        queues = []
        for number, (ours, _) in enumerate(pairs):
            one = queue_of(fastpath)
            one.fd = ours.fileno()
            one.pending = b"%d" % number
            queues.append(one)
        fastpath.flush_all(queues)
        got = [drained(theirs) + b"".join(one.wire.written) for one, (_, theirs) in zip(queues, pairs, strict=True)]
        assert got == [b"%d" % number for number in range(1100)]


def test_who_is_closed_meanwhile_has_the_rest_before_the_close() -> None:
    """A transport's write may close another member, of whose frame the kernel took the first half."""
    if not fastpath.IS_NATIVE:
        return
    with sockets(6) as pairs:
        queues = []
        for ours, _ in pairs:
            one = queue_of(fastpath)
            one.fd = ours.fileno()
            one.pending = bytes(range(256)) * 20_000
            queues.append(one)
        first, *others = queues
        unsent: list[Any] = []

        def close_all(_: bytes) -> None:
            for one in others:
                unsent.append(one.pending)
                one.writer, one.pending, one.fd = None, None, -1

        first.wire.write = close_all
        fastpath.flush_all(queues)
        for (_, theirs), rest in zip(pairs[1:], unsent, strict=True):
            arrived = drained(theirs)
            assert arrived + rest == bytes(range(256)) * 20_000
            assert (arrived != b"") is fastpath.uses_io_uring()
        assert all(one.wire.written == [] for one in others)


def test_a_forked_child_has_a_ring_of_its_own() -> None:
    """Both go on writing, and neither in the other's name."""
    code = """if True:
        import os, socket
        from roomcast import fastpath

        def write(text):
            pairs = [socket.socketpair() for _ in range(10)]
            queues = []
            for number, (ours, _) in enumerate(pairs):
                one = fastpath.WriteQueue()
                one.writer, one.fd, one.pending = one, ours.fileno(), b"%s %d" % (text, number)
                queues.append(one)
            fastpath.flush_all(queues)
            assert [theirs.recv(100) for _, theirs in pairs] == [b"%s %d" % (text, number) for number in range(10)]

        write(b"before")
        child = os.fork()
        if not child:  # as a daemon does, and then has the number for something else
            os.closerange(3, 1000)
            theirs = [os.dup(2) for _ in range(50)]
            fastpath.uses_io_uring()
            assert [os.readlink(f"/proc/self/fd/{fd}") for fd in theirs] == [os.readlink("/proc/self/fd/2")] * 50
        for _ in range(300):
            write(b"parent" if child else b"child")
        if child:
            assert os.waitpid(child, 0)[1] == 0
            write(b"after")"""
    if fastpath.IS_NATIVE:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_where_the_kernel_refuses_each_write_is_a_call() -> None:
    """Here it has no file left for a ring."""
    code = """if True:
        import os, resource, socket
        from roomcast import fastpath
        pairs = [socket.socketpair() for _ in range(10)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), 1000))
        assert not fastpath.uses_io_uring()
        queues = []
        for ours, _ in pairs:
            one = fastpath.WriteQueue()
            one.writer, one.fd, one.pending = one, ours.fileno(), b"data"
            queues.append(one)
        fastpath.flush_all(queues)
        assert [theirs.recv(100) for _, theirs in pairs] == [b"data"] * 10"""
    if fastpath.IS_NATIVE:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_a_ring_that_breaks_is_done_without() -> None:
    """Reads and writes go on, each by itself."""
    code = """if True:
        import os, socket
        from roomcast import fastpath

        class Reader:
            def messages_received(self, payloads):
                heard.extend(payloads)

        heard, sockets, pairs, queues = [], fastpath.NativeSocketPoller(1000), [], []
        for number in range(10):
            ours, theirs = socket.socketpair()
            pairs.append((ours, theirs))
            sockets.add(ours.fileno(), Reader(), False)
            queues.append(fastpath.WriteQueue())
            queues[-1].writer, queues[-1].fd = Reader(), ours.fileno()

        def exchange():
            for (_, theirs), one in zip(pairs, queues):
                theirs.send(b"\\x81\\x82\\0\\0\\0\\0hi")
                one.pending = b"hello"
            fastpath.flush_all(queues)
            assert [theirs.recv(100) for _, theirs in pairs] == [b"hello"] * 10
            sockets.read()
            assert heard == [b"hi"] * 10
            heard.clear()

        exchange()
        links = {fd: os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        rings = [fd for fd, link in links.items() if link.endswith("[io_uring]")]
        assert len(rings) == fastpath.uses_io_uring()
        for fd in rings:
            os.close(int(fd))
        exchange()
        exchange()
        assert not fastpath.uses_io_uring()"""
    if fastpath.NativeSocketPoller is not None:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_socket_is_found(loop: str) -> None:
    """A transport of either loop has one; to one in memory the transport alone writes."""
    import uvloop

    async def look() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)
        found = fastpath.direct_fd(transport)
        assert found == (transport.get_extra_info("socket").fileno() if fastpath.IS_NATIVE else -1)
        transport.close()
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(look())
    assert fastpath.direct_fd(SimpleNamespace(get_extra_info={}.get)) == -1  # type: ignore[arg-type]
