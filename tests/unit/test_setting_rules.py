"""Tests of ``setting_rules``: what one setting may be, and the sentence if it is wrong."""

from __future__ import annotations

import re
from base64 import b64encode

import pytest
from settings_environment import SECRET, read, refusal

from roomcast.setting_rules import show, split_address, split_values


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MAX_CONNECTIONS_PER_USER", "five", "a whole number of at least 1"),
        ("MAX_CONNECTIONS_PER_USER", "0", "a whole number of at least 1"),
        ("MAX_ROOMS_PER_CONNECTION", "2.5", "a whole number of at least 1"),
        ("WS_MESSAGE_RATE", "-1", "a whole number of at least 0"),
        ("WS_HEARTBEAT_INTERVAL", "0", "a number above 0"),
        ("WS_HEARTBEAT_INTERVAL", "nan", "a number above 0"),
        ("HISTORY_TTL", "inf", "a number above 0"),
        ("JWT_LEEWAY", "-0.1", "a number of at least 0"),
        ("CONSOLE", "ja", "true or false"),
        ("FORBIDDEN_JOIN", "perhaps", "close or keep"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("LOG_LEVEL", "loud", "debug or info or warning or error"),
    ],
)
def test_a_value_that_is_not_allowed_stops_the_start(name: str, value: str, expected: str) -> None:
    """The sentence names the variable, its value, and what is expected."""
    sentence = refusal(**{"JWT_SECRET": SECRET, name: value})
    assert re.fullmatch(rf"{name} is '?{re.escape(value)}(\.0)?'?; it must be {expected}\.", sentence)


def test_a_long_value_is_shortened() -> None:
    """A number of 5,000 digits is refused, and only its beginning is shown."""
    assert "999…" in refusal(JWT_SECRET=SECRET, HISTORY_SIZE="9" * 5000)


@pytest.mark.parametrize("prefix", ["a b", "{room}", "app:*", "a?", "[a]", "a\\b", "\t", "caf\u00e9", "x" * 65])
def test_a_prefix_with_special_characters_is_refused(prefix: str) -> None:
    """Braces, wildcards, spaces and characters outside ASCII are refused in a prefix."""
    assert "REDIS_PREFIX is " in refusal(JWT_SECRET=SECRET, REDIS_PREFIX=f"x{prefix}x")
    assert read(JWT_SECRET=SECRET, REDIS_PREFIX="shop:eu-1/live").redis_prefix == "shop:eu-1/live"


@pytest.mark.parametrize("value", ["true", "FALSE", "0", "2", "10.0.0.0/8", "192.0.2.1, 2001:db8::/32"])
def test_trusted_proxies_are_a_number_or_networks(value: str) -> None:
    """``true`` and ``false`` stand for 1 and 0, and an address for itself."""
    assert read(TRUST_PROXY=value).trust_proxy == value


@pytest.mark.parametrize("value", ["-1", "2.5", "nginx", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8;192.0.2.1"])
def test_other_trusted_proxies_stop_the_start(value: str) -> None:
    """The sentence names both forms."""
    expected = f"TRUST_PROXY is '{value}'; it must be the number of proxies in front of the server, or their networks"
    assert expected in refusal(JWT_SECRET=SECRET, TRUST_PROXY=value)


def test_the_public_url_has_no_slash_at_its_end() -> None:
    """It may have a path, but no query, fragment or credentials."""
    assert read(PUBLIC_URL="https://example.com/").public_url == "https://example.com"
    assert read(PUBLIC_URL="http://localhost:8080/rt/").public_url == "http://localhost:8080/rt"
    for bad in ("example.com", "wss://example.com", "https://", "https://x/?a", "https://x/#a", "https://a:b@x/"):
        assert "PUBLIC_URL is " in refusal(JWT_SECRET=SECRET, PUBLIC_URL=bad)


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("127.0.0.1:9000", "127.0.0.1", 9000),
        (" 0.0.0.0:0 ", "0.0.0.0", 0),
        ("[::]:9000", "::", 9000),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("metrics.internal-2.example:9000", "metrics.internal-2.example", 9000),
    ],
)
def test_the_internal_address_has_a_host_and_a_port(value: str, host: str, port: int) -> None:
    """IPv6 addresses are in brackets."""
    address = read(INTERNAL_ADDRESS=value).internal_address
    assert address is not None and split_address(address) == (host, port)


@pytest.mark.parametrize(
    "value",
    [
        "9000",
        ":9000",
        "127.0.0.1",
        "127.0.0.1:",
        "::1:9000",
        "[::1]",
        "a:65536",
        "http://a:1",
        "a:1/x",
        "a b:1",
        "[a:1",
    ],
)
def test_another_internal_address_is_refused(value: str) -> None:
    """The sentence has the value and examples."""
    sentence = refusal(INTERNAL_ADDRESS=value)
    assert sentence.startswith(f"INTERNAL_ADDRESS is {value!r}; it must be host:port, like 127.0.0.1:9000")


