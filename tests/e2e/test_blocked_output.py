"""A server whose log cannot be written serves and stops: a pipe that is not read or closed, a full disk."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from redis_servers import RedisServer, free_port
from shell import API_KEY, PATIENCE, SECRET, environment
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from roomcast.auth.identity import make_token

URL = f"/api/v1/ws/connect?token={make_token(SECRET, user_id=1, username='alice', rooms=['*'])}"
#: A pipe holds 64 KiB, and a line has about 110 bytes.
LINES = 1500


def roomcast(statement: str, *, queue_size: str = "output.MAX_WAITING") -> tuple[str, ...]:
    """Return a command that runs roomcast, in which a request of ``/health/live`` carries out ``statement``."""
    code = (
        "import logging; from roomcast import output; from roomcast.cli import main",
        "from roomcast.web.ops import health",
        f"output.MAX_WAITING = {queue_size}",
        "async def live(request):",
        f"    {statement}",
        "    return health.json_response({'live': True})",
        "health.live = live",
        "main()",
    )
    return (sys.executable, "-c", "\n".join(code))


LOG_LINE = "logging.getLogger('roomcast').warning('a request came ' + 'x' * 40)"
LOGGING = roomcast(LOG_LINE)
LOGGING_TO_SMALL_QUEUE = roomcast(LOG_LINE, queue_size="2**14")
#: A request prints more than a pipe holds.
PRINTING = roomcast("print('x' * 2**17)", queue_size="2**14")


class Server:
    """A server on ``port`` whose standard streams are given to ``Popen``, and are not read."""

    def __init__(self, *args: str, command: tuple[str, ...] = LOGGING, variables: Any = (), **streams: Any) -> None:
        self.port = free_port()
        settings = {"JWT_SECRET": SECRET, "API_KEY": API_KEY, "DRAIN_SECONDS": "0", **dict(variables)}
        self.process = subprocess.Popen(
            [*command, *(args or ("serve",)), "--port", str(self.port)],
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            **streams,
        )
        self.wait_until(self._accepts)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition`` returns a true value."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the server has ended with status {self.process.poll()}"
            assert time.monotonic() < end
            time.sleep(0.02)

    def get(self, path: str, times: int = 1) -> str:
        """Send GET requests, each of which must be answered. Return the last body."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            for _ in range(times):
                client.request("GET", path)
                body = client.getresponse().read()
        finally:
            client.close()
        return body.decode()

    def dropped_lines(self) -> float:
        """Return the metric of dropped lines, over all workers."""
        return sum(
            float(value)
            for value in re.findall(r"^roomcast_log_lines_dropped_total\S* (\S+)", self.get("/metrics"), re.MULTILINE)
        )

    def ended(self) -> int:
        """Wait until the process ends; return its status."""
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.mark.parametrize("stderr", [subprocess.PIPE, subprocess.STDOUT], ids=["stderr", "both"])
def test_a_log_that_is_not_read_does_not_block(stderr: int) -> None:
    """All requests are answered. SIGTERM closes the clients with 1012 and ends the process with status 0."""
    with Server(stdout=subprocess.PIPE, stderr=stderr) as server:
        server.get("/health/live", LINES)
        with connect(f"ws://127.0.0.1:{server.port}{URL}") as client:
            assert client.recv(PATIENCE)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert server.ended() == 0


def test_the_log_continues_when_it_is_read_again() -> None:
    """Dropped lines are counted in the metric and, when the log can be written again, in the log."""
    with Server(command=LOGGING_TO_SMALL_QUEUE, stderr=subprocess.PIPE) as server:
        server.get("/health/live", LINES)
        dropped = server.dropped_lines()
        assert 0 < dropped < LINES
        log, lines = server.process.stderr, []
        assert log is not None
        reader = threading.Thread(target=lambda: lines.extend(line.decode() for line in log))
        reader.start()
        server.wait_until(lambda: any("that were dropped" in line for line in lines))
        server.process.terminate()
        assert server.ended() == 0
        reader.join(PATIENCE)
    report = next(line for line in lines if "that were dropped" in line)
    assert f"lines of standard error that were dropped: {dropped:.0f} (it was not read, or too slowly)" in report
    assert sum("a request came" in line for line in lines) == LINES - dropped
    assert "roomcast has stopped" in lines[-1]


def test_standard_output_that_is_not_read_does_not_block() -> None:
    """What a handler prints is dropped if it does not fit. The log is written."""
    with Server(command=PRINTING, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        server.get("/health/live", 3)
        assert server.dropped_lines() >= 2
        server.process.terminate()
        assert server.ended() == 0
        assert server.process.stderr is not None
        assert b"roomcast has stopped" in server.process.stderr.read()


def test_dev_does_not_wait_for_its_terminal() -> None:
    """``roomcast dev`` serves even if the text that it prints cannot be written."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    with Server("dev", stdout=writer, stderr=subprocess.STDOUT) as server:
        assert server.get("/health/live") == '{"live":true}'
        server.process.send_signal(signal.SIGINT)
        assert server.ended() == 0
    os.close(reader)
    os.close(writer)


def test_a_closed_log_does_not_stop_the_server() -> None:
    """After the reader of the log has ended, lines are counted as dropped, and the server serves."""
    with Server(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        assert server.process.stderr is not None
        server.process.stderr.close()
        server.get("/health/live", 100)
        server.wait_until(lambda: server.dropped_lines() >= 100)
        server.process.terminate()
        assert server.ended() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_does_not_stop_the_server() -> None:
    """Lines that find no space are counted as dropped, and the server serves."""
    with Path("/dev/full").open("wb") as full, Server(stdout=full, stderr=full) as server:
        server.get("/health/live", 100)
        server.wait_until(lambda: server.dropped_lines() >= 100)
        server.process.terminate()
        assert server.ended() == 0


@pytest.fixture
def two_workers(redis_server: RedisServer, redis_prefix: str) -> Iterator[Server]:
    """Two workers and a supervisor, which share a log that is not read."""
    variables = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, "DRAIN_SECONDS": "1000"}
    with Server("serve", "--workers", "2", variables=variables, stderr=subprocess.PIPE) as server:
        yield server


def is_closed(client: ClientConnection) -> bool:
    """Return True if the server has closed ``client``."""
    try:
        while True:
            client.recv(0.02)
    except TimeoutError:
        return False
    except ConnectionClosed:
        return True


def test_workers_with_a_blocked_log_serve_and_stop(two_workers: Server) -> None:
    """Both workers answer, SIGTERM drains them, and a second SIGTERM ends all processes."""
    for _ in range(8):  # the connections are spread over both workers
        two_workers.get("/health/live", LINES // 4)
    with ExitStack() as stack:
        # One of the workers has two clients. It closes the first one at once and waits before the second.
        clients = [stack.enter_context(connect(f"ws://127.0.0.1:{two_workers.port}{URL}")) for _ in range(3)]
        assert all(client.recv(PATIENCE) for client in clients)
        two_workers.process.terminate()
        two_workers.wait_until(lambda: any(map(is_closed, clients)))
        two_workers.process.terminate()
        _, log = two_workers.process.communicate(timeout=PATIENCE)  # it ends when the last process has ended
    assert two_workers.process.returncode == -signal.SIGTERM
    assert b"a request came" in log
