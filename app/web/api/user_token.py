"""Requests of users, which have a token as ``Authorization: Bearer TOKEN``: for tickets, and for routes of plugins."""

from __future__ import annotations

from aiohttp import web

from ...auth.identity import Identity
from ...errors import AuthenticationFailed
from ..app_state import GATEWAY
from ..client_address import client_address
from ..failure_logs import FAILURE_LOGS
from ..request_head import bearer_token
from .auth import unauthorized


async def verify_user(request: web.Request, what: str) -> tuple[str, Identity]:
    """Return the token of ``request`` and its user. ``what`` are words for the log: what is refused without one.

    Raises ``Failure`` if the token is missing, not valid or revoked, and ``Unavailable`` if that is not known.
    """
    gateway = request.app[GATEWAY]
    token = bearer_token(request)
    if not token:
        raise unauthorized("bad_token", "Send the user's token as `Authorization: Bearer TOKEN`.", tried=False)
    try:
        identity = gateway.authenticator.verify(token)
        await gateway.revocations.check(identity)
    except AuthenticationFailed as failed:
        remote = client_address(request, trust_proxy=gateway.settings.trust_proxy)
        request.app[FAILURE_LOGS].add_denial(what, f"refused {what} to {remote}: {failed}")
        raise unauthorized("bad_token", str(failed), tried=True) from None
    return token, identity
