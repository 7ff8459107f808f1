"""Who may use the HTTP API: whoever has ``API_KEY``, and the console's own page after its login."""

from __future__ import annotations

import logging
from functools import wraps
from typing import Final

from aiohttp import web

from .. import console_session
from ..app_keys import GATEWAY
from ..json_errors import Failure, Handler, in_json
from ..request_head import bearer_token, remote_address

log = logging.getLogger("roomcast.api")

#: What a 401 must say (RFC 9110 section 11.6.1; the words are RFC 6750's, section 3).
CHALLENGE: Final = 'Bearer realm="roomcast"'


def unauthorized(code: str, message: str, *, tried: bool) -> Failure:
    """Return the 401 for a request with wrong credentials (``tried``) or with none."""
    challenge = f'{CHALLENGE}, error="invalid_token"' if tried else CHALLENGE
    return Failure(code, message, headers={"WWW-Authenticate": challenge})


def require_api_key(request: web.Request) -> None:
    """Return if ``request`` may use the API; else raise the ``Failure`` that answers it."""
    if console_session.is_console(request):
        return
    settings = request.app[GATEWAY].settings
    if settings.api_key is None:
        raise Failure("api_off", "The HTTP API is off; set API_KEY, and send it as `Authorization: Bearer API_KEY`.")
    given = bearer_token(request)
    if not given:
        raise unauthorized("unauthorized", "Send the API key as `Authorization: Bearer API_KEY`.", tried=False)
    if not console_session.is_key(given, settings.api_key):
        remote = remote_address(request, trust_proxy=settings.trust_proxy)
        log.warning("refused a call of the API from %s: the key is wrong", remote)
        raise unauthorized("unauthorized", "The key that was sent is not this server's API_KEY.", tried=True)


def keyed(handler: Handler) -> Handler:
    """Let only those who may use the API come to ``handler``, and answer in JSON whatever happens."""

    @wraps(handler)
    async def checking(request: web.Request) -> web.StreamResponse:
        require_api_key(request)
        return await handler(request)

    return in_json(checking)
