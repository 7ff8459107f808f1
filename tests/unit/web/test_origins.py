"""The origins whose pages may connect: those in ALLOWED_ORIGINS, and the server's own host."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from serving import SECRET

from roomcast.settings import Settings
from roomcast.web.origins import AllowedOrigins


def request_from(origin: str | None, host: str = "chat.example") -> web.Request:
    """Return a request to ``host`` by a page of ``origin``."""
    return make_mocked_request("GET", "/", {"Host": host} | ({} if origin is None else {"Origin": origin}))


def is_allowed(origin: str | None, *entries: str) -> bool:
    """Return True if a server with these entries in ALLOWED_ORIGINS allows ``origin``."""
    settings = Settings(jwt_secret=SECRET, allowed_origins=entries)
    return AllowedOrigins(settings.allowed_origins).allow(request_from(origin))


@pytest.mark.parametrize("entries", [(), ("https://app.example",), ("https://*.app.example", "null")])
@pytest.mark.parametrize("origin", [None, "http://chat.example", "https://CHAT.example"])
def test_the_own_host_is_always_allowed(entries: tuple[str, ...], origin: str | None) -> None:
    """ALLOWED_ORIGINS adds origins. It cannot lock out the server's own pages, or programs, which send no origin."""
    assert is_allowed(origin, *entries)


@pytest.mark.parametrize(
    "origin",
    ["https://chat.example:8443", "https://chat.example.evil.example", "null", "", "http://[", "app://chat.example"],
)
def test_other_origins_are_refused_by_default(origin: str) -> None:
    """Without ALLOWED_ORIGINS only the request's own host is allowed."""
    assert not is_allowed(origin)


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("chat.example:443", "https://chat.example", True),
        ("chat.example:80", "http://chat.example", True),
        ("chat.example:80", "https://chat.example", False),
        ("chat.example:8443", "https://chat.example", False),
        ("chat.example:8443", "https://chat.example:8443", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("", "null", False),
        ("", "http://", False),
        ("null", "null", False),
    ],
)
def test_the_own_host_may_have_its_default_port(host: str, origin: str, expected: bool) -> None:
    """Some proxies add the default port to Host. Browsers omit it from Origin."""
    assert AllowedOrigins().is_own(request_from(origin, host)) is expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://example.com", True),
        ("https://EXAMPLE.com", True),
        ("https://chat.example", True),
        ("http://example.com", False),
        ("https://example.com:8443", False),
        ("https://a.example.com", False),
        ("null", False),
    ],
)
def test_the_origin_of_public_url_is_the_servers_own(origin: str, expected: bool) -> None:
    """A proxy may replace Host. PUBLIC_URL has the address of the pages then."""
    origins = AllowedOrigins((), "https://Example.com:443/rt")
    assert origins.is_own(request_from(origin)) is expected
    assert origins.allow(request_from(origin)) is expected


@pytest.mark.parametrize(
    ("entry", "origin", "expected"),
    [
        ("https://app.example", "https://APP.example", True),
        ("https://APP.example:443/", "https://app.example", True),
        ("https://app.example", "https://app.example:8443", False),
        ("https://*.example.com", "https://app.example.com", True),
        ("https://*.example.com", "https://a.b-1.example.com", True),
        ("https://*.example.com", "https://EU.Example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evil-example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://example.com.evil.org", False),
        ("https://*.example.com", "https://app.example.com.evil.org", False),
        ("https://*.example.com", "https://app.exampleXcom", False),
        ("https://*.example.com", "https://evil.org/.example.com", False),
        ("https://*.example.com", "https://evil.org?.example.com", False),
        ("https://*.example.com", "https://evil.org#.example.com", False),
        ("https://*.example.com", "https://user@app.example.com", False),
        ("https://*.example.com", "https://app.example.com\n", False),
        ("https://*.example.com", "http://app.example.com", False),
        ("https://*.example.com", "https://app.example.com:8443", False),
        ("https://*.example.com:8443", "https://app.example.com:8443", True),
        ("https://*.example.com:8443", "https://app.example.com", False),
        ("http://localhost:*", "http://localhost:5173", True),
        ("http://localhost:*", "http://localhost", True),
        ("http://localhost:*", "https://localhost:5173", False),
        ("http://localhost:*", "http://localhost.evil.org:5173", False),
        ("http://localhost:*", "http://localhost:5173.evil.org", False),
        ("http://localhost:*", "http://localhost:", False),
        ("http://[::1]:*", "http://[::1]:5173", True),
        ("http://*.localhost:*", "http://app.localhost:5173", True),
        ("http://*.localhost:*", "http://localhost:5173", False),
        ("null", "null", True),
        ("null", "https://null", False),
        ("https://null", "null", False),
        ("*", "null", True),
        ("*", "https://anything.example", True),
    ],
)
def test_an_entry_allows_its_origins(entry: str, origin: str, expected: bool) -> None:
    """A wildcard stands for subdomains, or for any port, and for nothing else."""
    assert is_allowed(origin, entry) is expected
    assert is_allowed(origin, "https://other.example", entry) is expected


label = st.text("abcz019-_", min_size=1, max_size=8)


@given(label, st.lists(label, min_size=1, max_size=4), st.text(max_size=12))
def test_a_wildcard_allows_subdomains_only(domain: str, subdomains: list[str], text: str) -> None:
    """The host of an allowed origin ends with the domain after a dot, whatever precedes it."""
    entry = f"https://*.{domain}.example"
    assert is_allowed(f"https://{'.'.join(subdomains)}.{domain}.example", entry)
    assert not is_allowed(f"https://{subdomains[0]}{domain}.example", entry) or "." in subdomains[0]
    assert not is_allowed(f"https://{subdomains[0]}.{domain}.example.{subdomains[-1]}", entry)
    assert not is_allowed(f"https://{text}/{subdomains[0]}.{domain}.example", entry)
