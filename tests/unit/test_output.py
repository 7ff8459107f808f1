"""Streams that never block: what they write, drop, count and report."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE

from roomcast import output
from roomcast.output import QueuedStream

MESSAGE = re.compile(r"lines of file descriptor \d+ that were dropped: (\d+) \((.+)\)")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The read end and the write end of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_until(fd: int, last: bytes) -> bytes:
    """Read from ``fd`` until what was read ends with ``last``."""
    data = b""
    while not data.endswith(last):
        part = os.read(fd, 65536)
        assert part, data
        data += part
    return data


def point(fd: int, path: Path | str) -> None:
    """Make ``fd`` refer to another file from now on."""
    other = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(other, fd)
    os.close(other)


def reports(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Return the number of lines and the reason of each report of dropped lines."""
    matches = [MESSAGE.fullmatch(record.getMessage()) for record in caplog.records]
    return [(int(match[1]), match[2]) for match in matches if match]


def test_all_is_written_in_order(pipe: tuple[int, int]) -> None:
    """Writes of several threads arrive whole, and those of one thread in its order."""
    reader, writer = pipe
    stream = QueuedStream(writer)
    count = 2000

    def write(name: str) -> None:
        for number in range(count):
            stream.write(f"{name} {number}\n".encode())

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    data = b""
    while data.count(b"\n") < 3 * count:
        data += os.read(reader, 65536)
    lines = data.decode().splitlines()
    for name in "abc":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {number}" for number in range(count)]
    assert stream.dropped_lines == 0
    for thread in threads:
        thread.join()


