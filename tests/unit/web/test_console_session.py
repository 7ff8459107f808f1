"""The console's session: a cookie that only the key can make, and that is worth nothing to another page."""

import time

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from roomcast.web import console_session

KEY = "s3cret-key-of-the-operator"


def log_in(secure: bool = False, headers: dict[str, str] | None = None, trust_proxy: bool = False) -> web.Response:
    """The answer to a login."""
    request = make_mocked_request("POST", "/console/login", headers=headers, sslcontext=object() if secure else None)
    response = web.Response()
    console_session.log_in(request, response, KEY, trust_proxy=trust_proxy)
    return response


def request_with(cookie: str) -> web.Request:
    """A request with the console's cookie."""
    return make_mocked_request("GET", "/console", headers={"Cookie": f"{console_session.COOKIE}={cookie}"})


def cookie_of(response: web.Response) -> str:
    """The cookie that an answer sets."""
    return response.cookies[console_session.COOKIE].value


def test_a_cookie_of_the_same_key_is_believed():
    """Whoever logged in is known by the cookie, and by nothing else."""
    assert console_session.is_logged_in(request_with(cookie_of(log_in())), KEY)
    assert not console_session.is_logged_in(make_mocked_request("GET", "/console"), KEY)


def test_another_key_ends_the_session():
    """With a new API_KEY the old cookies are worth nothing."""
    assert not console_session.is_logged_in(request_with(cookie_of(log_in())), KEY + "2")


def test_a_session_ends(monkeypatch):
    """After LIFETIME one has to log in again."""
    cookie = cookie_of(log_in())
    now = time.time()
    monkeypatch.setattr(console_session.time, "time", lambda: now + console_session.LIFETIME - 5)
    assert console_session.is_logged_in(request_with(cookie), KEY)
    monkeypatch.setattr(console_session.time, "time", lambda: now + console_session.LIFETIME + 5)
    assert not console_session.is_logged_in(request_with(cookie), KEY)


@pytest.mark.parametrize("change", ["longer", "empty", "no signature", "other digits", "no number", "not ASCII"])
def test_a_forged_cookie_is_refused(change):
    """No change of a cookie makes it last longer, and no nonsense breaks the server."""
    expires, _, signature = cookie_of(log_in()).partition(".")
    forged = {
        "longer": f"{int(expires) + 1000}.{signature}",
        "empty": "",
        "no signature": f"{expires}.",
        "other digits": f"0{expires}.{signature}",
        "no number": f"x.{signature}",
        "not ASCII": "٣٤.é",
    }[change]
    assert not console_session.is_logged_in(request_with(forged), KEY)


def test_the_cookie_is_kept_from_scripts_and_other_sites():
    """It is HttpOnly and SameSite=Strict, ends by itself, and does not contain the key."""
    cookie = log_in().cookies[console_session.COOKIE]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["max-age"] == str(console_session.LIFETIME)
    assert not cookie["secure"]
    assert KEY not in cookie.value


@pytest.mark.parametrize(
    ("secure", "headers", "trust_proxy", "expected"),
    [
        (True, {}, False, True),
        (False, {"X-Forwarded-Proto": "https"}, True, True),
        (False, {"X-Forwarded-Proto": "https"}, False, False),
        (False, {"X-Forwarded-Proto": "http"}, True, False),
        (False, CIMultiDict([("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")]), True, False),
    ],
)
def test_the_cookie_stays_on_https(secure, headers, trust_proxy, expected):
    """Over HTTPS, also where a trusted proxy says so, the cookie is Secure."""
    cookie = log_in(secure, headers, trust_proxy).cookies[console_session.COOKIE]
    assert bool(cookie["secure"]) is expected


@pytest.mark.parametrize("given", ["", KEY[:-1], KEY + "x", KEY.upper(), "\udcff", "ключ"])
def test_only_the_key_is_the_key(given):
    """Whatever is not the key, letter by letter, is refused."""
    assert console_session.is_key(KEY, KEY)
    assert not console_session.is_key(given, KEY)
