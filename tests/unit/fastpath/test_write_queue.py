"""Tests of ``fastpath.write_queue`` and its C twin, which writes to sockets without their transports."""

from __future__ import annotations

import gc
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twins import PYTHON, Twin, both, connected_pair, queue_of, received
from wire import masked

from roomcast import fastpath
from roomcast.protocol import frames


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets with a small buffer between them: the server's and the peer's."""
    with connected_pair() as pair:
        yield pair


# Both twins.

#: Something to do with queues and the list of dirty queues.
Work = Callable[[Twin, dict[Any, None], list[Any]], None]

STATES: dict[str, dict[str, Any]] = {
    "open": {},
    "closed": {"writer": None},
    "paused": {"paused": True},
    "closed and paused": {"writer": None, "paused": True},
    "one frame": {"pending": b"one"},
    "two frames": {"pending": [b"one", b"two"]},
    "empty list": {"pending": []},
    "paused, one frame": {"pending": b"one", "paused": True},
    "closed, one frame": {"pending": b"one", "writer": None},
}


def state_after(twin: Twin, work: Work) -> list[Any]:
    """Return the state of a queue of each kind, and which queues are dirty, after ``work``."""
    queues = []
    for state in STATES.values():
        queue = queue_of(twin)
        for name, value in state.items():
            setattr(queue, name, list(value) if isinstance(value, list) else value)
        queues.append(queue)
    dirty: list[Any] = []
    work(twin, dict.fromkeys(queues), dirty)
    states = [(queue.transport.written, queue.deferred, queue.pending, queue.paused, queue.fd) for queue in queues]
    return [*states, [queues.index(queue) for queue in dirty]]


WORK: dict[str, Work] = {
    "enqueue_all": lambda twin, queues, dirty: twin.enqueue_all(queues, b"data", dirty),
    "enqueue_all three times": lambda twin, queues, dirty: [
        twin.enqueue_all(queues, b"%d" % n, dirty) for n in range(3)
    ],
    "flush_all": lambda twin, queues, dirty: twin.flush_all(list(queues)),
    "flush_all twice": lambda twin, queues, dirty: [twin.flush_all(list(queues)) for _ in range(2)],
    "enqueue_all, flush_all": lambda twin, queues, dirty: (
        twin.enqueue_all(queues, b"data", dirty),
        twin.flush_all(dirty),
    ),
    "no queues": lambda twin, queues, dirty: (
        twin.enqueue_all({}, b"", dirty),
        twin.flush_all([]),
    ),
}


@pytest.mark.parametrize("name", WORK)
def test_c_writes_as_python_does(name: str) -> None:
    """Open, closed, paused, with frames or without: both write, defer and keep the same."""
    assert state_after(fastpath, WORK[name]) == state_after(PYTHON, WORK[name])


@both
def test_a_new_queue_is_closed_and_empty(twin: Twin) -> None:
    """It has no writer, no frames and no socket, and is not paused. Each attribute can be set."""
    queue = twin.WriteQueue()
    assert (queue.writer, queue.pending, queue.fd, queue.paused) == (None, None, -1, False)
    queue.writer, queue.pending, queue.fd, queue.paused = 1, 2, 3, True
    assert (queue.writer, queue.pending, queue.fd, queue.paused) == (1, 2, 3, True)


@both
def test_a_queue_that_refers_to_itself_is_freed(twin: Twin) -> None:
    """A connection refers to itself through its transport."""
    queue = queue_of(twin)
    queue.writer = queue
    queue.pending = [queue]
    reference = weakref.ref(type(queue))
    del queue
    gc.collect()
    assert reference() is None


@both
def test_an_exception_of_the_transport_propagates(twin: Twin) -> None:
    """The caller of ``flush_all`` gets the exception."""
    queue = queue_of(twin, fails=True)
    twin.enqueue_all({queue: None}, b"x", dirty := [])
    with pytest.raises(RuntimeError, match="it fails"):
        twin.flush_all(dirty)


# Only C.


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastpath.enqueue_all([], b"x", []),
        lambda: fastpath.enqueue_all({}, "x", []),
        lambda: fastpath.enqueue_all({1: None}, b"x", []),
        lambda: fastpath.enqueue_all({}, b"x", ()),
        lambda: fastpath.flush_all([1]),
        lambda: fastpath.flush_all([1] * 10),
        lambda: fastpath.flush_all(()),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(call: Callable[[], Any]) -> None:
    """C raises ``TypeError`` for arguments of the wrong type."""
    if fastpath.IS_NATIVE:
        with pytest.raises(TypeError):
            call()


def test_pending_must_be_bytes() -> None:
    """Other buffers and text are refused."""
    if fastpath.IS_NATIVE:
        for wrong in (bytearray(b"x"), ["x"], "x", (b"x",)):
            queue = queue_of(fastpath)
            queue.pending = wrong
            with pytest.raises(TypeError, match="bytes"):
                fastpath.flush_all([queue])


def test_nothing_is_leaked(pair: tuple[socket.socket, socket.socket]) -> None:
    """The reference counts are the same after 1,000 rounds, for frames that are sent, deferred or written."""
    ours, peer = pair
    data, piece, id = b"".join([b"some", b"thing"]), b"".join([b"pie", b"ce"]), "".join(["ab", "-1"])
    open_, paused, *sent = (queue_of(fastpath) for _ in range(8))
    paused.paused = True
    for queue in sent:
        queue.fd = ours.fileno()
    queues = dict.fromkeys((open_, paused, *sent))
    watched = (data, piece, id, *queues)
    read = masked(frames.TEXT, "é".encode() * 20) * 3

    def work() -> None:
        dirty: list[Any] = []
        for frame in (data, piece, data):
            fastpath.enqueue_all(queues, frame, dirty)
        fastpath.flush_all(dirty)
        received(peer)
        fastpath.enqueue_all(queues, bytes(100_000), dirty := [])
        fastpath.flush_all(dirty)
        received(peer)
        fastpath.encode_event_frame(data, id)
        fastpath.decode_text_frames(read, 100)
        fastpath.decode_text_frames(read[:-1], 100)
        for queue in queues:
            queue.deferred.clear()
            queue.transport.written.clear()

    work()
    before = [sys.getrefcount(item) for item in watched]
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        work()
    assert [sys.getrefcount(item) for item in watched] == before
    assert sys.getallocatedblocks() - blocks < 100


@pytest.mark.parametrize("allocations", range(-2, 4))
def test_a_garbage_collection_during_enqueue_all_is_harmless(allocations: int) -> None:
    """Before Python 3.12 any new list may start one, and a finalizer may close every connection."""
    first, second = b"".join([b"fi", b"rst"]), b"".join([b"sec", b"ond"])

    class Finalized:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            for queue in members:
                queue.pending = None
            members.clear()

    gc.collect()
    gc.disable()
    limits = gc.get_threshold()
    members = {queue_of(fastpath): None}
    (queue,) = members
    queue.pending = first
    references = sys.getrefcount(first)
    dirty: list[Any] = []
    Finalized()
    try:
        gc.set_threshold(max(gc.get_count()[0] + allocations, 1))
        gc.enable()
        fastpath.enqueue_all(members, second, dirty)
    except RuntimeError:  # the Python twin: the members changed during the iteration
        assert not fastpath.IS_NATIVE
    finally:
        gc.disable()
        gc.set_threshold(*limits)
        gc.enable()
    assert queue.pending in ([first, second], None)
    assert sys.getrefcount(first) == (references if queue.pending else references - 1)


def write(queue: Any, data: bytes) -> None:
    """Write to one queue as ``WriteScheduler`` does."""
    fastpath.enqueue_all({queue: None}, data, dirty := [])
    fastpath.flush_all(dirty)


def test_the_transport_gets_what_the_socket_does_not_accept(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each byte of a large frame goes to the socket or to the transport, in order."""
    ours, peer = pair
    queue = queue_of(fastpath)
    queue.fd = ours.fileno()
    write(queue, b"fits")
    is_direct = fastpath.IS_NATIVE
    assert (received(peer), queue.transport.written) == ((b"fits", []) if is_direct else (b"", [b"fits"]))
    queue.transport.written.clear()
    large = bytes(range(256)) * 4000
    queue.pending = [large[:1000], large[1000:]]
    fastpath.flush_all([queue])
    arrived = received(peer)
    assert arrived + b"".join(queue.transport.written) == large
    assert (0 < len(arrived) < len(large)) is is_direct


def test_the_transport_handles_a_full_socket_and_a_lost_peer(pair: tuple[socket.socket, socket.socket]) -> None:
    """It gets the whole frame, tries again, and reports the error to the connection."""
    ours, peer = pair
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(4096))
    queue = queue_of(fastpath)
    queue.fd = ours.fileno()
    write(queue, b"full")
    peer.close()
    write(queue, b"gone")
    ours.close()
    write(queue, b"closed")
    assert queue.transport.written == [b"full", b"gone", b"closed"]


def test_a_paused_or_closed_queue_is_not_written_directly(pair: tuple[socket.socket, socket.socket]) -> None:
    """Frames do not overtake the transport's buffer, and do not follow a close frame."""
    ours, peer = pair
    for state in ({"paused": True}, {"writer": None}):
        queue = queue_of(fastpath)
        queue.fd = ours.fileno()
        for name, value in state.items():
            setattr(queue, name, value)
        write(queue, b"x")
        assert (received(peer), queue.transport.written) == (b"", [])
