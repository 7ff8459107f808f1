"""Several workers on one port: they act as one server, and a worker that dies is replaced."""

import http.client
import json
import os
import re
import select
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis_servers import free_port
from shell import API_KEY, PATIENCE, SECRET, Process, Running, refusal, roomcast
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from roomcast.auth.identity import make_token
from roomcast.errors import SettingsError
from roomcast.settings import Settings
from roomcast.workers.listening_sockets import HAS_BALANCING
from roomcast.workers.supervisor import check

ROOM = "channel:1"
#: roomcast with a shorter heartbeat of the supervisor, and a request that blocks the event loop.
IMPATIENT = (
    sys.executable,
    "-c",
    "import time; from roomcast.cli import main; from roomcast.web.ops import health;"
    "from roomcast.workers import worker_process;"
    "worker_process.HEARTBEAT = 0.2; health.live = lambda request: time.sleep(1000); main()",
)
#: The log line by which a worker reports that it serves: the numbers of the worker and of its process.
SERVES = r"\[worker (\d)\] process (\d+) serves"


def path(user: int = 1) -> str:
    """Return the path and query with which a user connects."""
    token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
    return f"/api/v1/ws/connect?token={token}"


class TwoWorkers(Running):
    """A server with two workers, which both serve when this returns."""

    def __init__(self, redis_server, prefix: str, *args: str, **variables: str) -> None:
        address = args or ("--port", "0")
        super().__init__(
            "serve", "--workers", "2", *address, REDIS_URL=redis_server.url, REDIS_PREFIX=prefix, **variables
        )

    @property
    def pids(self) -> dict[int, int]:
        """The latest process of each worker, by the worker's number."""
        found = (re.search(SERVES, line) for line in self.err)
        return {int(match[1]): int(match[2]) for match in found if match}

    def wait_for_starts(self, count: int) -> None:
        """Wait until ``count`` processes have served in total."""
        self.wait_for(SERVES, self.err, times=count)


@pytest.fixture
def two(redis_server, redis_prefix):
    """A server with two workers on one port."""
    with TwoWorkers(redis_server, redis_prefix) as server:
        yield server


def connect_member(stack: ExitStack, server: Running, user: int):
    """Connect a client of ``user``, and let it join the room."""
    client = stack.enter_context(connect(server.ws + path(user), max_queue=None))
    client.send(json.dumps({"type": "join_room", "room": ROOM}))
    receive_until(client, "joined_room")
    return client


def receive_until(client, type: str) -> dict:
    """Return the next message of ``type``; drop earlier messages."""
    while True:
        message = json.loads(client.recv(PATIENCE))
        if message["type"] == type:
            return message


def connect_members(stack: ExitStack, server: Running, count: int) -> list:
    """Connect ``count`` clients, each of another user, and let them join the room."""
    return [connect_member(stack, server, user) for user in range(1, count + 1)]


def keep_both_draining(stack: ExitStack, server: Running) -> None:
    """Connect clients until each worker has two. The drain closes the first one at once and waits before the second.

    The kernel's hash distributes them: of 24 clients, a worker has none or one in three of a million cases. The metrics
    may be two seconds old.
    """
    connect_members(stack, server, 24)
    for _ in range(1000):
        if min(by_worker(scrape(server), "connections").values()) >= 2:
            return
        time.sleep(0.01)
    raise AssertionError("One worker has fewer than two of 24 clients.")


def send_request(server: Running, path: str) -> socket.socket:
    """Send a GET request on a new connection, and return the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), PATIENCE)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


def read_metrics(client: socket.socket) -> dict[str, Metric]:
    """Return the metric families of a response, by name. All samples but one have the label ``worker``."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    assert answer.status == 200
    families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    for family in families.values():
        assert all(("worker" in one.labels) is (one.name != "roomcast_workers_silent") for one in family.samples)
    return families


def by_worker(families: dict[str, Metric], name: str) -> dict[str, float]:
    """Return the value of each worker, for a metric without other labels."""
    return {sample.labels["worker"]: sample.value for sample in families[f"roomcast_{name}"].samples}


