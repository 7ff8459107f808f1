"""For tests that compare the C code with its Python twins: both implementations, and connections without a server."""

from __future__ import annotations

import os
import shutil
import socket
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from roomcast import fastpath
from roomcast.fastpath import coroutine, text_frames, write_queue

COMPILER = shutil.which(os.environ.get("CC", "cc"))
#: True if an installation compiles the C code.
CAN_COMPILE = COMPILER is not None and os.name == "posix" and Path(sysconfig.get_path("include"), "Python.h").exists()

#: The Python twins. The other one is ``fastpath``: C, where it is compiled.
PYTHON = SimpleNamespace(
    decode_text_frames=text_frames.decode_text_frames,
    encode_event_frame=text_frames.encode_event_frame,
    WriteQueue=write_queue.WriteQueue,
    enqueue_all=write_queue.enqueue_all,
    flush_all=write_queue.flush_all,
    start_coroutine=coroutine.start_coroutine,
)

#: One implementation of the functions of ``fastpath``.
Twin = ModuleType | SimpleNamespace

#: Runs a test with each twin.
both = pytest.mark.parametrize("twin", [PYTHON, fastpath], ids=["python", "in use"])


class FakeTransport:
    """A transport that keeps what is written. With ``fails``, writing raises ``RuntimeError``."""

    def __init__(self, *, fails: bool = False) -> None:
        self.written: list[bytes] = []
        self._fails = fails

    def write(self, data: bytes) -> None:
        if self._fails:
            raise RuntimeError("it fails")
        self.written.append(data)


def queue_of(twin: Twin, *, fails: bool = False) -> Any:
    """Return a write queue with a ``FakeTransport`` as ``transport``. ``deferred`` is what it had to defer."""

    class FakeQueue(twin.WriteQueue):
        def __init__(self) -> None:
            super().__init__()
            self.deferred: list[bytes] = []
            self.transport = self.writer = FakeTransport(fails=fails)

        def defer(self, data: bytes) -> None:
            self.deferred.append(data)

    return FakeQueue()


@contextmanager
def connected_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two connected sockets with a small buffer between them."""
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    peer.setblocking(False)
    with ours, peer:
        yield ours, peer


@contextmanager
def socket_pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Yield ``count`` pairs of connected sockets."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        for end in (end for pair in pairs for end in pair):
            end.setblocking(False)
            stack.enter_context(end)
        yield pairs


def received(peer: socket.socket) -> bytes:
    """Return all bytes that have arrived."""
    data = b""
    try:
        while more := peer.recv(65536):
            data += more
    except BlockingIOError:
        pass
    return data
