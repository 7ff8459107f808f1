"""The console's session: a cookie that only an owner of the key can create."""

import time

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from serving import KEY

from roomcast.api_keys import ApiKey, ApiKeys, read_api_keys
from roomcast.web import console_session


def keys(value: str) -> ApiKeys:
    """Return the keys of an ``API_KEY`` with this value."""
    return read_api_keys(value, None)


def is_logged_in(request: web.Request, value: str) -> bool:
    """Return True if the cookie of ``request`` is a login for an ``API_KEY`` with this value."""
    return console_session.logged_in_key(request, keys(value)) is not None


def log_in(secure: bool = False, headers: dict[str, str] | None = None, trust_proxy: str = "false") -> web.Response:
    """Return the response to a login."""
    request = make_mocked_request("POST", "/console/login", headers=headers, sslcontext=object() if secure else None)
    response = web.Response()
    console_session.log_in(request, response, ApiKey("a", (KEY,)), trust_proxy=trust_proxy)
    return response


def request_with(cookie: str) -> web.Request:
    """Return a request with ``cookie`` as the console's cookie."""
    return make_mocked_request("GET", "/console", headers={"Cookie": f"{console_session.COOKIE}={cookie}"})


def cookie_of(response: web.Response) -> str:
    """Return the cookie that ``response`` sets."""
    return response.cookies[console_session.COOKIE].value


def test_a_cookie_of_the_same_key_is_accepted():
    """A cookie that was signed with the key is a login. A request without a cookie is not."""
    assert is_logged_in(request_with(cookie_of(log_in())), KEY)
    assert not is_logged_in(make_mocked_request("GET", "/console"), KEY)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a=b; ", "; c=d", True),
        ("a=b;", ";c=d", True),
        ("a=b;" * 1500, "", True),
        ("x", "", False),
        ("a=", "", False),
        ("", "0", False),
        ("", " x", False),
    ],
)
def test_the_cookie_is_found_among_others(before: str, after: str, expected: bool):
    """Cookies with longer names or values do not count. The cookies may be in several headers."""
    line = f"{before}{console_session.COOKIE}={cookie_of(log_in())}{after}"
    headers = CIMultiDict([("Cookie", "first=1"), ("Cookie", line)])
    assert is_logged_in(make_mocked_request("GET", "/console", headers=headers), KEY) == expected


def test_another_key_ends_the_session():
    """A new API_KEY invalidates all cookies."""
    assert not is_logged_in(request_with(cookie_of(log_in())), KEY + "2")


def test_several_keys_are_accepted():
    """During a rotation, cookies of all keys are logins. A new cookie is signed with the first key."""
    old = cookie_of(log_in())
    both = f"new-key,{KEY}"
    assert is_logged_in(request_with(old), both)
    response = web.Response()
    key = keys(both).find(KEY)
    assert key is not None
    console_session.log_in(make_mocked_request("POST", "/console/login"), response, key, trust_proxy="false")
    assert is_logged_in(request_with(cookie_of(response)), "new-key")
    assert not is_logged_in(request_with(cookie_of(response)), KEY)
    assert keys(both).find("new-key") == keys(both).find(KEY) is not None
    assert keys(both).find(both) is None


def test_a_session_expires(monkeypatch):
    """After LIFETIME the user has to log in again."""
    cookie = cookie_of(log_in())
    now = time.time()
    monkeypatch.setattr(console_session.time, "time", lambda: now + console_session.LIFETIME - 5)
    assert is_logged_in(request_with(cookie), KEY)
    monkeypatch.setattr(console_session.time, "time", lambda: now + console_session.LIFETIME + 5)
    assert not is_logged_in(request_with(cookie), KEY)


@pytest.mark.parametrize("change", ["longer", "empty", "no signature", "other digits", "no number", "not ASCII"])
def test_a_forged_cookie_is_refused(change):
    """Changed cookies and arbitrary texts are refused without an exception."""
    expires, _, signature = cookie_of(log_in()).partition(".")
    forged = {
        "longer": f"{int(expires) + 1000}.{signature}",
        "empty": "",
        "no signature": f"{expires}.",
        "other digits": f"0{expires}.{signature}",
        "no number": f"x.{signature}",
        "not ASCII": "٣٤.é",
    }[change]
    assert not is_logged_in(request_with(forged), KEY)


def test_scripts_and_other_sites_cannot_use_the_cookie():
    """The cookie is HttpOnly and SameSite=Strict, expires, and does not contain the key."""
    cookie = log_in().cookies[console_session.COOKIE]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["max-age"] == str(console_session.LIFETIME)
    assert not cookie["secure"]
    assert KEY not in cookie.value


@pytest.mark.parametrize(
    ("secure", "headers", "trust_proxy", "expected"),
    [
        (True, {}, "false", True),
        (False, {"X-Forwarded-Proto": "https"}, "true", True),
        (False, {"X-Forwarded-Proto": "https"}, "false", False),
        (False, {"X-Forwarded-Proto": "http"}, "true", False),
        (False, CIMultiDict([("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")]), "true", False),
        (False, {"Forwarded": "for=192.0.2.1;proto=https"}, "true", True),
        (False, {"Forwarded": "for=192.0.2.1;proto=https, for=192.0.2.2;proto=http"}, "true", False),
    ],
)
def test_the_cookie_is_secure_over_https(secure, headers, trust_proxy, expected):
    """HTTPS is recognized on the connection, and by X-Forwarded-Proto if the proxy is trusted."""
    cookie = log_in(secure, headers, trust_proxy).cookies[console_session.COOKIE]
    assert bool(cookie["secure"]) is expected


@pytest.mark.parametrize("given", ["", KEY[:-1], KEY + "x", KEY.upper(), "\udcff", "ключ"])
def test_only_the_exact_key_is_accepted(given):
    """Similar keys and other texts are refused."""
    assert keys(KEY).find(KEY) is not None
    assert keys(KEY).find(given) is None
