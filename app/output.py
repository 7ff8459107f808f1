"""Standard output and standard error that never block.

A write to a pipe blocks if its reader has stopped, a write to a terminal after Ctrl-S, and a write to a file while its
file server is away. An event loop that waits for such a write serves no client. ``install`` therefore replaces
``sys.stdout`` and ``sys.stderr`` with streams that a thread writes. Log lines, ``print`` and warnings use them.

Lines that do not fit into the queue, or that cannot be written, are dropped and counted. The log reports their number
as soon as a write succeeds again.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import sys
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger("roomcast")

#: The maximum size of the data that waits to be written, in bytes: about 25,000 log lines.
MAX_WAITING: Final = 4 * 2**20
#: How much data is written at once, in bytes: as much as a pipe holds.
_MAX_WRITE: Final = 2**16
#: How long the end of the process waits for the last lines to be written, in seconds.
FLUSH_TIMEOUT: Final = 2.0


class QueuedStream(io.BufferedIOBase):
    """A binary stream that queues what is written, and a thread that writes it to the file descriptor ``fd``.

    Any thread may call ``write``. A signal handler or a finalizer may call it during another call.
    """

    def __init__(self, fd: int) -> None:
        self._fd: Final = fd
        self.name: Final = {1: "standard output", 2: "standard error"}.get(fd, f"file descriptor {fd}")
        self._queue: Final[SimpleQueue[bytes | threading.Event]] = SimpleQueue()
        #: Guards the two counters below. It is reentrant for signal handlers and finalizers.
        self._lock: Final = threading.RLock()
        #: The size of all data that was ever queued, in bytes.
        self._queued_size = 0
        #: How many lines did not fit into the queue.
        self._refused_lines = 0
        # Only the thread changes the attributes below.
        #: The size of all data that has left the queue, in bytes.
        self._finished_size = 0
        #: How many lines could not be written, and the reason of the last failure since the last report.
        self._failed_lines = 0
        self._failure = ""
        #: How many dropped lines were reported.
        self._reported_lines = 0
        #: True if a failed write ended in the middle of a line.
        self._is_mid_line = False
        #: False in a forked process, which has no thread.
        self._has_thread = True
        self._thread: Final = threading.Thread(target=self._run, name=f"writer of fd {fd}", daemon=True)
        self._thread.start()

    # The stream.

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return True if the file is a terminal."""
        return os.isatty(self._fd)

    def write(self, data: ReadableBuffer, /) -> int:
        """Queue ``data``, or drop it if too much data waits. Return its size in both cases."""
        chunk = bytes(data)
        size = len(chunk)
        if not self._has_thread:
            _write_all(self._fd, chunk)
            return size
        with self._lock:
            is_full = self._queued_size - self._finished_size + size > MAX_WAITING
            if is_full and threading.current_thread() is not self._thread:  # the thread writes only its short report
                self._refused_lines += _count_lines(chunk)
            else:
                self._queued_size += size
                self._queue.put(chunk)
        return size

    @property
    def dropped_lines(self) -> int:
        """How many lines were dropped."""
        return self._refused_lines + self._failed_lines

    def wait_until_written(self, timeout: float) -> bool:
        """Wait until all data that was queued is written or dropped. Return False after ``timeout`` seconds."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout)

    def write_directly(self) -> None:
        """Write without the thread from now on. For a forked process, which has only the thread that forked."""
        self._has_thread = False

    # The thread.

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            chunks: list[bytes] = []
            size = 0
            try:
                while isinstance(item, bytes):
                    chunks.append(item)
                    size += len(item)
                    if size >= _MAX_WRITE:
                        break
                    item = self._queue.get_nowait()
            except Empty:
                pass
            if chunks:
                self._write_chunk(b"".join(chunks))
                self._finished_size += size
            if isinstance(item, threading.Event):
                item.set()

    def _write_chunk(self, chunk: bytes) -> None:
        """Write ``chunk``, then report the lines that were dropped before. If the write fails, count its lines."""
        written = 0
        try:
            if self._is_mid_line:
                _write_all(self._fd, b"\n")
                self._is_mid_line = False
            while written < len(chunk):
                written += _write_some(self._fd, chunk[written:])
        except OSError as error:
            self._failed_lines += _count_lines(chunk[written:])
            self._failure = (error.strerror or str(error)).lower()
            if written:
                self._is_mid_line = chunk[written - 1 : written] != b"\n"
            return
        if (count := self.dropped_lines - self._reported_lines) > 0:
            reason = self._failure or "it was not read, or too slowly"
            self._reported_lines += count
            self._failure = ""
            log.warning("lines of %s that were dropped: %d (%s)", self.name, count, reason)


def _write_some(fd: int, data: bytes) -> int:
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:  # another process has made the file non-blocking for all that share it
            select.select([], [fd], [])


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[_write_some(fd, data) :]


def _count_lines(data: bytes) -> int:
    return max(data.count(b"\n"), 1)


_streams: Final[list[QueuedStream]] = []


def install() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` until the process ends.

    They share a queue if they are the same file, so that their lines stay in order. Does nothing on Windows, where only
    Python's own streams write all characters to a console.
    """
    if os.name != "posix" or _streams:
        return
    sys.stderr = _replacement(sys.stderr)
    sys.stdout = _replacement(sys.stdout)
    atexit.register(flush)
    os.register_at_fork(after_in_child=_write_directly)


def _replacement(stream: TextIO) -> TextIO:
    """Return a text stream that queues what is written; ``stream`` itself if it has no file."""
    try:
        fd = stream.fileno()
        stream.flush()
    except (AttributeError, OSError, ValueError):  # it is None, or was replaced
        return stream
    shared = next((one for one in _streams if os.path.sameopenfile(one.fileno(), fd)), None)
    if shared is None:
        _streams.append(shared := QueuedStream(fd))
    is_direct = getattr(stream, "write_through", False)
    return io.TextIOWrapper(
        shared, stream.encoding, stream.errors, newline="\n", line_buffering=True, write_through=is_direct
    )


def dropped_lines() -> int:
    """Return how many lines of this process were dropped."""
    return sum(stream.dropped_lines for stream in _streams)


def flush(timeout: float = FLUSH_TIMEOUT) -> None:
    """Wait until all lines so far are written, but for at most ``timeout`` seconds: their reader may have stopped."""
    deadline = time.monotonic() + timeout
    for stream in _streams:
        stream.wait_until_written(max(deadline - time.monotonic(), 0))


def _write_directly() -> None:
    for stream in _streams:
        stream.write_directly()
