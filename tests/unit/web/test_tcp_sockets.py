"""The sockets of a server: one for each address, all with the same port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest
from redis_servers import free_port

from roomcast.web import tcp_sockets
from roomcast.web.tcp_sockets import BindError, bind, expand_hosts

Bind = Callable[..., list[socket.socket]]


def has_ipv6() -> bool:
    """Return True if this machine has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def bound() -> Iterator[Bind]:
    """Call ``bind``, and close the sockets at the end."""
    opened: list[socket.socket] = []

    def bind_and_remember(*args: object, **options: object) -> list[socket.socket]:
        sockets = bind(*args, **options)  # type: ignore[arg-type]
        opened.extend(sockets)
        return sockets

    yield bind_and_remember
    for sock in opened:
        sock.close()


@needs_ipv6
def test_any_address_includes_ipv4() -> None:
    """``::`` means all addresses, with a socket for each protocol."""
    assert expand_hosts(["::"]) == expand_hosts(["[::]"]) == ("::", "0.0.0.0")
    assert expand_hosts(["0.0.0.0", "::", "[::1]", "::1"]) == ("0.0.0.0", "::", "::1")
    assert expand_hosts(["0.0.0.0"]) == ("0.0.0.0",)


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_any_address_without_ipv6(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """On a machine without IPv6, ``::`` means all IPv4 addresses."""
    refuse_ipv6(monkeypatch, number)
    assert expand_hosts(["::"]) == ("0.0.0.0",)


def refuse_ipv6(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let binding to an IPv6 address fail with the error ``number``."""
    original = tcp_sockets._bind_one

    def bind_one(address: tcp_sockets._Address, port: int, share: bool) -> socket.socket:
        if address.family == socket.AF_INET6:
            raise OSError(number, "refused by the test")
        return original(address, port, share)

    monkeypatch.setattr(tcp_sockets, "_bind_one", bind_one)


@needs_ipv6
def test_all_addresses_have_one_port(bound: Bind) -> None:
    """Port 0 is the same free port for all addresses. IPv4 clients of ``::`` are not mapped to IPv6 addresses."""
    sockets = bound(("127.0.0.1", "::1"), 0)
    assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1", "::1"]
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    port = sockets[0].getsockname()[1]
    with pytest.raises(BindError) as caught:
        listen(sockets)
        bind(("::1",), port)
    assert (caught.value.host, caught.value.errno) == ("::1", errno.EADDRINUSE)


def listen(sockets: list[socket.socket]) -> None:
    """Listen on ``sockets``, so that other sockets cannot have their addresses."""
    for sock in sockets:
        sock.listen()


@needs_ipv6
def test_a_port_that_is_in_use_at_one_address_is_not_chosen(monkeypatch: pytest.MonkeyPatch, bound: Bind) -> None:
    """With port 0, another port is tried. A given port is tried once."""
    original, tried = tcp_sockets._bind_one, []

    def bind_one(address: tcp_sockets._Address, port: int, share: bool) -> socket.socket:
        if address.ip == "::1":
            tried.append(port)
            if len(tried) <= 3:
                raise OSError(errno.EADDRINUSE, "in use")
        return original(address, port, share)

    monkeypatch.setattr(tcp_sockets, "_bind_one", bind_one)
    assert len(bound(("127.0.0.1", "::1"), 0)) == 2
    assert len(tried) == 4
    tried.clear()
    port = free_port()
    with pytest.raises(BindError) as caught:
        bind(("127.0.0.1", "::1"), port)
    assert (caught.value.host, tried) == ("::1", [port])


def test_an_address_is_bound_once(bound: Bind) -> None:
    """Names of the same address, and addresses that a wildcard covers, do not conflict with each other."""
    sockets = bound(("127.0.0.1", "127.0.0.1", "localhost"), 0)
    listen(sockets)
    assert [sock.getsockname()[0] for sock in sockets].count("127.0.0.1") == 1
    sockets = bound(("127.0.0.1", "0.0.0.0"), 0)
    listen(sockets)
    assert [sock.getsockname()[0] for sock in sockets] == ["0.0.0.0"]


def test_a_name_may_have_addresses_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch, bound: Bind) -> None:
    """``localhost`` often has ``::1`` on machines without IPv6. A name with no other address is refused."""
    refuse_ipv6(monkeypatch, errno.EADDRNOTAVAIL)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert [sock.getsockname()[0] for sock in bound(("both.test",), 0)] == ["127.0.0.1"]
    with pytest.raises(BindError) as caught:
        bind(("127.0.0.1", "only6.test"), 0)
    assert (caught.value.host, caught.value.errno) == ("only6.test", errno.EADDRNOTAVAIL)


def resolve(host: str, *_: object, **__: object) -> list[object]:
    """Resolve the names of the test above."""
    ipv6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))
    ipv4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    return {"both.test": [ipv6, ipv4], "only6.test": [ipv6], "127.0.0.1": [ipv4]}[host]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "127.0.0.1.999"])
def test_an_unknown_host_is_named(host: str) -> None:
    """The error has the host, also if it cannot be a name."""
    with pytest.raises(BindError) as caught:
        bind(("127.0.0.1", host), 0)
    assert caught.value.host == host
    assert caught.value.is_unknown_host


def test_a_failure_closes_the_other_sockets(bound: Bind) -> None:
    """If one address cannot be bound, the port of the others is free again."""
    (first,) = bound(("127.0.0.1",), 0)
    port = first.getsockname()[1]
    first.close()
    with pytest.raises(BindError):
        bind(("127.0.0.1", "192.0.2.1"), port)
    listen(bound(("127.0.0.1",), port))
