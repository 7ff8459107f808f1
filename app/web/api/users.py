"""``/api/v1/users``: disconnect a user, and revoke tokens."""

from __future__ import annotations

import re
import time
from math import floor
from typing import Final

from aiohttp import web

from ..app_state import GATEWAY
from ..json_errors import Failure, json_response
from .auth import audit, requires_api_key
from .params import query_with, user_id_in_path

#: How far ``before`` may be ahead of this node's clock, in seconds.
MAX_AHEAD: Final = 60


@requires_api_key("moderate", all_rooms=True)
async def disconnect(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE /api/v1/users/{user_id}/connections``: close a user's connections with 4410.

    The response has their number, which may be 0. The user may connect again.
    """
    gateway, user_id = request.app[GATEWAY], user_id_in_path(request)
    connections = await gateway.broker.connections(user_id)
    await gateway.signals.disconnect(user_id)
    audit(request, "disconnected user %s", user_id)
    return json_response({"user_id": user_id, "connections": connections})


@requires_api_key("moderate", all_rooms=True)
async def revoke_all(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE …/users/{user_id}/tokens?before=``: revoke the user's tokens issued before a Unix time.

    The default of ``before`` is the next whole second; the response contains it. Most tokens have their ``iat`` in
    whole seconds, so a token issued in that second is the first one that is certainly newer than the request.
    """
    gateway, user_id = request.app[GATEWAY], user_id_in_path(request)
    before = _before(request, floor(time.time()) + 1)
    await gateway.revocations.revoke_all(user_id, before)
    audit(request, "revoked the tokens of user %s from before %.12g", user_id, before)
    return json_response({"user_id": user_id, "before": before})


@requires_api_key("moderate", all_rooms=True)
async def revoke_one(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE …/users/{user_id}/tokens/{jti}``: revoke one token of the user."""
    gateway, user_id = request.app[GATEWAY], user_id_in_path(request)
    query_with(request)
    token_id = request.match_info["jti"]
    await gateway.revocations.revoke_one(user_id, token_id)
    audit(request, "revoked a token of user %s", user_id)
    return json_response({"user_id": user_id, "jti": token_id})


def _before(request: web.Request, default: int) -> float:
    """Return the Unix time in the query. A time in the future is refused: it would lock the user out until then."""
    given = query_with(request, "before").get("before")
    if given is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?", given) or float(given) > default + MAX_AHEAD:
        raise Failure("bad_query", f"before is {given[:60]!r}; it must be a Unix time in seconds, not in the future.")
    return float(given)
