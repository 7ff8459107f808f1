"""``POST /console/token`` in ``roomcast dev``: a token for any user that a developer wants to try."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from marshmallow import Schema, fields, validate

from ...auth.identity import make_token
from ...errors import AuthenticationFailed, Refused
from ...gateway.gateway import Gateway
from ...schemas.validator import Validator
from .. import console_session
from ..app_state import GATEWAY

PATH: Final = "/console/token"
#: The lifetime of the tokens, in seconds.
TOKEN_LIFETIME: Final = 12 * 3600

_NO_STORE: Final = {"Cache-Control": "no-store"}


class DevUser(Schema):
    """The user that the token is for."""

    username = fields.String(required=True, validate=validate.Length(1, 64))
    user_id = fields.Raw(required=True)
    rooms = fields.List(fields.String(), load_default=list)


_dev_user: Final = Validator(DevUser)


async def create_token(request: web.Request) -> web.StreamResponse:
    """Answer with a token for the user in the body, or with 422 and the fields that are wrong."""
    if console_session.console_key(request) is None:
        raise web.HTTPForbidden(text="Only the console's own page can create tokens.\n")
    try:
        token = _token_for(request.app[GATEWAY], await _body(request))
    except Refused as refused:
        document = {"error": refused.message, "code": refused.code, "fields": refused.fields or {}}
        return web.json_response(document, status=422, headers=_NO_STORE)
    return web.json_response({"token": token}, headers=_NO_STORE)


async def _body(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError:
        raise Refused("bad_json", "The body is not JSON.") from None


def _token_for(gateway: Gateway, given: Any) -> str:
    """Return a token for the user that ``given`` describes; raise ``Refused``."""
    settings = gateway.settings
    if settings.jwt_secret is None:
        raise Refused("no_secret", "Tokens can only be created with JWT_SECRET, which is not set; paste your own.")
    user = _dev_user.load(given)
    claims = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    token = make_token(
        settings.jwt_keys[0],
        user_id=user["user_id"],
        username=user["username"],
        rooms=user["rooms"],
        expires_in=TOKEN_LIFETIME,
        algorithm=settings.jwt_algorithms[0],
        **{name: value for name, value in claims.items() if value is not None},
    )
    try:
        gateway.authenticator.verify(token)
    except AuthenticationFailed as failed:
        raise Refused("invalid_data", str(failed), {"user_id": [str(failed)]}) from None
    return token
