"""``INTERNAL_ADDRESS``: servers with an internal port, their command line, and several workers."""

import json
import os
import re
import signal
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import ExitStack
from datetime import timedelta

import pytest
from certificate_files import write_certificate
from prometheus_client.parser import text_string_to_metric_families
from redis_servers import free_port
from shell import API_KEY, PATIENCE, SECRET, TASK, Process, Running, refusal, roomcast
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from roomcast.auth.identity import make_token

#: The log line by which a worker reports that it serves.
SERVES = r"\[worker (\d)\] process (\d+) serves"


def path(user: int = 1) -> str:
    """Return the path and query with which a user connects."""
    return f"/api/v1/ws/connect?token={make_token(SECRET, user_id=user, username='alice', rooms=['*'])}"


class WithInternalPort(Running):
    """A server with an internal port. ``internal`` is the URL of that port."""

    def __init__(self, *args: str, address: str = "127.0.0.1:0", **variables: str) -> None:
        super().__init__("serve", *(args or ("--port", "0")), INTERNAL_ADDRESS=address, **variables)
        self.internal = self.wait_for(r"\(internal: ([^;]+);", self.err)[1]


def get(url: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Return the status and the body of a GET on a new connection."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE, context=context) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def is_refused(url: str) -> bool:
    """Return True if nothing listens at ``url``."""
    host, port = re.fullmatch(r"https?://(.+):(\d+)", url).groups()
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the listener was closed before it accepted
        pass
    return False


def by_worker(url: str, name: str) -> dict[str, float]:
    """Return a metric of each worker."""
    families = text_string_to_metric_families(get(f"{url}/metrics")[1])
    return {
        sample.labels["worker"]: sample.value
        for family in families
        for sample in family.samples
        if family.name == f"roomcast_{name}"
    }


@pytest.fixture(scope="module")
def server():
    """A server with an internal port."""
    with WithInternalPort() as running:
        yield running


def test_the_ports_are_separate(server):
    """The line about the start has both URLs. Metrics are at one of them, and WebSockets at both."""
    assert get(f"{server.url}/metrics")[0] == 404
    assert get(f"{server.internal}/metrics")[0] == 200
    for url in (server.url, server.internal):
        with connect(url.replace("http", "ws", 1) + path()) as client:
            assert json.loads(client.recv(PATIENCE))["type"] == "connected"


def test_commands_use_the_url_of_the_internal_port(server):
    """``publish`` and ``listen`` work with it. At the public port, ``publish`` says where the API is."""
    variables = {"API_KEY": API_KEY, "JWT_SECRET": SECRET}
    with Process("listen", "project:1", ROOMCAST_URL=server.internal, **variables) as listening:
        listening.wait_for("^Listening in", listening.err)
        done = roomcast("publish", "task.created", "project:1", TASK, ROOMCAST_URL=server.internal, **variables)
        assert done.returncode == 0, done.stderr
        listening.wait_for("task.created", listening.out)
    args = ("publish", "task.created", "project:1", TASK, "--url", server.url)
    assert "the HTTP API is at INTERNAL_ADDRESS" in refusal(*args, status=1, **variables)


def test_the_doctor_checks_both_ports(server):
    """A port in use is a failure. The doctor warns if a running server has its metrics on the public port."""
    port = server.internal.rpartition(":")[2]
    address = {"INTERNAL_ADDRESS": f"127.0.0.1:{port}", "JWT_SECRET": SECRET, "API_KEY": API_KEY}
    done = roomcast("doctor", "--port", "0", **address)
    assert f"FAIL  Port {port} on 127.0.0.1 (INTERNAL_ADDRESS) is in use" in done.stdout
    done = roomcast("doctor", "--port", port, **address)
    assert f"FAIL  INTERNAL_ADDRESS has the port {port}, which is that of --port" in done.stdout
    done = roomcast("doctor", "--port", "0", **(address | {"INTERNAL_ADDRESS": "9000"}))
    assert [line[:27] for line in done.stdout.splitlines() if "INTERNAL" in line] == ["FAIL  INTERNAL_ADDRESS is '"]
    done = roomcast("doctor", "--url", server.url, **address)
    assert done.returncode == 0 and "/metrics does not exist, because INTERNAL_ADDRESS is set" in done.stdout
    with Running() as other:
        done = roomcast("doctor", "--url", other.url, **address)
        assert re.search("^WARN .*/metrics exists, although INTERNAL_ADDRESS", done.stdout, re.MULTILINE)


def test_a_reload_keeps_the_port(server):
    """SIGHUP closes no port."""
    server.signal(signal.SIGHUP)
    server.wait_for("reloaded: ", server.err)
    assert get(f"{server.internal}/health/ready")[0] == 200


def test_the_internal_port_has_no_tls(tmp_path):
    """With a certificate, only the public port serves TLS."""
    write_certificate(tmp_path / "both.pem", timedelta(days=-1), timedelta(days=60))
    trusting = ssl.create_default_context(cafile=tmp_path / "both.pem")
    with WithInternalPort("--port", "0", "--tls-cert", str(tmp_path / "both.pem")) as server:
        assert server.url.startswith("https://") and server.internal.startswith("http://")
        assert get(f"{server.url}/health/live", trusting)[0] == 200
        assert get(f"{server.internal}/metrics")[0] == 200


def test_a_unix_socket_can_have_an_internal_port(tmp_path):
    """The public port may be a Unix socket. Its number does not clash with any."""
    with WithInternalPort("--unix-socket", str(tmp_path / "s")) as server:
        assert server.url == f"unix:{tmp_path / 's'}"
        assert get(f"{server.internal}/metrics")[0] == 200


@pytest.mark.parametrize("args", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_an_address_that_cannot_be_bound_is_a_clear_error(server, redis_server, args):
    """The sentence names the setting. Nothing is started."""
    in_use = server.internal.removeprefix("http://")
    port = free_port()
    for address, status, words in (
        (in_use, 1, "something else listens there already; choose another port with INTERNAL_ADDRESS."),
        ("192.0.2.1:9000", 1, "this machine has no such address; choose another with INTERNAL_ADDRESS."),
        ("nowhere.invalid:9000", 1, "there is no such host; give an address with INTERNAL_ADDRESS."),
        (
            f"localhost:{port}",
            2,
            f"INTERNAL_ADDRESS has the port {port}, which is that of --port; give it another one.",
        ),
    ):
        variables = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url, "INTERNAL_ADDRESS": address}
        assert words in refusal("serve", "--port", str(port), *args, status=status, **variables)


def test_dev_has_one_port():
    """``roomcast dev`` ignores the setting, so that the printed lines work."""
    with Process("dev", "--port", str(free_port()), INTERNAL_ADDRESS="127.0.0.1:0") as process:
        url = process.wait_for(r"^  (http://\S+)/console", process.out)[1]
        assert get(f"{url}/metrics")[0] == 200


@pytest.fixture
def two(redis_server, redis_prefix):
    """A server with two workers and an internal port, both of which serve."""
    variables = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, "DRAIN_SECONDS": "1000"}
    with WithInternalPort("--port", "0", "--workers", "2", **variables) as server:
        yield server