def test_room_access_is_one_of_three() -> None:
    """ROOM_ACCESS is claims, open, or a URL; http is allowed only to this machine."""
    for good in (
        "claims",
        "open",
        "https://app.example.com/may-join",
        "http://localhost:9/x",
        "http://127.0.0.2/",
        "http://[::1]:8/",
    ):
        assert read(ROOM_ACCESS=good).room_access == good
    for bad in ("closed", "ftp://x/", "https://", "https://host:port/", "/path", "https://exa mple/"):
        assert "claims, open, or an https:// URL" in refusal(JWT_SECRET=SECRET, ROOM_ACCESS=bad)
    for plain in ("http://app.example.com/", "http://10.0.0.1/", "http://localhost.example.com/", "http://[fe80::1]/"):
        assert "must be https://" in refusal(JWT_SECRET=SECRET, ROOM_ACCESS=plain)


def test_secrets_of_room_access() -> None:
    """Each is whsec_ and the Base64 of 24 to 64 bytes; the refusal shows no secret."""
    first, second = (f"whsec_{b64encode(byte * size).decode()}" for byte, size in ((b"a", 24), (b"b", 64)))
    assert read(ROOM_ACCESS_SECRET=f"{first}, {second}").room_access_secret == (first, second)
    assert first not in repr(read(ROOM_ACCESS_SECRET=first))
    for bad in (first[6:], "whsec_", f"whsec_{b64encode(b'a' * 23).decode()}", "whsec_!", "whsec_ä", f"{first}*"):
        sentence = refusal(JWT_SECRET=SECRET, ROOM_ACCESS_SECRET=f"{second},{bad}")
        assert sentence.startswith("ROOM_ACCESS_SECRET must be whsec_ and 24 to 64 random bytes in Base64")
        assert bad == "whsec_" or bad not in sentence


def test_a_url_is_shown_without_its_secrets() -> None:
    """Refusals and repr show neither the credentials nor the query of a URL."""
    sentence = refusal(JWT_SECRET=SECRET, ROOM_ACCESS="http://me:pa55@app.example.com/x?key=k3y")
    shown = repr(read(ROOM_ACCESS="https://me:pa55@app.example.com/x?key=k3y"))
    for text in (sentence, shown):
        assert "app.example.com/x" in text
        assert not re.search("pa55|k3y", text)


def test_origins_are_normalized() -> None:
    """Origins are lower case, without default ports, final slashes and blanks; other texts are refused."""
    given = (
        " https://App.Example.com:443/, http://localhost:3000,,http://a:80, *, http://[::1]:5173, app://local"
        ",https://*.Example.com:443,http://localhost:*,https://*.a:*, NULL"
    )
    assert read(ALLOWED_ORIGINS=given).allowed_origins == (
        "https://app.example.com",
        "http://localhost:3000",
        "http://a",
        "*",
        "http://[::1]:5173",
        "app://local",
        "https://*.example.com",
        "http://localhost:*",
        "https://*.a:*",
        "null",
    )


@pytest.mark.parametrize(
    "bad",
    [
        *(
            "app.example.com",
            "https://a/path",
            "https://a b",
            "https://",
            "https://a..b",
            "https://user@a",
            "https://ü.de",
        ),
        *(
            "*.example.com",
            "https://*",
            "https://*.",
            "https://a.*",
            "https://a.*.com",
            "https://*a.com",
            "https://*.*.com",
        ),
        *("https://*.com/x", "*://a", "https://a:0", "https://a:65536", "https://a:*0", "https://a:", "https://[*]:80"),
        *("https://**.a", "https://a?", "null:*", "http://localhost:5173:*"),
    ],
)
def test_a_malformed_origin_is_refused(bad: str) -> None:
    """The sentence has the entry and all allowed forms."""
    sentence = refusal(JWT_SECRET=SECRET, ALLOWED_ORIGINS=f"https://a.example,{bad}")
    assert sentence.startswith(f"ALLOWED_ORIGINS has {show(bad)}")
    assert "https://*.example.com" in sentence
    assert "http://localhost:*" in sentence
    assert "xn--" in sentence


def test_several_api_keys_are_separated_by_commas_or_line_ends() -> None:
    """White space around a key is left out. A key that does not fit in a header is refused, and none is shown."""
    for value in (
        "new-key,old-key",
        "new-key, old-key",
        "new-key\nold-key\n",
        "new-key\r\n\r\nold-key",
        ",new-key,,old-key",
    ):
        assert split_values(read(API_KEY=value).api_key or "") == ("new-key", "old-key")
    for bad in ("new-key,two words", "clé\nold-key", ",", ", ,"):
        sentence = refusal(JWT_SECRET=SECRET, API_KEY=bad)
        assert "API_KEY" in sentence
        assert "old-key" not in sentence


def test_an_api_key_must_fit_in_a_header() -> None:
    """A key that an Authorization header cannot contain is refused and not shown."""
    assert read(API_KEY="s3cret+/=").api_key == "s3cret+/="
    for bad in ("two words", "endedby\n", "clé"):
        sentence = refusal(JWT_SECRET=SECRET, API_KEY=bad)
        assert "API_KEY" in sentence
        assert bad.strip() not in sentence
