"""Find the address of a client that may be behind proxies, and whether it uses HTTPS.

A proxy appends the address that it sees to ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239). A client can send these
headers too, so only the entries of trusted proxies count: the last ones. ``TRUST_PROXY`` states which those are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, Protocol

from ..setting_rules import IPAddress, TrustedProxies, trusted_proxies
from .request_head import RequestHead

#: How many proxies may be in front of the server, and how many bytes of a header Forwarded are read: the last ones. A
#: client could send 32 KB, which take 10 ms.
_MAX_PROXIES: Final = 32
_MAX_FORWARDED: Final = 2048
#: An element of Forwarded: a list whose quoted strings may contain commas.
_ELEMENT: Final = re.compile(r'(?:[^",]|"(?:\\.|[^"\\])*+"?)+')
#: A valid element. A client can send a quote without an end, so that the next element, which the proxy appends, belongs
#: to its string.
_is_element: Final = re.compile(r'(?:[^=;," \t]+=(?:"(?:\\.|[^"\\])*+"|[^;," \t]*+)[ \t]*(?:;[ \t]*|$))*+').fullmatch
#: The parameter ``for`` or ``proto`` of an element of Forwarded. Its value is a token or a quoted string.
_PARAMETER: Final = re.compile(r'(?:^|;)[ \t]*(for|proto)=("(?:\\.|[^"\\])*"|[^;," \t]+)[ \t]*(?=;|$)', re.IGNORECASE)
#: An address with an optional port: 192.0.2.1:4711, [2001:db8::1]:4711, [2001:db8::1], or either one without a port.
#: A proxy may hide the port behind a word that begins with an underscore (RFC 7239 section 6.3).
_WITH_PORT: Final = re.compile(r"(?:\[([^\]]*)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[\w.-]+))?", re.ASCII)
#: The longest address: IPv6 with an embedded IPv4 address, a zone, brackets and a port.
_MAX_LENGTH: Final = 80
#: The leading bits of an IPv6 address that a client cannot choose. Providers assign at least a /64 (RFC 6177).
_IPV6_NETWORK_BITS: Final = 64


class SecureRequestHead(RequestHead, Protocol):
    """A request that also states whether its connection uses TLS, such as aiohttp's ``web.Request``."""

    @property
    def secure(self) -> bool:
        """True if the connection uses TLS."""


def client_address(request: RequestHead, *, trust_proxy: str) -> str:
    """Return the IP address of the client, or ``unix`` for a peer on a Unix socket without trusted proxies.

    ``trust_proxy`` is the setting. If it is a number, that many proxies are in front of the server, and the outermost
    one reports the client. If it lists networks, the client is the last address that is not in one of them. An entry
    that is not an address ends the search. If both headers are there and disagree, a client made up one of them, and
    the result is the peer's address.
    """
    peer = request.remote or "unix"
    trusted = trusted_proxies(trust_proxy)
    if not trusted:
        return peer
    peer_address = _parse_address(peer)
    reports = [
        found
        for chain in (_forwarded_for(request), _forwarded(request, "for"))
        if chain and (found := _outermost(chain, peer_address, trusted))
    ]
    if reports and all(found == reports[0] for found in reports):
        return str(reports[0])
    return peer if peer_address is None else str(peer_address)


def client_network(address: str) -> str:
    """Return the addresses that one client can use, for limits per client: the /64 of an IPv6 address.

    ``address`` is the result of ``client_address``. An IPv4 address is returned unchanged, and so is other text.
    """
    parsed = _parse_address(address)
    if not isinstance(parsed, IPv6Address):
        return address
    return str(ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))


@lru_cache(maxsize=4096)
def peer_network(peer: str, trust_proxy: str) -> str | None:
    """Return ``client_network(peer)``, or None if ``peer`` is a trusted proxy, so that its sockets have many clients.

    ``peer`` is the address of a socket, ``trust_proxy`` the setting.
    """
    trusted = trusted_proxies(trust_proxy)
    if trusted and _is_trusted(_parse_address(peer), trusted):
        return None
    return client_network(peer)


def is_https(request: SecureRequestHead, *, trust_proxy: str) -> bool:
    """Return True if the client uses HTTPS, here or with the nearest proxy if that is trusted."""
    trusted = trusted_proxies(trust_proxy)
    if request.secure or not trusted or not _is_trusted(_parse_address(request.remote or "unix"), trusted):
        return request.secure
    last = request.headers.getall("X-Forwarded-Proto", [""])[-1].rpartition(",")[2].strip()
    forwarded = _forwarded(request, "proto")
    return "https" in (last.lower(), forwarded[-1].lower() if forwarded else "")


def _outermost(chain: list[str], peer: IPAddress | None, trusted: TrustedProxies) -> IPAddress | None:
    """Return the address that the outermost trusted proxy reported, or None if the peer is not a trusted proxy."""
    found = None
    reporter = peer
    for hops, entry in enumerate(reversed(chain)):
        is_trusted = hops < trusted if isinstance(trusted, int) else _is_trusted(reporter, trusted)
        if not is_trusted or (address := _parse_address(entry)) is None:
            break
        found = reporter = address
    return found


def _is_trusted(address: IPAddress | None, trusted: TrustedProxies) -> bool:
    """Return True if the proxy at ``address`` is trusted. None is a Unix socket, which only local proxies reach."""
    return isinstance(trusted, int) or address is None or any(address in network for network in trusted)


def _forwarded_for(request: RequestHead) -> list[str]:
    """Return the entries of X-Forwarded-For. Most proxies append to the client's header, HAProxy adds a second one."""
    entries = ",".join(request.headers.getall("X-Forwarded-For", ())).rsplit(",", _MAX_PROXIES)
    return [entry.strip() for entry in entries[-_MAX_PROXIES:]]


def _forwarded(request: RequestHead, name: str) -> list[str]:
    """Return the parameter ``name`` of each element of Forwarded; an empty string for an element without it."""
    values = []
    lines = request.headers.getall("Forwarded", ())[-_MAX_PROXIES:]
    elements = [element.strip() for line in lines for element in _ELEMENT.findall(line[-_MAX_FORWARDED:])]
    for element in elements[-_MAX_PROXIES:]:
        parameters = {key.lower(): value for key, value in _PARAMETER.findall(element)} if _is_element(element) else {}
        value = parameters.get(name, "")
        values.append(re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value)
    return values


def _parse_address(text: str) -> IPAddress | None:
    """Return the address in ``text``, which may have a port; None if there is none, as in ``unknown``.

    An IPv4 address in the form of IPv6, which a dual-stack socket reports, is returned as IPv4.
    """
    if len(text) > _MAX_LENGTH:
        return None
    if found := _WITH_PORT.fullmatch(text):
        text = found[1] or found[2]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
