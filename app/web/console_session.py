"""The console's session: a cookie that is signed with ``API_KEY`` and contains only its expiry.

The server stores nothing: every node with the same key accepts the cookie, and removing the key ends its sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import Final

from aiohttp import web

from ..setting_rules import split_values
from .app_state import DEV, GATEWAY
from .client_address import is_https
from .origins import ORIGINS

COOKIE: Final = "roomcast_console"
#: How long a login lasts, in seconds.
LIFETIME: Final = 12 * 3600
#: The header that the console sends with each request. A page of another origin could only send it after a preflight
#: request (CORS), which no endpoint that looks for this header answers.
HEADER: Final = "X-Roomcast-Console"
_parse_cookie: Final = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})").fullmatch


def is_key(given: str, api_key: str) -> bool:
    """Return True if ``given`` is one of the keys in the setting ``api_key``.

    The comparison takes the same time for all wrong keys of a length.
    """
    guess = given.encode("utf-8", "surrogateescape")
    return any(hmac.compare_digest(guess, key.encode()) for key in split_values(api_key))


def is_logged_in(request: web.BaseRequest, api_key: str) -> bool:
    """Return True if ``request`` has a cookie that was signed with a key in ``api_key`` and has not expired."""
    cookie = _parse_cookie(request.cookies.get(COOKIE, ""))
    if cookie is None:
        return False
    expires, signature = cookie.groups()
    is_signed = any(hmac.compare_digest(signature, _sign(expires, key)) for key in split_values(api_key))
    return is_signed and int(expires) > time.time()


def is_console(request: web.Request) -> bool:
    """Return True if the console's own page sent ``request``, and its user is logged in.

    ``roomcast dev`` needs no login. The cookie alone is not enough, because browsers add it to requests of other pages
    too. The header and the Origin show that the console's page sent the request. Browsers omit Origin from a GET to the
    page's own origin.
    """
    if HEADER not in request.headers or not request.app[ORIGINS].is_own(request):
        return False
    if request.app[DEV]:
        return True
    settings = request.app[GATEWAY].settings
    return settings.console and settings.api_key is not None and is_logged_in(request, settings.api_key)


def log_in(request: web.BaseRequest, response: web.StreamResponse, api_key: str, *, trust_proxy: str) -> None:
    """Add the cookie of a new session to ``response``, signed with the first key in the setting ``api_key``."""
    key = split_values(api_key)[0]
    expires = str(int(time.time()) + LIFETIME)
    response.set_cookie(
        COOKIE,
        f"{expires}.{_sign(expires, key)}",
        max_age=LIFETIME,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=is_https(request, trust_proxy=trust_proxy),
    )


def log_out(response: web.StreamResponse) -> None:
    """Delete the cookie."""
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")


def _sign(expires: str, key: str) -> str:
    return hmac.new(key.encode(), f"roomcast console until {expires}".encode(), hashlib.sha256).hexdigest()
