"""Access to the HTTP API: with ``API_KEY``, or from the console's page after its login."""

from __future__ import annotations

import logging
from functools import wraps

from aiohttp import web

from .. import console_session
from ..app_state import GATEWAY
from ..client_address import client_address
from ..connection_limit import CONNECTION_LIMIT
from ..json_errors import CHALLENGE, SEES_DETAILS, Failure, Handler, in_json
from ..request_head import bearer_token

log = logging.getLogger("roomcast.api")


def unauthorized(code: str, message: str, *, tried: bool) -> Failure:
    """Return the 401 for a request with wrong credentials (``tried``) or without any."""
    challenge = f'{CHALLENGE}, error="invalid_token"' if tried else CHALLENGE
    return Failure(code, message, headers={"WWW-Authenticate": challenge})


def check_api_key(request: web.Request) -> None:
    """Raise the ``Failure`` that answers ``request`` if it may not use the API."""
    if console_session.is_console(request):
        return
    settings = request.app[GATEWAY].settings
    if settings.api_key is None:
        raise Failure("api_off", "The HTTP API is off; set API_KEY, and send it as `Authorization: Bearer API_KEY`.")
    given = bearer_token(request)
    if not given:
        raise unauthorized("unauthorized", "Send the API key as `Authorization: Bearer API_KEY`.", tried=False)
    if not console_session.is_key(given, settings.api_key):
        remote = client_address(request, trust_proxy=settings.trust_proxy)
        log.warning("refused an API request from %s: the key is wrong", remote)
        raise unauthorized("unauthorized", "The key that was sent is not this server's API_KEY.", tried=True)


def may_see_details(request: web.Request) -> bool:
    """Return True if ``request`` has the API key, so that its response may name servers and the causes of failures."""
    try:
        check_api_key(request)
    except Failure:
        return False
    return True


def requires_api_key(handler: Handler) -> Handler:
    """Return ``handler`` with a check of the API key. Refusals and exceptions are answered in JSON."""

    @wraps(handler)
    async def wrapper(request: web.Request) -> web.StreamResponse:
        check_api_key(request)
        request.app[CONNECTION_LIMIT].authenticate(request.protocol)
        request[SEES_DETAILS] = True
        return await handler(request)

    return in_json(wrapper)
