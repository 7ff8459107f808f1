"""Running one server process: signals, the log, Redis, Unix sockets, and the reasons why a start fails."""

import json
import resource
import signal
import socket
import sys
from contextlib import ExitStack

import pytest
from redis_servers import free_port
from shell import PATIENCE, ROOMCAST, SECRET, Process, Running, refusal, roomcast
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from roomcast.auth.identity import make_token
from roomcast.workers.process import file_limit_warning

pytestmark = pytest.mark.slow

TOKEN = make_token(SECRET, user_id=1, username="alice", rooms=["*"])
URL = f"/api/v1/ws/connect?token={TOKEN}"


def is_welcomed(client) -> bool:
    """Return True if the first frame names the token's user."""
    return json.loads(client.recv(PATIENCE))["data"]["username"] == "alice"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number):
    """The server closes its clients with 1012, logs the signal and the stop, not the token, and ends with status 0."""
    with Running() as server, connect(server.ws + URL) as client:
        assert is_welcomed(client)
        server.signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "Service Restart")
        assert server.ended() == 0
    log = "\n".join(server.err)
    assert "has stopped" in log
    assert "user 1 (alice)" in log
    assert TOKEN not in log
    assert SECRET not in log
    assert server.out == []


def test_a_second_signal_ends_at_once():
    """The second signal ends the process without waiting for the drain."""
    with Running(DRAIN_SECONDS="1000") as server, ExitStack() as stack:
        assert all(is_welcomed(stack.enter_context(connect(server.ws + URL))) for _ in range(3))
        server.signal(signal.SIGTERM)
        server.wait_for("SIGTERM", server.err)
        server.signal(signal.SIGTERM)
        assert server.ended() == -signal.SIGTERM


@pytest.mark.parametrize("state", ["starting", "serving"])
def test_a_second_signal_ends_a_blocked_process(state):
    """Two signals end a process whose event loop is blocked, by a plugin that starts or by a handler."""
    blocked = {"starting": "gateway.Gateway.start", "serving": "health.live"}[state]
    program = (
        "import sys, time; from roomcast.cli import main; from roomcast.gateway import gateway;"
        "from roomcast.web.ops import health\n"
        f"def block(*_): print('blocked', file=sys.stderr); time.sleep(1000)\n{blocked} = block; main()"
    )
    port = str(free_port())
    command = (sys.executable, "-c", program)
    with Process("serve", "--port", port, command=command, JWT_SECRET=SECRET) as server:
        if state == "serving":
            server.wait_for("listens on", server.err)
            with socket.create_connection(("127.0.0.1", int(port))) as client:
                client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                server.wait_for("blocked", server.err)
        server.wait_for("blocked", server.err)
        server.signal(signal.SIGTERM)
        while server.process.poll() is None:  # two signals that arrive at once count as one
            server.signal(signal.SIGTERM)
        assert server.ended() == -signal.SIGTERM


def test_a_signal_cancels_the_start():
    """A server that waits for Redis ends with status 0, long before REDIS_WAIT is over."""
    with Process("serve", JWT_SECRET=SECRET, REDIS_URL=f"redis://127.0.0.1:{free_port()}", REDIS_WAIT="1000") as server:
        server.wait_for("cannot be reached", server.err)
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        assert "roomcast has stopped" in server.err[-1]


