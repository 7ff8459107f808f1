"""REDIS_URL: all forms, the errors for invalid ones, and that no password is ever shown."""

from __future__ import annotations

import dataclasses
import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roomcast.broker.redis.tls import TlsFiles
from roomcast.broker.redis.urls import SCHEMES, Target, parse
from roomcast.errors import SettingsError


def refusal(url: str) -> str:
    """Return the error for ``url``: one line that names REDIS_URL."""
    with pytest.raises(SettingsError) as caught:
        parse(url)
    sentence = str(caught.value)
    assert sentence.startswith("REDIS_URL ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


# Forms.


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://cache", Target("single", "redis://cache:6379", (("cache", 6379),))),
        ("redis://10.0.0.9:7000/3", Target("single", "redis://10.0.0.9:7000/3", (("10.0.0.9", 7000),), db=3)),
        ("redis://cache?db=3", Target("single", "redis://cache:6379/3", (("cache", 6379),), db=3)),
        ("redis://cache/", Target("single", "redis://cache:6379", (("cache", 6379),))),
        ("redis://[::1]", Target("single", "redis://[::1]:6379", (("::1", 6379),))),
        ("redis://[fe80::1%eth0]:7000", Target("single", "redis://[fe80::1%eth0]:7000", (("fe80::1%eth0", 7000),))),
        (" REDIS://cache\n", Target("single", "redis://cache:6379", (("cache", 6379),))),
        ("valkey://cache", Target("single", "valkey://cache:6379", (("cache", 6379),))),
        ("rediss://cache", Target("single", "rediss://cache:6379", (("cache", 6379),), tls=TlsFiles())),
        ("valkeys://cache", Target("single", "valkeys://cache:6379", (("cache", 6379),), tls=TlsFiles())),
        ("unix:///run/redis.sock", Target("single", "unix:///run/redis.sock", path="/run/redis.sock")),
        (
            "unix://app:pa55@/run/my%40redis.sock?db=2",
            Target(
                "single",
                "unix:///run/my%40redis.sock?db=2",
                path="/run/my@redis.sock",
                db=2,
                username="app",
                password="pa55",
            ),
        ),
        (
            "redis+sentinel://s1",
            Target("sentinel", "redis+sentinel://s1:26379/mymaster", (("s1", 26379),), service="mymaster"),
        ),
        (
            "rediss+sentinel://:pa55@s1,[::1]:7,s3:8/main/2?sentinel_username=watch&sentinel_password=w%26tch",
            Target(
                "sentinel",
                "rediss+sentinel://s1:26379,[::1]:7,s3:8/main/2",
                (("s1", 26379), ("::1", 7), ("s3", 8)),
                db=2,
                password="pa55",
                service="main",
                sentinel_username="watch",
                sentinel_password="w&tch",
                tls=TlsFiles(),
            ),
        ),
        (
            "valkey+cluster://n1,n2:7000",
            Target("cluster", "valkey+cluster://n1:6379,n2:7000", (("n1", 6379), ("n2", 7000))),
        ),
        ("rediss+cluster://n1/0", Target("cluster", "rediss+cluster://n1:6379", (("n1", 6379),), tls=TlsFiles())),
    ],
)
def test_all_forms(url: str, target: Target):
    """Every part of the URL is parsed, and missing parts have defaults."""
    assert parse(url) == target


def test_valkey_schemes():
    """Every scheme with redis also exists with valkey, with the same meaning."""
    for name, meaning in list(SCHEMES.items()):
        assert SCHEMES[name.replace("redis", "valkey", 1)] == meaning


@pytest.mark.parametrize(
    ("userinfo", "username", "password"),
    [
        ("app:pa55@", "app", "pa55"),
        (":pa55@", None, "pa55"),
        ("pa55@", None, "pa55"),
        ("a%3Ap:p%40s%2Fs%3F%25@", "a:p", "p@s/s?%"),
        ("app:pa:55@", "app", "pa:55"),
        ("app:p@ss#/w@", "app", "p@ss#/w"),
        ("app:a+b@", "app", "a+b"),
        ("app:p%C3%A4ss@", "app", "päss"),
        ("app:@", "app", ""),
        (":@", None, None),
        ("@", None, None),
    ],
)
@pytest.mark.parametrize("where", ["redis://{}cache", "redis+sentinel://{}cache/main", "unix://{}/run/redis.sock"])
def test_credentials_are_percent_encoded(where: str, userinfo: str, username: str | None, password: str | None):
    """The first colon separates them; an empty password counts only with a user."""
    target = parse(where.format(userinfo))
    assert (target.username, target.password) == (username, password)


def test_a_plus_stays_a_plus():
    """Passwords in base64 contain a plus, which is not decoded as a space."""
    target = parse("redis+sentinel://s1?sentinel_password=a+b%2Bc")
    assert target.sentinel_password == "a+b+c"


# TLS.


@pytest.mark.parametrize("scheme", [name for name, (_, tls) in SCHEMES.items() if tls])
def test_ssl_ca_certs_overrides_redis_ca(scheme: str):
    """``ssl_ca_certs`` overrides REDIS_CA, and leaves the other files."""
    files = TlsFiles("/etc/a.pem", "/etc/c.pem", "/etc/k.pem", verify=False)
    assert parse(f"{scheme}://cache").tls == TlsFiles()
    assert parse(f"{scheme}://cache", files).tls == files
    changed = parse(f"{scheme}://cache?ssl_ca_certs=/etc/b%2B.pem", files).tls
    assert changed == TlsFiles("/etc/b+.pem", "/etc/c.pem", "/etc/k.pem", verify=False)


def test_without_tls_there_are_no_files():
    """Without TLS the files are not used."""
    assert parse("redis://cache", TlsFiles("/no/such.pem")).tls is None


