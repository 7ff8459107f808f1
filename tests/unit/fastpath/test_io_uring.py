"""Tests of ``native/io_uring.c``: many reads or writes in one system call, and the fallback to single calls."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from twins import queue_of, received, socket_pairs

from roomcast import fastpath


@pytest.mark.slow
def test_io_uring_is_used_if_the_kernel_allows_it() -> None:
    """ROOMCAST_URING=0 and ROOMCAST_NATIVE=0 disable it."""
    code = """if True:
        import ctypes
        from roomcast import fastpath
        params = ctypes.create_string_buffer(120)
        print(ctypes.CDLL(None).syscall(425, 8, params) >= 0, fastpath.uses_io_uring())"""

    def output(**variables: str) -> list[str]:
        environment = {**os.environ, "ROOMCAST_URING": "1", **variables}
        process = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
        )
        assert process.returncode == 0, process.stderr
        return process.stdout.split()

    allowed, used = output()
    assert used == str(fastpath.IS_NATIVE and sys.platform == "linux" and allowed == "True")
    assert output(ROOMCAST_URING="0")[1] == "False"
    assert output(ROOMCAST_NATIVE="0")[1] == "False"


def test_a_batch_of_queues_in_all_states() -> None:
    """The transport gets what the kernel does not accept, and a paused queue defers its frames."""
    with socket_pairs(24) as pairs:
        queues, expected = [], []
        for number, (ours, peer) in enumerate(pairs):
            queue = queue_of(fastpath)
            queue.fd = ours.fileno()
            data = b"%d " % number * 10
            match number % 8:
                case 1:
                    queue.paused = True
                case 2:
                    queue.writer = None
                case 3:
                    queue.fd = -1
                case 4:
                    data *= 50_000  # more than the kernel takes
                case 5:
                    peer.close()
                case 6:
                    queue.pending = [data[:5], data[5:]]
            if queue.pending is None:
                queue.pending = data
            queues.append(queue)
            expected.append(data)
        fastpath.flush_all(queues)
        for number, (queue, data) in enumerate(zip(queues, expected, strict=True)):
            peer = pairs[number][1]
            arrived = received(peer) if peer.fileno() >= 0 else b""
            written, deferred = b"".join(queue.transport.written), b"".join(queue.deferred)
            is_direct = fastpath.IS_NATIVE
            match number % 8:
                case 1:
                    assert (arrived, written, deferred) == (b"", b"", data)
                case 2:
                    assert (arrived, written, deferred) == (b"", b"", b"")
                case 3 | 5:
                    assert (arrived, written, deferred) == (b"", data, b"")
                case 4:
                    assert arrived + written == data
                    assert (0 < len(arrived) < len(data)) is is_direct
                case _:
                    assert (arrived, written) == ((data, b"") if is_direct else (b"", data))
            assert queue.pending is None


def test_more_frames_than_fit_into_one_batch() -> None:
    """3,000 frames through one socket arrive in order, and so do 1,100 through as many sockets."""
    with socket_pairs(1) as [(ours, peer)]:
        queues = []
        for number in range(3000):
            queue = queue_of(fastpath)
            queue.fd = ours.fileno()
            queue.pending = b"%d," % number
            queues.append(queue)
        arrived = []
        for start in range(0, 3000, 60):  # few enough for the buffer of the socket
            fastpath.flush_all(queues[start : start + 60])
            arrived.append(received(peer))
        whole = b"".join(b"%d," % number for number in range(3000))
        written = b"".join(data for queue in queues for data in queue.transport.written)
        assert (b"".join(arrived), written) == ((whole, b"") if fastpath.IS_NATIVE else (b"", whole))
    with socket_pairs(1100) as pairs:
        queues = []
        for number, (ours, _) in enumerate(pairs):
            queue = queue_of(fastpath)
            queue.fd = ours.fileno()
            queue.pending = b"%d" % number
            queues.append(queue)
        fastpath.flush_all(queues)
        got = [
            received(peer) + b"".join(queue.transport.written) for queue, (_, peer) in zip(queues, pairs, strict=True)
        ]
        assert got == [b"%d" % number for number in range(1100)]


def test_a_connection_closed_during_the_flush_keeps_its_unsent_data() -> None:
    """A transport's ``write`` may close another connection of the batch, whose frame was half sent."""
    if not fastpath.IS_NATIVE:
        return
    with socket_pairs(6) as pairs:
        queues = []
        for ours, _ in pairs:
            queue = queue_of(fastpath)
            queue.fd = ours.fileno()
            queue.pending = bytes(range(256)) * 20_000
            queues.append(queue)
        first, *others = queues
        unsent: list[Any] = []

        def close_all(_: bytes) -> None:
            for queue in others:
                unsent.append(queue.pending)
                queue.writer, queue.pending, queue.fd = None, None, -1

        first.transport.write = close_all
        fastpath.flush_all(queues)
        for (_, peer), rest in zip(pairs[1:], unsent, strict=True):
            arrived = received(peer)
            assert arrived + rest == bytes(range(256)) * 20_000
            assert (arrived != b"") is fastpath.uses_io_uring()
        assert all(queue.transport.written == [] for queue in others)


