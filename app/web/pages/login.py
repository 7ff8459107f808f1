"""Login and logout of the console. A client may enter few wrong keys, so that the key cannot be guessed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Final

from aiohttp import web

from .. import console_session
from ..app_state import GATEWAY
from ..client_address import client_address, client_network
from ..public_url import root_of
from .console import PATH, render

log = logging.getLogger("roomcast.console")

#: How many wrong keys an IPv4 address or the /64 of an IPv6 address may enter within ``WRONG_KEYS_WINDOW`` seconds.
MAX_WRONG_KEYS: Final = 5
WRONG_KEYS_WINDOW: Final = 60.0
#: The largest login form, in bytes.
MAX_FORM: Final = 8192


class LoginAttempts:
    """Allows each address at most ``limit`` attempts within ``window`` seconds of ``clock``.

    Only the latest ``max_addresses`` addresses are stored.
    """

    def __init__(
        self, limit: int, window: float, *, max_addresses: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit: Final = limit
        self._window: Final = window
        self._max_addresses: Final = max_addresses
        self._clock: Final = clock
        #: The times of the last ``limit`` attempts of each address. The address that tried last is the last key.
        self._attempts: Final[dict[str, deque[float]]] = {}

    def wait(self, address: str) -> float:
        """Return the seconds until ``address`` may try again; 0 if it may now."""
        attempts = self._attempts.get(address)
        if attempts is None or len(attempts) < self._limit:
            return 0.0
        return max(attempts[0] + self._window - self._clock(), 0.0)

    def add(self, address: str) -> None:
        """Count an attempt, and drop addresses whose attempts are older than the window."""
        now = self._clock()
        attempts = self._attempts.pop(address, None) or deque(maxlen=self._limit)
        attempts.append(now)
        self._attempts[address] = attempts
        while len(self._attempts) > self._max_addresses or self._oldest() + self._window <= now:
            del self._attempts[next(iter(self._attempts))]

    def _oldest(self) -> float:
        """Return the last attempt of the address that tried first."""
        return next(iter(self._attempts.values()))[-1]


_ATTEMPTS: Final = web.AppKey("login_attempts", LoginAttempts)


def add_routes(app: web.Application) -> None:
    """Add the routes of login and logout."""
    app[_ATTEMPTS] = LoginAttempts(MAX_WRONG_KEYS, WRONG_KEYS_WINDOW)
    app.router.add_post(f"{PATH}/login", log_in)
    app.router.add_post(f"{PATH}/logout", log_out)


async def log_in(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /console/login``: redirect to the console with a cookie, or return the form again."""
    settings = request.app[GATEWAY].settings
    if settings.api_key is None:
        return render(request, "login.html", {"missing_key": True}, status=503)
    given = await _read_key(request, settings.handshake_timeout)
    remote = client_address(request, trust_proxy=settings.trust_proxy)
    attempts, network = request.app[_ATTEMPTS], client_network(remote)
    if wait := ceil(attempts.wait(network)):  # even with the right key, or an attacker could continue to guess
        return render(request, "login.html", {"wait": wait}, status=429, headers={"Retry-After": str(wait)})
    if not isinstance(given, str) or not console_session.is_key(given.strip(), settings.api_key):
        attempts.add(network)
        log.warning("refused a console login from %s: the key is wrong", remote)
        return render(request, "login.html", {"wrong": True}, status=403)
    response = web.Response(status=303, headers={"Location": root_of(request) + PATH[1:], "Cache-Control": "no-store"})
    console_session.log_in(request, response, settings.api_key, trust_proxy=settings.trust_proxy)
    return response


async def _read_key(request: web.Request, seconds: float) -> object:
    """Return the field ``key`` of the form.

    aiohttp also reads forms with files, of which it writes each to the disk. A thousand empty ones take 0.1 s.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="Send the form as application/x-www-form-urlencoded.\n")
    try:
        async with asyncio.timeout(seconds):
            return (await request.clone(client_max_size=MAX_FORM).post()).get("key")
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The form did not arrive in time.\n") from None


async def log_out(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /console/logout``, which only the console's own page may send."""
    if not console_session.is_console(request):
        raise web.HTTPForbidden(text="Log out in the console itself.\n")
    response = web.Response(status=204)
    console_session.log_out(response)
    return response
