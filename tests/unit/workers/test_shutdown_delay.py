"""SHUTDOWN_DELAY: a server that was told to stop is not ready, and serves until its load balancer knows."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from redis_servers import RedisServer
from shell import PATIENCE, SECRET, Running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect, unix_connect

from roomcast.auth.identity import make_token
from roomcast.workers.listening_sockets import HAS_BALANCING

pytestmark = pytest.mark.slow

URL = f"/api/v1/ws/connect?token={make_token(SECRET, user_id=1, username='alice', rooms=['*'])}"


@pytest.fixture(params=[1, 2], ids=["one process", "workers"])
def options(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """The options for one process, and for two workers."""
    yield ("serve", "--port", "0", "--workers", str(request.param))


def is_ready(server: Running) -> bool:
    """Return True if ``/health/ready`` says yes, over a new connection."""
    try:
        with urllib.request.urlopen(f"{server.url}/health/ready", timeout=PATIENCE):
            return True
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 503
            assert json.load(error)["parts"]["connections"] == "draining: the server is about to stop"
        return False


def is_served(client: ClientConnection) -> bool:
    """Return True if the server answers a command."""
    client.send('{"type":"ping","id":"here"}')
    while (frame := json.loads(client.recv(PATIENCE))).get("id") != "here":
        pass
    return bool(frame["type"] == "pong")


def wait_for_stop(server: Running) -> None:
    """Wait until all processes have received the signal."""
    workers = max(1, sum("serves" in line for line in server.err))
    server.wait_for("not ready any more; serving for another", server.err, times=workers)


def test_new_connections_are_served_during_the_delay(
    options: tuple[str, ...], redis_server: RedisServer, redis_prefix: str
) -> None:
    """Every process reports that it is not ready, and accepts connections. A second signal ends all at once."""
    variables = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, "SHUTDOWN_DELAY": "1000"}
    with Running(*options, **variables) as server, connect(server.ws + URL) as before:
        assert is_ready(server)
        server.signal(signal.SIGTERM)
        wait_for_stop(server)
        assert not any(is_ready(server) for _ in range(8))
        for _ in range(8):
            with connect(server.ws + URL) as client:
                assert is_served(client)
        assert is_served(before)
        server.signal(signal.SIGTERM)
        assert server.ended() == -signal.SIGTERM


def test_the_server_drains_after_the_delay(
    options: tuple[str, ...], redis_server: RedisServer, redis_prefix: str
) -> None:
    """A client that connects during the delay is closed with 1012 afterwards, and the server ends with status 0."""
    variables = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, "SHUTDOWN_DELAY": "2"}
    with Running(*options, **variables) as server:
        server.signal(signal.SIGTERM)
        begun = time.monotonic()
        wait_for_stop(server)
        with connect(server.ws + URL) as client, pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert server.ended() == 0
        assert time.monotonic() - begun > 1.9
        with pytest.raises(urllib.error.URLError):
            is_ready(server)


def test_a_shared_unix_socket_is_served_during_the_delay(
    redis_server: RedisServer, redis_prefix: str, tmp_path
) -> None:
    """The supervisor keeps the socket until the workers close it, and then removes its file."""
    path = tmp_path / "s"
    variables = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, "SHUTDOWN_DELAY": "2"}
    with Running("serve", "--workers", "2", "--unix-socket", str(path), **variables) as server:
        server.signal(signal.SIGTERM)
        wait_for_stop(server)
        with unix_connect(str(path), f"ws://localhost{URL}") as client:
            assert is_served(client)
        assert server.ended() == 0
    assert not path.exists()


def test_a_single_worker_that_stops_serves_during_the_delay(redis_server: RedisServer, redis_prefix: str) -> None:
    """A worker that is signalled by itself still accepts its share of the connections. A second signal replaces it."""
    variables = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, "SHUTDOWN_DELAY": "1000"}
    with Running("serve", "--port", "0", "--workers", "2", **variables) as server:
        pid = int(server.wait_for(r"\[worker 1\] process (\d+) serves", server.err)[1])
        os.kill(pid, signal.SIGTERM)
        server.wait_for("not ready any more", server.err)
        answers = {is_ready(server) for _ in range(32)}  # the kernel sends all to one worker once in 2**31 runs
        assert answers == ({True, False} if HAS_BALANCING else answers)
        os.kill(pid, signal.SIGTERM)
        server.wait_for(r"worker 1 \(process \d+\) was ended by SIGTERM; it is started again", server.err)
        server.wait_for(r"\[worker 1\] process (\d+) serves", server.err, times=2)
        server.signal(signal.SIGTERM)
        server.wait_for("SIGTERM: closing", server.err, times=2)
        server.signal(signal.SIGTERM)
        assert server.ended() == -signal.SIGTERM