def test_a_forked_child_creates_its_own_ring() -> None:
    """Parent and child keep writing and do not disturb each other."""
    code = """if True:
        import os, socket
        from roomcast import fastpath

        def write(text):
            pairs = [socket.socketpair() for _ in range(10)]
            queues = []
            for number, (ours, _) in enumerate(pairs):
                queue = fastpath.WriteQueue()
                queue.writer, queue.fd, queue.pending = queue, ours.fileno(), b"%s %d" % (text, number)
                queues.append(queue)
            fastpath.flush_all(queues)
            assert [peer.recv(100) for _, peer in pairs] == [b"%s %d" % (text, number) for number in range(10)]

        write(b"before")
        child = os.fork()
        if not child:  # like a daemon, which then reuses the numbers
            os.closerange(3, 1000)
            reused = [os.dup(2) for _ in range(50)]
            fastpath.uses_io_uring()
            assert [os.readlink(f"/proc/self/fd/{fd}") for fd in reused] == [os.readlink("/proc/self/fd/2")] * 50
        for _ in range(300):
            write(b"parent" if child else b"child")
        if child:
            assert os.waitpid(child, 0)[1] == 0
            write(b"after")"""
    if fastpath.IS_NATIVE:
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert process.returncode == 0, process.stderr


def test_without_a_ring_each_write_is_a_call() -> None:
    """The process has no file descriptor left for a ring."""
    code = """if True:
        import os, resource, socket
        from roomcast import fastpath
        pairs = [socket.socketpair() for _ in range(10)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), 1000))
        assert not fastpath.uses_io_uring()
        queues = []
        for ours, _ in pairs:
            queue = fastpath.WriteQueue()
            queue.writer, queue.fd, queue.pending = queue, ours.fileno(), b"data"
            queues.append(queue)
        fastpath.flush_all(queues)
        assert [peer.recv(100) for _, peer in pairs] == [b"data"] * 10"""
    if fastpath.IS_NATIVE:
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert process.returncode == 0, process.stderr


def test_reads_and_writes_continue_after_the_ring_fails() -> None:
    """Each becomes a call of its own."""
    code = """if True:
        import os, socket
        from roomcast import fastpath

        class Reader:
            def messages_received(self, payloads):
                messages.extend(payloads)

        messages, poller, pairs, queues = [], fastpath.NativeSocketPoller(1000), [], []
        for number in range(10):
            ours, peer = socket.socketpair()
            pairs.append((ours, peer))
            poller.add(ours.fileno(), Reader(), False)
            queues.append(fastpath.WriteQueue())
            queues[-1].writer, queues[-1].fd = Reader(), ours.fileno()

        def exchange():
            for (_, peer), queue in zip(pairs, queues):
                peer.send(b"\\x81\\x82\\0\\0\\0\\0hi")
                queue.pending = b"hello"
            fastpath.flush_all(queues)
            assert [peer.recv(100) for _, peer in pairs] == [b"hello"] * 10
            poller.read()
            assert messages == [b"hi"] * 10
            messages.clear()

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
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert process.returncode == 0, process.stderr
