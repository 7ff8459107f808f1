"""``/api/v1/users``: read the status of users, disconnect a user, and revoke tokens."""

from __future__ import annotations

import re
import time
from math import floor
from typing import Final

from aiohttp import web

from ...broker.base import UserId
from ...errors import Refused
from ...protocol.user_id import FORM, parse_user_id
from ..app_state import GATEWAY
from ..json_errors import Failure, json_response
from .auth import audit, requires_api_key
from .params import decode_json, query_with, read_body, user_id_in_path

#: How many users the status of several users may have. Reading them takes a node about 30 ms of CPU.
MAX_USERS: Final = 1000
#: How far ``before`` may be ahead of this node's clock, in seconds.
MAX_AHEAD: Final = 60


@requires_api_key("read", all_rooms=True)
async def read_status(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/v1/users/{user_id}``: whether a user is online, with the rooms of all connections."""
    user_id = user_id_in_path(request)
    query_with(request)
    (report,) = await request.app[GATEWAY].user_status.read([user_id])
    return json_response(report.document(user_id))


@requires_api_key("read", all_rooms=True)
async def read_statuses(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/v1/users/status``: the same for each of the ids in the body's ``user_ids``, in their order."""
    query_with(request)
    user_ids = _user_ids_in(decode_json(await read_body(request)))
    reports = await request.app[GATEWAY].user_status.read(user_ids)
    users = [report.document(user_id) for user_id, report in zip(user_ids, reports, strict=True)]
    return json_response({"users": users})


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


def _user_ids_in(body: object) -> list[UserId]:
    """Return the user ids in the body of a request; raise ``Refused``."""
    given = body.get("user_ids") if isinstance(body, dict) and len(body) == 1 else None
    if not isinstance(given, list):
        raise Refused("bad_message", 'The body must be an object with a list of user ids: {"user_ids": [1, "bob"]}.')
    if len(given) > MAX_USERS:
        raise Refused("too_many_users", f"The list has {len(given)} user ids; {MAX_USERS} is the most at once.")
    user_ids = []
    for index, value in enumerate(given):
        try:
            user_ids.append(parse_user_id(value))
        except ValueError:
            shown = repr(value)[:60]
            raise Refused("bad_user", f"user_ids[{index}] is {shown}, which is not a user id: {FORM}.") from None
    return user_ids


def _before(request: web.Request, default: int) -> float:
    """Return the Unix time in the query. A time in the future is refused: it would lock the user out until then."""
    given = query_with(request, "before").get("before")
    if given is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?", given) or float(given) > default + MAX_AHEAD:
        raise Failure("bad_query", f"before is {given[:60]!r}; it must be a Unix time in seconds, not in the future.")
    return float(given)
