"""``--host``: several addresses, IPv6, and addresses that cannot be used."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from redis_servers import RedisServer
from shell import API_KEY, SECRET, Running, refusal, roomcast
from websockets.sync.client import connect

from roomcast.auth.identity import make_token


def has_ipv6() -> bool:
    """Return True if this machine has IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")

URL = f"/api/v1/ws/connect?token={make_token(SECRET, user_id=1, username='alice', rooms=['*'])}"


@pytest.fixture(params=[1, 2], ids=["one process", "workers"])
def serve(request: pytest.FixtureRequest, redis_server: RedisServer, redis_prefix: str) -> Iterator[Running]:
    """Start servers with one process or two workers; ``serve(*options)``."""
    servers: list[Running] = []

    def start(*options: str, **variables: str) -> Running:
        command = ("serve", "--port", "0", "--workers", str(request.param), *options)
        servers.append(Running(*command, REDIS_URL=redis_server.url, REDIS_PREFIX=redis_prefix, **variables))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def answers(host: str, port: int) -> bool:
    """Return True if a server answers at this address."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/health/live") as response:
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False


def ports(server: Running) -> list[tuple[str, int]]:
    """Return the hosts and ports in the line that reports the start."""
    (line,) = [line for line in server.err if "listens on" in line]
    return [(host, int(port)) for host, port in re.findall(r"http://(\[\S+\]|[^\s:]+):(\d+)", line)]


def test_any_address_serves_ipv4_and_ipv6(serve) -> None:
    """``--host ::`` serves both on one port, on every worker. The log has the IPv4 address of an IPv4 client."""
    server = serve("--host", "::")
    (first, port), second = ports(server)
    assert (first, second) == ("[::1]", ("127.0.0.1", port))
    for _ in range(6):
        assert answers("[::1]", port) and answers("127.0.0.1", port)
    for host in ("127.0.0.1", "[::1]"):
        with connect(f"ws://{host}:{port}{URL}") as client:
            assert client.recv()
    server.wait_for(r"user 1 \(alice\) from 127\.0\.0\.1 ", server.err)
    server.wait_for(r"user 1 \(alice\) from ::1 ", server.err)


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (("--host", "127.0.0.1", "--host", "::1"), {"ROOMCAST_HOST": "192.0.2.1"}),
        (("--host", "127.0.0.1, [::1]"), {}),
        ((), {"ROOMCAST_HOST": "127.0.0.1,::1"}),
    ],
    ids=["repeated", "list", "variable"],
)
def test_several_addresses(serve, options: tuple[str, ...], variables: dict[str, str]) -> None:
    """Each address is served, and no other."""
    server = serve(*options, **variables)
    (first, port), second = ports(server)
    assert (first, second) == ("127.0.0.1", ("[::1]", port))
    assert answers("127.0.0.1", port) and answers("[::1]", port)
    assert not answers("127.0.0.2", port)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_in_use_is_named(workers: str, redis_server: RedisServer) -> None:
    """The sentence has the address that is in use, in brackets if it is one of IPv6."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = str(taken.getsockname()[1])
        variables = {"JWT_SECRET": SECRET, "API_KEY": API_KEY, "REDIS_URL": redis_server.url}
        options = ("--workers", workers, "--port", port, "--host", "127.0.0.1", "--host", "::1")
        sentence = refusal("serve", *options, status=1, **variables)
        assert sentence.startswith(
            f"roomcast cannot listen on [::1], port {port}: something else listens there already"
        )
        any_address = refusal("serve", "--workers", workers, "--port", port, "--host", "::", status=1, **variables)
        assert any_address.startswith(f"roomcast cannot listen on [::], port {port}: something else listens there")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_of_another_machine_is_named(workers: str, redis_server: RedisServer) -> None:
    """The other address is not served either."""
    variables = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url}
    options = ("--workers", workers, "--port", "0", "--host", "127.0.0.1", "--host", "2001:db8::1")
    sentence = refusal("serve", *options, status=1, **variables)
    assert sentence == (
        "roomcast cannot listen on [2001:db8::1], port 0: this machine has no such address; choose another with --host."
    )


def test_an_empty_host_is_refused() -> None:
    """An empty value is not taken for all addresses."""
    for host in ("", " ", ","):
        done = roomcast("serve", "--host", host, JWT_SECRET=SECRET)
        assert done.returncode == 2
        assert "give an address" in done.stderr


def test_dev_serves_several_addresses() -> None:
    """A port that is in use at one of the addresses is passed over."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with Running("dev", "--host", "::", "--port", str(port)) as server:
            (first, other), second = ports(server)
            assert (first, second) == ("[::1]", ("127.0.0.1", other))
            assert other != port
            assert answers("[::1]", other) and answers("127.0.0.1", other)
            server.wait_for(rf"Port {port} is in use", server.out)


def test_doctor_checks_all_addresses() -> None:
    """The finding names them."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = str(taken.getsockname()[1])
        done = roomcast("doctor", "--host", "127.0.0.1,::1", "--port", port, JWT_SECRET=SECRET)
    assert f"Port {port} on 127.0.0.1 and [::1] is in use" in done.stdout


def test_the_internal_address_may_be_an_ipv6_one(serve) -> None:
    """IPv6 addresses are in brackets, in the setting and in the log."""
    server = serve(INTERNAL_ADDRESS="[::1]:0")
    host, port = server.wait_for(r"\(internal: http://(\S+):(\d+);", server.err).groups()
    assert host == "[::1]"
    assert answers(host, int(port))