def silent_workers(families: dict[str, Metric]) -> float:
    """Return the number of workers whose metrics are missing."""
    return families["roomcast_workers_silent"].samples[0].value


def scrape(server: Running) -> dict[str, Metric]:
    """Request the metrics of all workers from any worker, and return the metric families."""
    with send_request(server, "/metrics") as client:
        return read_metrics(client)


def ends_by_worker(server: Running) -> Counter:
    """Return how many ends of connections each worker has logged."""
    lines = (re.search(r"\[worker (\d)\].*\(user\d+\)", line) for line in server.err)
    return Counter(match[1] for match in lines if match)


def test_the_start_is_one_line_and_the_others_name_their_worker(two):
    """The supervisor logs the URL when all workers serve. Each worker logs its process."""
    lines = [line for line in two.err if "listens on" in line]
    assert len(lines) == 1
    assert "workers: 2; broker: redis://127.0.0.1:" in lines[0]
    assert "plugins: core, chat, project, task" in lines[0]
    assert set(two.pids) == {1, 2}
    assert len({*two.pids.values(), two.process.pid}) == 3


def test_workers_are_one_server(two):
    """Clients are spread over both workers, and all receive the same messages in the same order."""
    with ExitStack() as stack:
        clients = connect_members(stack, two, 24)
        for number, client in enumerate(clients):
            client.send(json.dumps({"type": "send_message", "room": ROOM, "data": {"content": str(number)}}))
        received = [[receive_until(client, "message")["id"] for _ in clients] for client in clients]
        assert all(ids == received[0] for ids in received)
        assert len(set(received[0])) == 24
    assert two.stop() == 0
    ends = ends_by_worker(two)
    assert sum(ends.values()) == 24
    # The kernel's hash gives a worker fewer than 3 of 24 connections once in 28,000 runs.
    assert not HAS_BALANCING or min(ends["1"], ends["2"]) >= 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("signals_all", [False, True], ids=["supervisor", "all processes"])
def test_a_signal_drains_all(two, number, signals_all):
    """Clients are closed with 1012, if only the supervisor is signalled and if all processes are, as by systemd."""
    with ExitStack() as stack:
        clients = connect_members(stack, two, 6)
        for pid in two.pids.values() if signals_all else ():
            os.kill(pid, number)
        two.signal(number)
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    client.recv(PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert two.ended() == 0
    assert two.err[-1].endswith("roomcast has stopped")
    assert "Traceback" not in "\n".join(two.err)


def test_a_second_signal_ends_all_at_once(redis_server, redis_prefix):
    """The supervisor and all workers end without waiting for the drain."""
    with TwoWorkers(redis_server, redis_prefix, DRAIN_SECONDS="1000") as server, ExitStack() as stack:
        connect_members(stack, server, 6)
        server.signal(signal.SIGTERM)
        server.wait_for("SIGTERM: closing", server.err)
        server.signal(signal.SIGTERM)
        assert server.ended() == -signal.SIGTERM
        assert_all_ended(server)


def assert_all_ended(server: Process) -> None:
    """Assert that every process that could write to the log has ended: its end has been read."""
    assert not any(reader.is_alive() for reader in server._readers)


def test_the_workers_end_with_the_supervisor(two):
    """When the supervisor is killed, the workers drain by themselves and free the port."""
    with ExitStack() as stack:
        client = connect_members(stack, two, 4)[0]
        two.signal(signal.SIGKILL)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        two.ended()
        assert_all_ended(two)
    socket.create_server(("127.0.0.1", int(two.url.rpartition(":")[2]))).close()


def test_a_worker_that_died_is_replaced(two):
    """The log names the worker and the signal. Clients of the other one stay connected, and both serve new ones."""
    first = two.pids
    with ExitStack() as stack:
        stayed = {connect_member(stack, two, 1), *connect_members(stack, two, 8)}
        os.kill(first[1], signal.SIGKILL)
        two.wait_for(rf"worker 1 \(process {first[1]}\) was ended by SIGKILL; it is started again now", two.err)
        two.wait_for_starts(3)
        assert two.pids[2] == first[2]
        assert two.pids[1] != first[1]
        connect_members(stack, two, 8)
        assert stayed
    assert two.stop() == 0


def test_connections_survive_a_worker_that_did_not_accept_them(two):
    """When the worker dies, its replacement accepts these connections; none is reset."""
    pid = two.pids[1]
    os.kill(pid, signal.SIGSTOP)
    host, port = two.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(16)]
        for one in waiting:
            one.settimeout(PATIENCE)
            one.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        os.kill(pid, signal.SIGKILL)
        assert all(one.recv(12) == b"HTTP/1.1 200" for one in waiting)


