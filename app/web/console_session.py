"""The console's session: a cookie signed with ``API_KEY``. The server keeps nothing, and a new key ends all sessions.

The cookie says until when it holds, and that is all it says. Every node with the same key takes it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import Final

from aiohttp import web

from .app_keys import DEV, GATEWAY
from .request_head import is_allowed_origin

COOKIE: Final = "roomcast_console"
#: How long a login holds, in seconds.
LIFETIME: Final = 12 * 3600
#: The header that the console sends with each call. A page of another site cannot, unless it was asked and allowed
#: first (CORS), which nothing here does.
HEADER: Final = "X-Roomcast-Console"
_is_cookie: Final = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})").fullmatch


def is_key(given: str, api_key: str) -> bool:
    """Whether ``given`` is the key; takes as long when only its last letter is wrong as when all are."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), api_key.encode())


def logged_in(request: web.BaseRequest, api_key: str) -> bool:
    """Whether ``request`` has a cookie that was signed with ``api_key`` and still holds."""
    cookie = _is_cookie(request.cookies.get(COOKIE, ""))
    if cookie is None:
        return False
    expires, signature = cookie.groups()
    return hmac.compare_digest(signature, _sign(expires, api_key)) and int(expires) > time.time()


def is_console(request: web.Request) -> bool:
    """Whether ``request`` is a call of the console's own page, by a user who may use it.

    In ``roomcast dev`` anyone at the console may; else one who has logged in. A cookie alone proves nothing, for
    browsers add it to requests that other pages make: the header and, where there is one, the Origin prove the page.
    """
    if HEADER not in request.headers or not is_allowed_origin(request):
        return False
    if request.app[DEV]:
        return True
    settings = request.app[GATEWAY].settings
    return settings.console and settings.api_key is not None and logged_in(request, settings.api_key)


def log_in(request: web.BaseRequest, response: web.StreamResponse, api_key: str, *, trust_proxy: bool) -> None:
    """Give ``response`` the cookie of a session that begins now."""
    expires = str(int(time.time()) + LIFETIME)
    response.set_cookie(
        COOKIE,
        f"{expires}.{_sign(expires, api_key)}",
        max_age=LIFETIME,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=_is_https(request, trust_proxy=trust_proxy),
    )


def log_out(response: web.StreamResponse) -> None:
    """Take the cookie back."""
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")


def _sign(expires: str, api_key: str) -> str:
    return hmac.new(api_key.encode(), f"roomcast console until {expires}".encode(), hashlib.sha256).hexdigest()


def _is_https(request: web.BaseRequest, *, trust_proxy: bool) -> bool:
    forwarded = request.headers.getall("X-Forwarded-Proto", [""])[-1] if trust_proxy else ""
    return request.secure or forwarded.rpartition(",")[2].strip().lower() == "https"
