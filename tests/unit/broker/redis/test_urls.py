"""REDIS_URL: every form of it, the sentences of wrong ones, and that no password is ever shown."""

from __future__ import annotations

import dataclasses
import ssl
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis_servers import Authority

from roomcast.broker.redis.urls import SCHEMES, Target, parse
from roomcast.errors import SettingsError


def refusal(url: str, ca: str | None = None) -> str:
    """The sentence that stops the start: one line that names REDIS_URL."""
    with pytest.raises(SettingsError) as caught:
        parse(url, ca=ca)
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
        ("rediss://cache", Target("single", "rediss://cache:6379", (("cache", 6379),), tls=True)),
        ("valkeys://cache", Target("single", "valkeys://cache:6379", (("cache", 6379),), tls=True)),
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
                tls=True,
            ),
        ),
        (
            "valkey+cluster://n1,n2:7000",
            Target("cluster", "valkey+cluster://n1:6379,n2:7000", (("n1", 6379), ("n2", 7000))),
        ),
        ("rediss+cluster://n1/0", Target("cluster", "rediss+cluster://n1:6379", (("n1", 6379),), tls=True)),
    ],
)
def test_every_form_is_read(url: str, target: Target):
    """Each part has its place, and what is left out its default."""
    assert parse(url) == target


def test_valkey_is_another_name_of_redis():
    """Every form with the one is there with the other, and speaks TLS or not as that does."""
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
    """They are told apart by the first colon; a password that was left empty is none, but for a user who has none."""
    target = parse(where.format(userinfo))
    assert (target.username, target.password) == (username, password)


def test_a_plus_is_a_plus():
    """Passwords in base64 have them, and nobody thinks of forms, in which one is a space."""
    target = parse("redis+sentinel://s1?sentinel_password=a+b%2Bc")
    assert target.sentinel_password == "a+b+c"


# TLS.


@pytest.mark.parametrize("scheme", [name for name, (_, tls) in SCHEMES.items() if tls])
def test_the_authority_is_that_of_the_url_or_the_settings(scheme: str):
    """``ssl_ca_certs`` wins over REDIS_CA."""
    assert parse(f"{scheme}://cache").ca is None
    assert parse(f"{scheme}://cache", ca="/etc/a.pem").ca == "/etc/a.pem"
    assert parse(f"{scheme}://cache?ssl_ca_certs=/etc/b%2B.pem", ca="/etc/a.pem").ca == "/etc/b+.pem"


def test_certificates_are_verified(tmp_path: Path):
    """With TLS the server's name and certificate are checked, by the given authority alone if there is one."""
    authority = Authority(tmp_path)
    for ca, count in ((None, None), (str(authority.ca), 1)):
        context = parse("rediss://cache", ca=ca).ssl_context()
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert count is None or len(context.get_ca_certs()) == count


def test_without_tls_there_is_no_context():
    """Nor is the authority's file looked at."""
    assert parse("redis://cache", ca="/no/such.pem").ssl_context() is None


def test_an_authority_that_is_none_is_refused(tmp_path: Path):
    """The sentence names the file, and whether it is missing or holds something else."""
    (tmp_path / "empty.pem").write_text("nothing here")
    for path, words in (
        ("/no/such.pem", "'/no/such.pem', which cannot be read"),
        (str(tmp_path), "which cannot be read"),
        (str(tmp_path / "empty.pem"), "empty.pem', which holds no certificates in PEM"),
        ("/a\0b", "which cannot be read"),
    ):
        with pytest.raises(SettingsError, match=words) as caught:
            parse("rediss://cache", ca=path).ssl_context()
        assert "\0" not in str(caught.value)


# What is wrong.


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
def test_a_wrong_url_is_refused(url: str, words: str):
    """One sentence says what is wrong with it, and does not repeat what may be a password."""
    sentence = refusal(url)
    assert words in sentence
    assert "pa55" not in sentence


# Passwords.

WORDS = ("hunter", "sesame", "walrus", "PA55WORD", "zebra_crossing")
#: Passwords of these words with whatever means something in a URL between them.
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
#: And where else it can be in what is wrong.
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


def said(url: str) -> str:
    """All that is ever shown of a URL: what it is read as, or what it is refused with, causes included."""
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
def test_no_piece_of_a_password_is_shown(place: str, pieces: list[str]):
    """Neither of one that is written as it should be, nor of one that should have been percent-encoded."""
    password = "".join(pieces)
    for written in (password, quote(password), quote(password, safe="")):
        shown = said(place.format(written))
        assert not [word for word in WORDS if word in shown]


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_password_can_be_written(place: str, password: str):
    """Percent-encoded, each arrives as it is."""
    target = parse(place.format(quote(password, safe="")))
    assert password in (target.password, target.sentinel_password)


@settings(max_examples=200)
@given(st.sampled_from([*SCHEMES]), st.text() | st.text("ab1:/?@[]%&=,.db0"))
def test_whatever_is_given_is_read_or_refused(scheme: str, rest: str):
    """There is no third way; and what is shown of it fits one line, and is the same URL without its secrets."""
    try:
        target = parse(f"{scheme}://{rest}")
    except SettingsError:
        return
    assert target.safe.isprintable()
    secrets = ("username", "password", "sentinel_username", "sentinel_password", "ca")
    assert parse(target.safe) == dataclasses.replace(target, **dict.fromkeys(secrets))