def test_a_worker_that_dies_repeatedly_is_started_after_a_pause(two):
    """During the pause the other worker accepts all connections."""
    for starts in (3, 4):
        os.kill(two.pids[2], signal.SIGKILL)
        if starts == 3:
            two.wait_for_starts(3)
    two.wait_for(r"worker 2 .* it is started again in 0\.5 s", two.err)
    for _ in range(8):
        client = http.client.HTTPConnection(two.url.removeprefix("http://"), timeout=PATIENCE)
        client.request("GET", "/health/live")
        assert client.getresponse().status == 200
        client.close()
    two.wait_for_starts(4)


def test_a_worker_that_is_signalled_drains_and_is_replaced(two):
    """SIGTERM to a worker ends it with status 0, and another process replaces it."""
    pid = two.pids[1]
    os.kill(pid, signal.SIGTERM)
    two.wait_for(rf"worker 1 \(process {pid}\) ended with status 0", two.err)
    two.wait_for_starts(3)


@pytest.mark.parametrize("how", ["stopped", "blocked"])
def test_a_worker_that_hangs_is_replaced(redis_server, redis_prefix, how):
    """The worker is killed and replaced, the log has the reason, and the other worker is unaffected."""
    with TwoWorkers(redis_server, redis_prefix, command=IMPATIENT) as server, ExitStack() as stack:
        pids = server.pids
        if how == "stopped":
            os.kill(pids[1], signal.SIGSTOP)
        else:
            stack.enter_context(send_request(server, "/health/live"))
        found = server.wait_for(r"worker (\d) \(process (\d+)\) has not answered for .* it is killed", server.err)
        number = int(found[1])
        assert int(found[2]) == pids[number]
        server.wait_for(
            rf"worker {number} \(process {found[2]}\) was ended by SIGKILL; it is started again", server.err
        )
        server.wait_for_starts(3)
        connect_members(stack, server, 8)
        assert server.pids[3 - number] == pids[3 - number]
        assert server.stop() == 0


def test_metrics_cover_all_workers(two):
    """Each scrape counts every client once, and counters never decrease."""
    with ExitStack() as stack:
        connect_members(stack, two, 12)
        received = {"1": 0.0, "2": 0.0}
        for _ in range(8):
            families = scrape(two)
            assert silent_workers(families) == 0
            assert sum(by_worker(families, "connections").values()) == 12
            before, received = received, by_worker(families, "messages_received")
            assert received.keys() == {"1", "2"}
            assert all(received[number] >= before[number] for number in before)
        assert sum(received.values()) == 12


def test_metrics_leave_out_a_worker_that_hangs_or_is_gone(two):
    """The worker is counted as silent, and included again when its replacement serves."""
    os.kill(two.pids[2], signal.SIGSTOP)
    with ExitStack() as stack:
        asked = [stack.enter_context(send_request(two, "/metrics")) for _ in range(16)]
        first = select.select(asked, [], [], PATIENCE)[0][0]  # the others wait for the stopped worker
        families = read_metrics(first)
        assert silent_workers(families) == 1
        assert by_worker(families, "connections").keys() == {"1"}
    os.kill(two.pids[2], signal.SIGKILL)
    while silent_workers(families):  # until the replacement has reported to the supervisor that it serves
        families = scrape(two)
    assert by_worker(families, "connections").keys() == {"1", "2"}


