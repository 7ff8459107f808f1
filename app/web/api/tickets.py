"""``POST /api/v1/tickets``: exchange a user's token for a ticket, which is valid for one connection and a short time.

A token in a URL can end up in a proxy's log. A ticket in such a log has been used already. Browsers call this from the
application's pages, which often have another origin than roomcast, so it allows ``ALLOWED_ORIGINS`` (CORS).
"""

from __future__ import annotations

import json
import secrets
from math import ceil
from typing import Final

from aiohttp import web

from ..app_state import GATEWAY
from ..cors import allow_cross_origin, preflight_response
from ..json_errors import Failure, json_response
from .ticket_limit import MAX_UNUSED, TICKET_LIMIT
from .user_token import verify_user

PATH: Final = "/api/v1/tickets"


@allow_cross_origin("a ticket")
async def preflight(request: web.Request) -> web.StreamResponse:
    """Answer ``OPTIONS``: pages may send a token and the headers that they ask for."""
    return preflight_response(request, "POST")


@allow_cross_origin("a ticket")
async def create_ticket(request: web.Request) -> web.StreamResponse:
    """Answer ``POST``: a ticket for the user of the token in ``Authorization``, and its lifetime in seconds."""
    gateway = request.app[GATEWAY]
    token, identity = await verify_user(request, "a ticket")
    ticket = secrets.token_urlsafe(32)
    lifetime = gateway.settings.ticket_ttl
    if not request.app[TICKET_LIMIT].add(identity.user_id, ticket, lifetime):
        sentence = f"This user has {MAX_UNUSED} tickets that were not used; use them, or wait until they expire."
        raise Failure("too_many_tickets", sentence, headers={"Retry-After": str(ceil(lifetime))})
    await gateway.broker.put(f"ticket/{ticket}", json.dumps(token).encode(), lifetime)
    return json_response({"ticket": ticket, "expires_in": lifetime})
