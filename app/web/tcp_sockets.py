"""Bind the sockets of a server to all addresses of its hosts."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

#: The hosts that stand for all addresses of this machine. An IPv6 socket that accepts IPv4 as well would report its
#: clients as ``::ffff:192.0.2.1``, so each protocol has a socket of its own.
ANY: Final = ("::", "0.0.0.0")  # noqa: S104

#: The errors of an address that this machine does not have, for example because it has no IPv6.
_MISSING: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
#: How many ports are tried if port 0 is given for several addresses. A port may be free at one and in use at another.
_ATTEMPTS: Final = 20


class BindError(OSError):
    """A socket cannot be bound to ``host``. The other attributes are those of the cause."""

    def __init__(self, host: str, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.host: Final = host
        self.is_unknown_host: Final = isinstance(cause, socket.gaierror)


class _Address(NamedTuple):
    host: str
    family: int
    type: int
    protocol: int
    ip: str
    scope: tuple[int, ...]


def expand_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return ``hosts`` without duplicates and brackets, and with ``0.0.0.0`` after ``::``.

    Operators expect that ``::`` means all addresses, IPv4 included. A protocol that this machine lacks is left out.
    """
    names: list[str] = []
    for host in hosts:
        name = host.removeprefix("[").removesuffix("]")
        names += [each for each in ANY if _is_available(each)] if name == "::" else [name]
    return tuple(dict.fromkeys(names))


def _is_available(host: str) -> bool:
    try:
        for sock in bind((host,), 0):
            sock.close()
    except BindError as error:
        return error.errno not in _MISSING
    return True


def bracketed(host: str) -> str:
    """Return ``host`` as in a URL: an IPv6 address is in brackets."""
    return f"[{host}]" if ":" in host else host


def bind(hosts: Sequence[str], port: int, *, share: bool = False) -> list[socket.socket]:
    """Return a socket for each address of ``hosts``, all with the same port. They do not listen yet.

    Port 0 becomes a free port. With ``share``, several such sockets may have the same address (SO_REUSEPORT).
    Raises ``BindError``.
    """
    addresses = _distinct([address for host in hosts for address in _resolve(host)])
    attempts = 1 if port else _ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _bind_all(addresses, port, share)
        except BindError as error:
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def _resolve(host: str) -> list[_Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BindError(host, error if isinstance(error, OSError) else socket.gaierror()) from error
    return [
        _Address(host, family, type, protocol, str(name[0]), tuple(map(int, name[2:])))
        for family, type, protocol, _, name in found
    ]


def _distinct(addresses: Sequence[_Address]) -> list[_Address]:
    """Leave out addresses that occur before, and those that a wildcard covers: binding them would fail."""
    wildcards = {address.family for address in addresses if address.ip in ANY}
    kept: dict[tuple[int, str, tuple[int, ...]], _Address] = {}
    for address in addresses:
        if address.family not in wildcards or address.ip in ANY:
            kept.setdefault((address.family, address.ip, address.scope), address)
    return list(kept.values())


def _bind_all(addresses: Sequence[_Address], port: int, share: bool) -> list[socket.socket]:
    """Bind to all ``addresses``. A name may have addresses that this machine lacks, but not only such."""
    sockets: list[socket.socket] = []
    missing: dict[str, BindError] = {}
    bound: set[str] = set()
    try:
        for address in addresses:
            try:
                sockets.append(sock := _bind_one(address, port, share))
            except OSError as error:
                failed = BindError(address.host, error)
                if error.errno not in _MISSING:
                    raise failed from error
                missing[address.host] = failed
            else:
                bound.add(address.host)
                port = sock.getsockname()[1]
        for host, failed in missing.items():
            if host not in bound:
                raise failed
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_one(address: _Address, port: int, share: bool) -> socket.socket:
    sock = socket.socket(address.family, address.type, address.protocol)
    try:
        if os.name == "posix":  # on Windows this option would share the port with other servers
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.ip, port, *address.scope))
    except BaseException:
        sock.close()
        raise
    return sock
