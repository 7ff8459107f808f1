"""``POST /api/v1/tickets``: a user's token is exchanged for a ticket, good for one connection and a short time.

A token in a URL can end up in the log of a proxy; a ticket that does has been used by then. Browsers call this from
the application's pages, which often are of another origin than roomcast: those of ``ALLOWED_ORIGINS`` may (CORS).
"""

from __future__ import annotations

import json
import logging
import secrets
from functools import wraps
from math import ceil
from typing import Final

from aiohttp import web

from ...errors import AuthenticationFailed
from ..app_keys import GATEWAY
from ..json_errors import Failure, Handler, answer, in_json
from ..request_head import bearer_token, is_allowed_origin, remote_address
from .auth import unauthorized
from .ticket_limit import MAX_UNUSED, TICKET_LIMIT

log = logging.getLogger("roomcast.api")

PATH: Final = "/api/v1/tickets"
#: For how long a browser may remember what a preflight said, in seconds; Chromium remembers 7200 at most.
PREFLIGHT_AGE: Final = 600


def cross_origin(handler: Handler) -> Handler:
    """Let pages of allowed origins read what ``handler`` answers, errors too; refuse other pages."""

    @in_json
    async def checking(request: web.Request) -> web.StreamResponse:
        if not _may_call(request):
            log.warning("refused a ticket to a page of another site: origin %r", request.headers["Origin"][:200])
            raise Failure("bad_origin", "This page's origin is not allowed; add it to ALLOWED_ORIGINS.")
        return await handler(request)

    @wraps(handler)
    async def answering(request: web.Request) -> web.StreamResponse:
        response = await checking(request)
        response.headers["Vary"] = "Origin"
        if "Origin" in request.headers and _may_call(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        return response

    return answering


def _may_call(request: web.Request) -> bool:
    return is_allowed_origin(request, request.app[GATEWAY].settings.allowed_origins)


@cross_origin
async def preflight(request: web.Request) -> web.StreamResponse:
    """Answer ``OPTIONS``: what a page of another origin may send (Fetch standard, CORS-preflight)."""
    headers = {
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": str(PREFLIGHT_AGE),
    }
    return web.Response(status=204, headers=headers)


@cross_origin
async def post_ticket(request: web.Request) -> web.StreamResponse:
    """Answer ``POST``: a ticket for the user of the token in ``Authorization``, and the seconds it can be used."""
    gateway = request.app[GATEWAY]
    token = bearer_token(request)
    if not token:
        raise unauthorized("bad_token", "Send the user's token as `Authorization: Bearer TOKEN`.", tried=False)
    try:
        identity = gateway.authenticator.verify(token)
        await gateway.revocations.check(identity)
    except AuthenticationFailed as failed:
        remote = remote_address(request, trust_proxy=gateway.settings.trust_proxy)
        log.info("refused a ticket to %s: %s", remote, failed)
        raise unauthorized("bad_token", str(failed), tried=True) from None
    ticket = secrets.token_urlsafe(32)
    lifetime = gateway.settings.ticket_ttl
    if not request.app[TICKET_LIMIT].add(identity.user_id, ticket, lifetime):
        sentence = (
            f"This user has {MAX_UNUSED} tickets that were not used yet; use them, or wait until they have ended."
        )
        raise Failure("too_many_tickets", sentence, headers={"Retry-After": str(ceil(lifetime))})
    await gateway.broker.put(f"ticket/{ticket}", json.dumps(token).encode(), lifetime)
    return answer({"ticket": ticket, "expires_in": lifetime})