def test_a_full_pipe_does_not_block(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit into the queue is dropped and counted. When the pipe is read again, the log reports it."""
    reader, writer = pipe
    stream = QueuedStream(writer)
    line = b"x" * 999 + b"\n"
    total = output.MAX_WAITING // 1000 + 1000
    for _ in range(total):
        stream.write(line)
    dropped = stream.dropped_lines
    assert 0 < dropped <= 1000
    assert not reports(caplog)
    assert not stream.wait_until_written(0.01)
    data = b""
    while len(data) < (total - dropped) * 1000:
        data += os.read(reader, 65536)
    assert data == line * (total - dropped)
    assert stream.wait_until_written(PATIENCE)
    assert reports(caplog) == [(dropped, "it was not read, or too slowly")]
    stream.write(b"more\n")
    assert os.read(reader, 100) == b"more\n"
    assert stream.wait_until_written(PATIENCE)
    assert len(reports(caplog)) == 1


def test_the_report_fits_into_a_full_queue(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is written even if there is no space for other lines."""
    reader, writer = pipe
    stream = QueuedStream(writer)
    handler = logging.StreamHandler(io.TextIOWrapper(stream, write_through=True))
    output.log.addHandler(handler)
    try:
        stream.write(b"x" * 2**18 + b"\n")  # more than the pipe holds, so the thread waits
        monkeypatch.setattr(output, "MAX_WAITING", 0)
        stream.write(b"dropped\n")
        assert stream.dropped_lines == 1
        assert b"that were dropped: 1 (" in read_until(reader, b"slowly)\n")
    finally:
        output.log.removeHandler(handler)


def test_a_closed_pipe_drops(caplog: pytest.LogCaptureFixture) -> None:
    """EPIPE raises nothing. The lines are counted."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = QueuedStream(writer)
    assert stream.write(b"one\ntwo\n") == 8
    assert stream.wait_until_written(PATIENCE)
    assert stream.write(b"three\n") == 6
    assert stream.wait_until_written(PATIENCE)
    assert stream.dropped_lines == 3
    assert not reports(caplog)
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_drops_until_there_is_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lines are counted while there is no space. The first line that is written again is followed by a report."""
    fd = os.open("/dev/full", os.O_WRONLY)
    stream = QueuedStream(fd)
    stream.write(b"lost\n")
    stream.write(b"lost\n")
    assert stream.wait_until_written(PATIENCE)
    point(fd, tmp_path / "log")
    stream.write(b"kept\n")
    assert stream.wait_until_written(PATIENCE)
    assert (tmp_path / "log").read_bytes() == b"kept\n"
    assert reports(caplog) == [(2, "no space left on device")]
    os.close(fd)


def test_a_line_that_was_cut_is_ended(pipe: tuple[int, int], tmp_path: Path) -> None:
    """If a write fails in the middle of a line, the next line begins on a line of its own."""
    reader, writer = os.pipe()
    stream = QueuedStream(writer)
    stream.write(b"a\n" + b"x" * 2**18 + b"\n")
    assert os.read(reader, 10)  # the pipe is full, and the thread waits in the middle of the line
    os.close(reader)
    assert stream.wait_until_written(PATIENCE)
    point(writer, tmp_path / "log")
    stream.write(b"whole\n")
    stream.write(b"another\n")
    assert stream.wait_until_written(PATIENCE)
    assert (tmp_path / "log").read_bytes() == b"\nwhole\nanother\n"
    assert stream.dropped_lines == 1
    os.close(writer)


def test_a_nonblocking_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    """A process that shares the pipe may have set O_NONBLOCK. Nothing is lost."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    stream = QueuedStream(writer)
    data = b"".join(b"%d\n" % number for number in range(50_000))
    stream.write(data)
    assert read_until(reader, b"\n49999\n") == data
    assert stream.dropped_lines == 0


def test_a_signal_handler_may_write(pipe: tuple[int, int]) -> None:
    """A handler that writes in the middle of another write neither deadlocks nor raises."""
    reader, writer = pipe
    text = io.TextIOWrapper(QueuedStream(writer), line_buffering=True)
    calls = 0

    def on_signal(*_: object) -> None:
        nonlocal calls
        calls += 1
        text.write("signal\n")

    before = signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        lines, drained = 0, bytearray()
        end = time.monotonic() + PATIENCE
        while calls < 50 and time.monotonic() < end:
            text.write("main\n")
            lines += 1
            if lines % 1000 == 0:
                drained += os.read(reader, 2**16)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls >= 50
    text.write("end\n")
    written = bytes(drained) + read_until(reader, b"end\n")
    assert written.count(b"main\n") == lines
    assert written.count(b"signal\n") == calls


PROGRAM = """
import multiprocessing, os, sys, warnings
from roomcast import output
output.install()
print("out")
print("err", file=sys.stderr)
warnings.warn("careful")
sys.stdout.buffer.write(b"bytes\\n")
sys.stdout.flush()
assert (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
assert not sys.stdout.isatty()
child = multiprocessing.get_context("fork").Process(target=print, args=("child",))
child.start()
child.join()
print("last")
sys.exit(3)
"""


def run(program: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a Python program."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, timeout=PATIENCE * 3, **options)  # type: ignore[call-overload, no-any-return]


def test_print_warnings_and_forked_processes_are_written() -> None:
    """The standard streams work as before. The end of the process waits for the last line."""
    done = run(PROGRAM, capture_output=True)
    assert sorted(done.stdout.split()) == [b"bytes", b"child", b"last", b"out"]
    assert done.stderr.startswith(b"err\n")
    assert b"UserWarning: careful" in done.stderr
    assert done.returncode == 3


def test_one_pipe_for_both_keeps_the_order() -> None:
    """Standard output and standard error share a queue if they are the same file."""
    program = """
import sys
from roomcast import output
output.install()
for number in range(1000):
    print(number, file=(sys.stdout, sys.stderr)[number % 2])
"""
    done = run(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.stdout.split() == [b"%d" % number for number in range(1000)]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-"])
def test_closed_descriptors_are_left_alone(closed: str) -> None:
    """A process that was started without standard streams runs."""
    program = "from roomcast import output; output.install(); print('x'); raise SystemExit(3)"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program], capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 3


def test_a_traceback_before_the_end_is_written() -> None:
    """An exception that ends the process is shown."""
    done = run("from roomcast import output; output.install(); 1 / 0", capture_output=True)
    assert done.stderr.rstrip().endswith(b"ZeroDivisionError: division by zero")
    assert done.returncode == 1
