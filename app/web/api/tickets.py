"""``POST /api/v1/tickets``: exchange a user's token for a ticket, which is valid for one connection and a short time.

A token in a URL can end up in a proxy's log. A ticket in such a log has been used already. Browsers call this from the
application's pages, which often have another origin than roomcast, so it allows ``ALLOWED_ORIGINS`` (CORS).
"""

from __future__ import annotations

import json
import secrets
from functools import wraps
from math import ceil
from typing import Final

from aiohttp import web

from ...errors import AuthenticationFailed
from ..app_state import GATEWAY
from ..client_address import client_address
from ..cors import preflight_response
from ..failure_logs import FAILURE_LOGS
from ..json_errors import Failure, Handler, in_json, json_response
from ..origins import ORIGINS
from ..request_head import bearer_token
from .auth import unauthorized
from .ticket_limit import MAX_UNUSED, TICKET_LIMIT

PATH: Final = "/api/v1/tickets"


def allow_cross_origin(handler: Handler) -> Handler:
    """Return ``handler`` with CORS: pages of allowed origins may read its responses, errors too; others get 403."""

    @in_json
    async def check_origin(request: web.Request) -> web.StreamResponse:
        if not request.app[ORIGINS].allow(request):
            request.app[FAILURE_LOGS].add_origin("a ticket to a page", request.headers["Origin"])
            raise Failure("bad_origin", "This page's origin is not allowed; add it to ALLOWED_ORIGINS.")
        return await handler(request)

    @wraps(handler)
    async def wrapper(request: web.Request) -> web.StreamResponse:
        response = await check_origin(request)
        response.headers.add("Vary", "Origin")
        if "Origin" in request.headers and request.app[ORIGINS].allow(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        return response

    return wrapper


@allow_cross_origin
async def preflight(request: web.Request) -> web.StreamResponse:
    """Answer ``OPTIONS``: pages may send a token and the headers that they ask for."""
    return preflight_response(request, "POST")


@allow_cross_origin
async def create_ticket(request: web.Request) -> web.StreamResponse:
    """Answer ``POST``: a ticket for the user of the token in ``Authorization``, and its lifetime in seconds."""
    gateway = request.app[GATEWAY]
    token = bearer_token(request)
    if not token:
        raise unauthorized("bad_token", "Send the user's token as `Authorization: Bearer TOKEN`.", tried=False)
    try:
        identity = gateway.authenticator.verify(token)
        await gateway.revocations.check(identity)
    except AuthenticationFailed as failed:
        remote = client_address(request, trust_proxy=gateway.settings.trust_proxy)
        request.app[FAILURE_LOGS].add_denial("a ticket", f"refused a ticket to {remote}: {failed}")
        raise unauthorized("bad_token", str(failed), tried=True) from None
    ticket = secrets.token_urlsafe(32)
    lifetime = gateway.settings.ticket_ttl
    if not request.app[TICKET_LIMIT].add(identity.user_id, ticket, lifetime):
        sentence = f"This user has {MAX_UNUSED} tickets that were not used; use them, or wait until they expire."
        raise Failure("too_many_tickets", sentence, headers={"Retry-After": str(ceil(lifetime))})
    await gateway.broker.put(f"ticket/{ticket}", json.dumps(token).encode(), lifetime)
    return json_response({"ticket": ticket, "expires_in": lifetime})
