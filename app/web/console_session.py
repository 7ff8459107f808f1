"""The console's session: a cookie that is signed with the API key of its user and contains only its expiry.

The server stores nothing: every node with the same key accepts the cookie, and removing the key ends its sessions. The
user may do what the key allows now.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import Final

from aiohttp import web

from ..api_keys import ApiKey, ApiKeys
from .app_state import DEV, GATEWAY
from .client_address import is_https
from .origins import ORIGINS

COOKIE: Final = "roomcast_console"
#: How long a login lasts, in seconds.
LIFETIME: Final = 12 * 3600
#: The header that the console sends with each request. A page of another origin could only send it after a preflight
#: request (CORS), which no endpoint that looks for this header answers.
HEADER: Final = "X-Roomcast-Console"
#: The cookie in the header. aiohttp would parse all cookies: 8,000 bytes of them take 6 ms.
_find_cookie: Final = re.compile(rf'(?:^|;)[ \t]*{COOKIE}="?([0-9]{{1,12}})\.([0-9a-f]{{64}})"?[ \t]*(?:;|$)').search
#: The rights of the console of ``roomcast dev``, in which no user logs in.
_DEV_KEY: Final = ApiKey("console")


def logged_in_key(request: web.BaseRequest, keys: ApiKeys) -> ApiKey | None:
    """Return the key of ``keys`` that signed the cookie of ``request``; None if no cookie is valid and in time."""
    cookie = _find_cookie(";".join(request.headers.getall("Cookie", ())))
    if cookie is None:
        return None
    expires, signature = cookie.groups()
    found = None
    for key in keys:
        for secret in key.secrets:
            if hmac.compare_digest(signature, _sign(expires, secret)):
                found = key
    return found if int(expires) > time.time() else None


def console_key(request: web.Request) -> ApiKey | None:
    """Return the key of the console's user if the console's own page sent ``request``, otherwise None.

    ``roomcast dev`` needs no login. The cookie alone is not enough, because browsers add it to requests of other pages
    too. The header and the Origin show that the console's page sent the request. Browsers omit Origin from a GET to the
    page's own origin.
    """
    if HEADER not in request.headers or not request.app[ORIGINS].is_own(request):
        return None
    if request.app[DEV]:
        return _DEV_KEY
    settings = request.app[GATEWAY].settings
    return logged_in_key(request, settings.http_keys) if settings.console else None


def log_in(request: web.BaseRequest, response: web.StreamResponse, key: ApiKey, *, trust_proxy: str) -> None:
    """Add the cookie of a new session to ``response``, signed with the first value of ``key``."""
    expires = str(int(time.time()) + LIFETIME)
    response.set_cookie(
        COOKIE,
        f"{expires}.{_sign(expires, key.secrets[0])}",
        max_age=LIFETIME,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=is_https(request, trust_proxy=trust_proxy),
    )


def log_out(response: web.StreamResponse) -> None:
    """Delete the cookie."""
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")


def _sign(expires: str, secret: str) -> str:
    return hmac.new(secret.encode(), f"roomcast console until {expires}".encode(), hashlib.sha256).hexdigest()
