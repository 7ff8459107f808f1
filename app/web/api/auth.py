"""Access to the HTTP API: with a key in ``API_KEY`` or ``API_KEYS``, or from the console's page after its login.

Each handler states the scope that its call needs. ``params.room_in_path`` refuses rooms that the key does not allow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Final

from aiohttp import web

from ...api_keys import ApiKey
from .. import console_session
from ..app_state import GATEWAY
from ..client_address import client_address
from ..connection_limit import CONNECTION_LIMIT
from ..failure_logs import FAILURE_LOGS
from ..json_errors import CHALLENGE, SEES_DETAILS, Failure, Handler, in_json
from ..request_head import bearer_token
from ..wrong_keys import MAX_WRONG_KEYS, count_wrong_key

log = logging.getLogger("roomcast.api")

#: The key of an API request.
KEY: Final = web.RequestKey("api_key", ApiKey)


def unauthorized(code: str, message: str, *, tried: bool) -> Failure:
    """Return the 401 for a request with wrong credentials (``tried``) or without any."""
    challenge = f'{CHALLENGE}, error="invalid_token"' if tried else CHALLENGE
    return Failure(code, message, headers={"WWW-Authenticate": challenge})


def key_of(request: web.Request) -> ApiKey:
    """Return the key of ``request``, or that of the console's user. Raises ``Failure`` if it may not use the API."""
    if (key := console_session.console_key(request)) is not None:
        return key
    keys = request.app[GATEWAY].settings.http_keys
    if not keys:
        raise Failure("api_off", "The HTTP API is off; set API_KEY, and send it as `Authorization: Bearer API_KEY`.")
    given = bearer_token(request)
    if not given:
        raise unauthorized("unauthorized", "Send the API key as `Authorization: Bearer API_KEY`.", tried=False)
    if (key := keys.find(given)) is not None:
        return key
    if wait := count_wrong_key(request, "an API request"):
        sentence = (
            f"The key is wrong, as were {MAX_WRONG_KEYS} keys from your address in the last minute; send a key of this "
            "server, which is accepted at once."
        )
        raise Failure("too_many_wrong_keys", sentence, headers={"Retry-After": str(wait)}, closes=True)
    raise unauthorized("unauthorized", "The key that was sent is not an API key of this server.", tried=True)


def may_see_details(request: web.Request) -> bool:
    """Return True if the key of ``request`` allows its response to name servers and the causes of failures."""
    try:
        return key_of(request).sees_details
    except Failure:
        return False


def requires_api_key(scope: str, *, all_rooms: bool = False) -> Callable[[Handler], Handler]:
    """Return a decorator for handlers of calls that need a key with ``scope``, and with ``all_rooms`` for every room.

    Refusals and exceptions are answered in JSON. The handler finds the key in ``request[KEY]``.
    """

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def wrapper(request: web.Request) -> web.StreamResponse:
            key = request[KEY] = key_of(request)
            request.app[CONNECTION_LIMIT].authenticate(request.protocol)
            request[SEES_DETAILS] = key.sees_details
            if scope not in key.scopes:
                raise _refusal(request, "missing_scope", f"needs a key with the scope {scope}", _scopes_of(key))
            if all_rooms and key.rooms is not None:
                raise _refusal(request, "forbidden_room", "concerns a user in all rooms", _rooms_of(key))
            return await handler(request)

        checked = in_json(wrapper)
        checked.scope = scope  # type: ignore[attr-defined]  # a test compares it with the OpenAPI document
        return checked

    return decorate


def check_room(request: web.Request, room: str) -> None:
    """Raise ``Failure`` if the key of ``request`` may not be used for ``room``."""
    key = request[KEY]
    if not key.allows(room):
        raise _refusal(request, "forbidden_room", f"is for {room[:150]}", _rooms_of(key))


def audit(request: web.Request, text: str, *args: object) -> None:
    """Log what ``request`` did, with the name of its key."""
    remote = client_address(request, trust_proxy=request.app[GATEWAY].settings.trust_proxy)
    log.info(f"{text}, with the key %s from %s", *args, request[KEY].name, remote)


def _scopes_of(key: ApiKey) -> str:
    return f"the key {key.name} has {' and '.join(key.scopes)}"


def _rooms_of(key: ApiKey) -> str:
    rooms = ", ".join((key.rooms or ())[:10])
    return f"the key {key.name} is limited to {rooms}"


def _refusal(request: web.Request, code: str, needs: str, has: str) -> Failure:
    """Return the 403 for a key that lacks a scope or a room, and log it."""
    sentence = f"This call {needs}; {has}."
    resource = request.match_info.route.resource
    call = f"{request.method} {resource.canonical if resource is not None else ''}"
    request.app[FAILURE_LOGS].add_refusal(f"{request[KEY].name} {code} {call}", f"refused {call}: {sentence}")
    return Failure(code, sentence)
