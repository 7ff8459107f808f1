"""The address of a client behind proxies, from X-Forwarded-For and Forwarded."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from roomcast.web.client_address import client_address, client_network, is_https

PEER = "192.0.2.1"
CDN = "198.51.100.0/24"


def address(trust_proxy: str, *headers: tuple[str, str], peer: str = PEER) -> str:
    """Return the address of a client whose request has ``headers``."""
    request = make_mocked_request("GET", "/", CIMultiDict(headers)).clone(remote=peer)
    return client_address(request, trust_proxy=trust_proxy)


def xff(line: str) -> tuple[str, str]:
    """Return a header X-Forwarded-For."""
    return "X-Forwarded-For", line


def forwarded(line: str) -> tuple[str, str]:
    """Return a header Forwarded."""
    return "Forwarded", line


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "unix"),
        (["10.0.0.1"], "10.0.0.1"),
        (["made up, 10.0.0.1"], "10.0.0.1"),
        (["made up", "10.0.0.1"], "10.0.0.1"),
        (["made up, too", "made up, 10.0.0.1"], "10.0.0.1"),
        (["10.0.0.1", ""], "unix"),
    ],
)
def test_the_nearest_proxy_reports_the_last_entry(lines: list[str], expected: str):
    """The proxy's entry is the last one, in the client's header or in a second one. The client may send the others."""
    assert address("true", *map(xff, lines), peer="") == expected


def test_without_a_trusted_proxy_the_headers_do_not_count():
    """The address is that of the peer."""
    assert address("false", xff("10.0.0.1"), forwarded("for=10.0.0.1")) == PEER
    assert address("0", xff("10.0.0.1")) == PEER


@pytest.mark.parametrize(
    ("hops", "line", "expected"),
    [
        ("1", "203.0.113.7, 198.51.100.2", "198.51.100.2"),
        ("2", "203.0.113.7, 198.51.100.2", "203.0.113.7"),
        ("2", "9.9.9.9, 203.0.113.7, 198.51.100.2", "203.0.113.7"),
        ("2", "203.0.113.7", "203.0.113.7"),  # the client bypassed the outer proxy
        ("2", "unknown, 198.51.100.2", "198.51.100.2"),
        ("2", "203.0.113.7, unknown", PEER),
    ],
)
def test_a_number_of_proxies_selects_the_entry_of_the_outermost(hops: str, line: str, expected: str):
    """Entries that the client sent are further left, and do not count."""
    assert address(hops, xff(line)) == expected


@pytest.mark.parametrize(
    ("peer", "line", "expected"),
    [
        (PEER, "203.0.113.7, 198.51.100.2", "203.0.113.7"),
        (PEER, "198.51.100.9, 203.0.113.7, 198.51.100.2", "203.0.113.7"),
        (PEER, "203.0.113.7", "203.0.113.7"),
        (PEER, "198.51.100.9, 198.51.100.2", "198.51.100.9"),
        (PEER, "made up, 198.51.100.2", "198.51.100.2"),
        ("203.0.113.50", "9.9.9.9", "203.0.113.50"),
        ("::ffff:192.0.2.1", "203.0.113.7", "203.0.113.7"),
        ("", "203.0.113.7", "203.0.113.7"),
    ],
)
def test_networks_select_the_last_entry_that_is_no_proxy(peer: str, line: str, expected: str):
    """A peer outside the networks is itself the client. A Unix socket is reached by local proxies only."""
    assert address(f"192.0.2.0/24, {CDN}", xff(line), peer=peer) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", PEER),
        ("_hidden", PEER),
        ("", PEER),
        ("203.0.113.7:99999999", PEER),
        ("203.0.113", PEER),
        ("[203.0.113.7", PEER),
        ("203.0.113.7 203.0.113.8", PEER),
        ("1" * 5000, PEER),
    ],
)
def test_an_entry_may_have_a_port_but_must_be_an_address(entry: str, expected: str):
    """One client has one address, however the proxy writes it. Other text is not an address."""
    assert address("1", xff(entry)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("For=203.0.113.7;proto=https;by=192.0.2.1", "203.0.113.7"),
        ("by=192.0.2.1 ; for=203.0.113.7", "203.0.113.7"),
        ('for="[2001:db8::1]:4711"', "2001:db8::1"),
        ('for="203.0.113.7:4711"', "203.0.113.7"),
        ('for="203.0.113.7:_hidden-port.1"', "203.0.113.7"),
        ('for="[2001:db8::1]:_hidden"', "2001:db8::1"),
        ('for="203.0.113.7:_"', PEER),
        ("for=9.9.9.9, for=203.0.113.7", "203.0.113.7"),
        ('by="a;for=9.9.9.9";for=203.0.113.7', "203.0.113.7"),
        ('for="9.9.9.9, for=203.0.113.7', PEER),  # the client left a quote open
        ('for=9.9.9.9;x=", for=203.0.113.7', PEER),
        ('for=9.9.9.9;x="a\\", for=203.0.113.7', PEER),
        ("for=9.9.9.9;x, for=203.0.113.7", "203.0.113.7"),
        ("for=9.9.9.9, ,, for=203.0.113.7 ,", "203.0.113.7"),
        (f"{'for=9.9.9.9,' * 1000} for=203.0.113.7", "203.0.113.7"),
        (f"{'x' * 5000}, for=203.0.113.7", "203.0.113.7"),
        ("for=unknown", PEER),
        ("for=_hidden", PEER),
        ("proto=https", PEER),
    ],
)
def test_the_address_may_be_in_forwarded(line: str, expected: str):
    """RFC 7239: elements are separated by commas, and IPv6 addresses and ports are quoted."""
    assert address("1", forwarded(line)) == expected


def test_many_entries_are_cut():
    """The entries that proxies append are the last ones, so the first ones do not count."""
    assert address("1", xff("9.9.9.9, " * 1000 + "203.0.113.7")) == "203.0.113.7"
    assert address("1", *[forwarded("for=9.9.9.9")] * 100, forwarded("for=203.0.113.7")) == "203.0.113.7"


def test_headers_that_disagree_are_not_used():
    """A proxy sets one of the headers, and a client may send the other one."""
    assert address("1", xff("203.0.113.7"), forwarded("for=203.0.113.7")) == "203.0.113.7"
    assert address("1", xff("203.0.113.7:80"), forwarded("for=unknown")) == "203.0.113.7"
    assert address("1", xff("9.9.9.9"), forwarded("for=203.0.113.7")) == PEER


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.7"),
        ("unix", "unix"),
    ],
)
def test_the_network_of_a_client_is_the_64_of_an_ipv6_address(address: str, expected: str):
    """A client can use each address of its /64, so a limit for each address would not limit the client."""
    assert client_network(address) == expected


def test_https_is_reported_by_trusted_proxies_only():
    """X-Forwarded-Proto of a peer outside the networks does not count."""
    request = make_mocked_request("GET", "/", CIMultiDict([("X-Forwarded-Proto", "https")])).clone(remote=PEER)
    assert is_https(request, trust_proxy="192.0.2.0/24")
    assert not is_https(request, trust_proxy=CDN)
    assert not is_https(request, trust_proxy="false")


@given(st.text(st.characters(codec="ascii"), max_size=60), st.sampled_from(["1", "2", "192.0.2.0/24"]))
def test_a_made_up_header_never_changes_the_proxys_entry(text: str, trust_proxy: str):
    """Whatever a client sends, the result is an address, and with one proxy the one that the proxy reports."""
    for made_up, real in ((xff(text), xff("203.0.113.7")), (forwarded(text), forwarded("for=203.0.113.7"))):
        found = address(trust_proxy, made_up, real)
        assert str(ip_address(found)) == found
        if trust_proxy != "2":
            assert found == "203.0.113.7"