def test_metrics_come_without_a_supervisor_that_hangs(two):
    """A worker returns its own metrics. After the supervisor continues, it kills no worker."""
    pids = two.pids
    two.signal(signal.SIGSTOP)
    assert silent_workers(scrape(two)) == 1
    two.signal(signal.SIGCONT)
    assert silent_workers(scrape(two)) == 0
    assert two.pids == pids


def test_metrics_cover_all_workers_during_the_drain(redis_server, redis_prefix):
    """A scraper with an open connection sees both workers drain."""
    with TwoWorkers(redis_server, redis_prefix, DRAIN_SECONDS="1000") as server, ExitStack() as stack:
        keep_both_draining(stack, server)
        client = stack.enter_context(send_request(server, "/metrics"))
        assert by_worker(read_metrics(client), "draining") == {"1": 0, "2": 0}
        server.signal(signal.SIGTERM)
        draining = {"1": 0.0, "2": 0.0}
        while draining != {"1": 1, "2": 1}:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            draining = by_worker(read_metrics(client), "draining")
        server.signal(signal.SIGTERM)
        server.ended()


def test_a_unix_socket_is_shared(redis_server, redis_prefix, tmp_path):
    """Clients connect through the socket, even after a worker was replaced. The stop removes the socket."""
    socket_path = tmp_path / "s"
    with TwoWorkers(redis_server, redis_prefix, "--unix-socket", str(socket_path)) as server:
        assert server.url == f"unix:{socket_path}"
        os.kill(server.pids[1], signal.SIGTERM)
        server.wait_for_starts(3)
        for _ in range(4):
            with unix_connect(str(socket_path), f"ws://localhost{path()}") as client:
                assert receive_until(client, "connected")
        assert server.stop() == 0
    assert not socket_path.exists()


def test_a_failed_start_of_a_worker_stops_the_supervisor():
    """The status is 1, and there is one sentence for all workers."""
    port = free_port()
    variables = {"JWT_SECRET": SECRET, "REDIS_URL": f"redis://127.0.0.1:{port}", "REDIS_WAIT": "0.3"}
    done = roomcast("serve", "--workers", "2", "--port", "0", **variables)
    assert done.returncode == 1
    sentences = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert sentences == [f"Error: Redis at 127.0.0.1:{port} cannot be reached: connection refused."]
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_refused(two, redis_server):
    """Two servers must not share a port by SO_REUSEPORT, each with a part of the clients."""
    port = two.url.rpartition(":")[2]
    variables = {"JWT_SECRET": SECRET, "API_KEY": API_KEY, "REDIS_URL": redis_server.url}
    sentence = refusal("serve", "--workers", "2", "--port", port, status=1, **variables)
    assert "something else listens there already" in sentence


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--host", "no-such-host.invalid"), "no-such-host.invalid"),
        (("--host", "192.0.2.1"), "no such address"),
        (("--unix-socket", "/no/such/folder/s"), "/no/such/folder/s: no such file or directory"),
        (("--unix-socket", "/dev/null"), "not a socket"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(redis_server, args, words):
    """The status is 1, there is no traceback, and no worker was started."""
    variables = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url}
    assert words in refusal("serve", "--workers", "2", "--port", "0", *args, status=1, **variables)


def test_several_workers_need_redis_and_posix():
    """Without Redis and on other systems, several workers are refused with a sentence. One worker needs neither."""
    alone, shared = Settings(jwt_secret=SECRET), Settings(jwt_secret=SECRET, redis_url="redis://localhost")
    with pytest.raises(SettingsError, match="--workers 2 needs REDIS_URL"):
        check(2, alone)
    with pytest.raises(SettingsError, match="--workers 2 does not work on Windows"):
        check(2, shared, system="nt")
    check(1, alone, system="nt")
    check(2, shared, system="posix")