# Invalid URLs.


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must begin with one of redis://"),
        ("cache:6379", "must begin with one of"),
        ("http://cache", "must begin with one of"),
        ("redis:/cache", "must begin with one of"),
        ("redis://", "not host or host:port"),
        ("redis:///0", "not host or host:port"),
        ("redis://:pa55", "not host or host:port"),
        ("redis://cache:port", "not host or host:port"),
        ("redis://cache:0", "not host or host:port"),
        ("redis://cache:65536", "not host or host:port"),
        ("redis://::1", "not host or host:port"),
        ("redis://a b", "not host or host:port"),
        ("redis+cluster://n1,,n2", "not host or host:port"),
        ("redis://a,b", "names several servers"),
        ("redis://cache/zero", "a database that is not a number"),
        ("redis://cache/-1", "a database that is not a number"),
        ("redis://cache/0/1", "a database that is not a number"),
        ("redis://cache?db=x", "a database that is not a number"),
        ("redis+sentinel://s1/main/x", "a database that is not a number"),
        ("redis+sentinel://s1/m%20n", "a name of the Sentinel service"),
        ("redis+cluster://n1/1", "a Cluster has only 0"),
        ("redis+cluster://n1?db=1", "a Cluster has only 0"),
        ("unix://run/redis.sock", "no path of a socket"),
        ("unix:///", "no path of a socket"),
        ("unix:///run/a%00b", "no path of a socket"),
        ("unix:///run/a%0Ab", "no path of a socket"),
        ("unix:///run/my@redis.sock", "@ is %40"),
        ("redis://cache?ssl_cert_reqs=none", "after its question mark"),
        ("redis://cache?ssl_ca_certs=/etc/a.pem", "rediss://"),
        ("unix:///run/redis.sock?ssl_ca_certs=/etc/a.pem", "rediss://"),
        ("redis://:pa?55@cache", "? is %3F"),
        ("redis+sentinel://s1?sentinel_password=a&pa55", "& in a password is %26"),
        ("redis://:%FF@cache", "UTF-8"),
        ("redis://:\udcff@cache", "UTF-8"),
        ("redis+sentinel://s1?sentinel_password=%FF", "UTF-8"),
        ("redis+sentinel://s1?sentinel_password=\udcff", "UTF-8"),
    ],
)
def test_invalid_urls(url: str, words: str):
    """One sentence says what is wrong, without repeating a possible password."""
    sentence = refusal(url)
    assert words in sentence
    assert "pa55" not in sentence


# Passwords.

WORDS = ("hunter", "sesame", "walrus", "PA55WORD", "zebra_crossing")
#: Passwords of these words, with characters between them that have a meaning in a URL.
PASSWORDS = st.lists(
    st.sampled_from(WORDS) | st.sampled_from("@:/?#&=%+,;[] \\\"'\n\t\0ä") | st.just("://"), max_size=7
)

#: Where a password may be.
PLACES = (
    "redis://:{}@cache",
    "redis://{}@cache",
    "rediss://app:{}@cache:7000/2",
    "valkey://app:{}@[::1]",
    "unix://:{}@/run/redis.sock?db=1",
    "redis+sentinel://:{}@s1,s2/main/3",
    "redis+sentinel://s1/main?sentinel_password={}",
    "redis+sentinel://s1/main?sentinel_username=watch&sentinel_password={}&db=2",
    "redis+cluster://app:{}@n1,n2:7000",
)
#: Where it may be in an invalid URL.
WRONG_PLACES = (
    "redis+cluster://app:{}@n1/4",
    "redis://:{}@cache:port",
    "redis://:{}@a,b",
    "redis://:{}@cache?ssl_cert_reqs=none",
    "redis://:{}@",
    "redis:/:{}@cache",
    "http://:{}@cache",
    ":{}@cache",
    "unix://:{}@run/redis.sock",
)


def shown(url: str) -> str:
    """Return everything that is ever shown of a URL: its representation, or the error with its causes."""
    try:
        target = parse(url)
    except SettingsError as error:
        return "".join(traceback.format_exception(error)) + repr(error)
    return f"{target!r} {target} {target.safe}"


@pytest.mark.parametrize("place", PLACES + WRONG_PLACES)
@settings(max_examples=60)
@example(["hunter", "?", "sesame", "&", "walrus"])
@example(["hunter", "&", "sesame"])
@example(["hunter", "?", "db", "=", "walrus"])
@example(["hunter", "?", "sentinel_password", "=", "walrus"])
@given(PASSWORDS)
def test_passwords_are_never_shown(place: str, pieces: list[str]):
    """No part of a password is shown, even if it should have been percent-encoded and was not."""
    password = "".join(pieces)
    for written in (password, quote(password), quote(password, safe="")):
        text = shown(place.format(written))
        assert not [word for word in WORDS if word in text]


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_password_can_be_encoded(place: str, password: str):
    """Every password arrives unchanged if it is percent-encoded."""
    target = parse(place.format(quote(password, safe="")))
    assert password in (target.password, target.sentinel_password)


@settings(max_examples=200)
@given(st.sampled_from([*SCHEMES]), st.text() | st.text("ab1:/?@[]%&=,.db0"))
def test_random_urls(scheme: str, rest: str):
    """A URL is parsed or refused; its safe form fits one line and is the same URL without secrets."""
    try:
        target = parse(f"{scheme}://{rest}")
    except SettingsError:
        return
    assert target.safe.isprintable()
    secrets = ("username", "password", "sentinel_username", "sentinel_password")
    files = None if target.tls is None else TlsFiles()
    assert parse(target.safe) == dataclasses.replace(target, tls=files, **dict.fromkeys(secrets))