def test_the_start_is_one_log_line():
    """The line has the URL, the broker and the plugins. With LOG_FORMAT=json it is JSON."""
    with Running(LOG_FORMAT="json") as server:
        line = json.loads(server.err[0])
    assert "listens on http://127.0.0.1:" in line["message"]
    assert "broker: embedded; plugins: core, chat, project, task" in line["message"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--host", "no-such-host.invalid"), "no-such-host.invalid"),
        (("--host", "192.0.2.1"), "no such address"),
        (("--host", "::ffff:127.0.0.1"), "[::ffff:127.0.0.1], port 0: invalid argument"),
        (("--unix-socket", "/no/such/folder/s"), "/no/such/folder/s: no such file or directory"),
        (("--unix-socket", "/tmp/" + "x" * 200), "too long"),
        (("--unix-socket", "/dev/null"), "not a socket"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(args, words):
    """The exit status is 1, and there is no traceback."""
    assert words in refusal("serve", "--port", "0", *args, status=1, JWT_SECRET=SECRET)


def test_a_port_in_use_is_refused():
    """``serve`` does not choose another port by itself, because a proxy relies on the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refusal("serve", "--port", str(port), status=1, JWT_SECRET=SECRET)
    assert sentence == (
        f"roomcast cannot listen on 127.0.0.1, port {port}: something else listens there already; choose another port "
        "with --port."
    )


# Redis.


def test_the_start_line_names_redis_without_the_password(redis_server, redis_prefix):
    """The line has the address of Redis, and clients are served."""
    url = f"{redis_server.url}/0?sentinel_password=pa55"
    with Running(REDIS_URL=url, REDIS_PREFIX=redis_prefix) as server:
        assert f"broker: {redis_server.url};" in server.err[0]
        with connect(server.ws + URL) as client:
            assert is_welcomed(client)
        assert server.stop() == 0
    assert "pa55" not in "\n".join(server.err)


def test_an_unreachable_redis_stops_the_start():
    """After REDIS_WAIT the status is 1, and the sentence has the address and the reason."""
    port = free_port()
    variables = {"JWT_SECRET": SECRET, "REDIS_URL": f"redis://127.0.0.1:{port}", "REDIS_WAIT": "0.3"}
    done = roomcast("serve", "--port", "0", **variables)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"Error: Redis at 127.0.0.1:{port} cannot be reached: connection refused."
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_an_unreachable_sentinel_or_cluster_reveals_no_password(kind):
    """Some versions of redis-py put passwords into their errors. The sentence does not contain them."""
    port = free_port()
    url = f"redis+{kind}://app:pa55@127.0.0.1:{port}?sentinel_username=watch&sentinel_password=w4tch"
    done = roomcast("serve", "--port", "0", JWT_SECRET=SECRET, REDIS_URL=url, REDIS_WAIT="0.3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: Redis cannot be reached: no se")
    for secret in ("pa55", "w4tch"):
        assert secret not in done.stdout + done.stderr


def test_a_wrong_redis_url_stops_the_start():
    """The status is 2, and the sentence does not contain the password."""
    sentence = refusal("serve", "--port", "0", JWT_SECRET=SECRET, REDIS_URL="http://:pa55@cache:6379")
    assert sentence.startswith("REDIS_URL ")
    assert "pa55" not in sentence


# Unix sockets.


def test_a_unix_socket_is_served_and_removed(tmp_path):
    """A client connects through the socket, and after the stop the file is gone."""
    path = tmp_path / "s"
    with Running("serve", "--unix-socket", str(path)) as server:
        assert server.url == f"unix:{path}"
        with unix_connect(str(path), f"ws://localhost{URL}") as client:
            assert is_welcomed(client)
        assert server.stop() == 0
    assert not path.exists()


def test_the_socket_of_a_crashed_server_is_replaced(tmp_path):
    """A socket file without a listener does not prevent the start."""
    path = tmp_path / "s"
    with Running("serve", "--unix-socket", str(path)) as crashed:
        crashed.signal(signal.SIGKILL)
        crashed.ended()
    assert path.is_socket()
    with Running("serve", "--unix-socket", str(path)), unix_connect(str(path), f"ws://localhost{URL}") as client:
        assert is_welcomed(client)


def test_a_socket_in_use_is_left_alone(tmp_path):
    """A second server on the same path refuses to start, and the first one continues to serve."""
    path = tmp_path / "s"
    with Running("serve", "--unix-socket", str(path)):
        assert "Another server listens" in refusal("serve", "--unix-socket", str(path), status=1, JWT_SECRET=SECRET)
        with unix_connect(str(path), f"ws://localhost{URL}") as client:
            assert is_welcomed(client)


# The machine.


def test_the_limit_of_open_files_is_raised_and_a_low_one_is_logged():
    """The soft limit becomes the hard limit, and a low hard limit is a warning in the log."""
    script = 'ulimit -Sn 100 && ulimit -Hn 500 && exec "$@"'
    command = ("sh", "-c", script, "sh", *ROOMCAST)
    with Process("serve", "--port", "0", command=command, JWT_SECRET=SECRET) as server:
        server.wait_for("WARNING .*only 500 files", server.err)
        server.wait_for("listens on", server.err)
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (500, 500)


@pytest.mark.parametrize(
    ("max_connections", "open_files", "processes", "warning"),
    [
        (0, None, 1, None),
        (0, 20_000, 1, None),
        (0, 500, 1, "only 500 files can be open at once, which is enough for 344 connections"),
        (100, 500, 1, None),
        (5000, 500, 1, "MAX_CONNECTIONS is 5000, but 500 open files are enough for 344, which is the limit now"),
        (600, 500, 2, None),
        (5000, 500, 2, "but 500 open files in each of 2 workers are enough for 688"),
    ],
)
def test_a_low_limit_of_open_files_is_a_warning(max_connections, open_files, processes, warning):
    """It is low if it does not allow MAX_CONNECTIONS, or without that setting if it is less than most servers need."""
    sentence = file_limit_warning(max_connections, open_files, processes)
    assert (sentence is None) == (warning is None)
    assert warning is None or warning in sentence