def test_each_worker_serves_both_ports(two):
    """The metrics are those of all workers. A worker that was replaced serves again."""
    assert {get(f"{two.url}/metrics")[0] for _ in range(20)} == {404}
    assert by_worker(two.internal, "connections").keys() == {"1", "2"}
    found = two.wait_for(SERVES, two.err)
    os.kill(int(found[2]), signal.SIGKILL)
    two.wait_for(SERVES, two.err, times=3)
    assert {get(f"{two.internal}/health/ready")[0] for _ in range(20)} == {200}
    assert {get(f"{two.url}/health/ready")[1] for _ in range(20)} == {'{"ready":true}'}


def test_the_internal_port_shows_the_drain_of_all_workers(two):
    """New connections to it are answered while the public port is closed. It is closed when the workers have ended."""
    with ExitStack() as stack:
        for user in range(1, 25):  # see ``keep_both_draining``
            client = stack.enter_context(connect(two.ws + path(user)))
            assert json.loads(client.recv(PATIENCE))["type"] == "connected"
        two.signal(signal.SIGTERM)
        while not is_refused(two.url):
            pass
        while by_worker(two.internal, "draining") != {"1": 1, "2": 1}:
            pass
        assert {get(f"{two.internal}/health/ready")[0] for _ in range(20)} == {503}
        late = stack.enter_context(connect(two.internal.replace("http", "ws", 1) + path(99)))
        with pytest.raises(ConnectionClosed) as closed:
            late.recv(PATIENCE)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        two.signal(signal.SIGTERM)
        two.ended()
        assert is_refused(two.internal)
