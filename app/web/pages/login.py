"""Login and logout of the console."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web

from .. import console_session
from ..app_state import GATEWAY
from ..client_address import client_address
from ..public_url import root_of
from ..wrong_keys import count_wrong_key
from .console import PATH, render

log = logging.getLogger("roomcast.console")

#: The largest login form, in bytes.
MAX_FORM: Final = 8192


def add_routes(app: web.Application) -> None:
    """Add the routes of login and logout."""
    app.router.add_post(f"{PATH}/login", log_in)
    app.router.add_post(f"{PATH}/logout", log_out)


async def log_in(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /console/login``: redirect to the console with a cookie, or return the form again."""
    settings = request.app[GATEWAY].settings
    if not settings.http_keys:
        return render(request, "login.html", {"missing_key": True}, status=503)
    given = await _read_key(request)
    key = settings.http_keys.find(given.strip()) if isinstance(given, str) else None
    if key is None:
        if wait := count_wrong_key(request, "a console login"):
            page = render(request, "login.html", {"wait": wait}, status=429, headers={"Retry-After": str(wait)})
            page.force_close()
            return page
        return render(request, "login.html", {"wrong": True}, status=403)
    remote = client_address(request, trust_proxy=settings.trust_proxy)
    log.info("console login with the key %s from %s", key.name, remote)
    response = web.Response(status=303, headers={"Location": root_of(request) + PATH[1:], "Cache-Control": "no-store"})
    console_session.log_in(request, response, key, trust_proxy=settings.trust_proxy)
    return response


async def _read_key(request: web.Request) -> object:
    """Return the field ``key`` of the form.

    aiohttp also reads forms with files, of which it writes each to the disk. A thousand empty ones take 0.1 s.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="Send the form as application/x-www-form-urlencoded.\n")
    try:
        return (await request.clone(client_max_size=MAX_FORM).post()).get("key")
    except UnicodeDecodeError:
        raise web.HTTPBadRequest(text="The form is not in the charset that its Content-Type states.\n") from None


async def log_out(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /console/logout``, which only the console's own page may send."""
    if console_session.console_key(request) is None:
        raise web.HTTPForbidden(text="Log out in the console itself.\n")
    response = web.Response(status=204)
    console_session.log_out(response)
    return response
