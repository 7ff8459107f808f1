"""The debug console: a page at ``/console`` that speaks the protocol before a developer's eyes.

It is served in ``roomcast dev``, and with ``CONSOLE=1`` to whoever logs in with ``API_KEY``; otherwise there is no such
page. What the page does is in ``roomcast.templates``; here are its data, its login and what keeps it safe: a content
security policy with a new nonce in each response, under which nothing runs that is not the console's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from importlib import resources
from math import ceil
from typing import Any, Final, NamedTuple

import aiohttp_jinja2
from aiohttp import web
from jinja2 import PackageLoader
from marshmallow import Schema, fields, validate

from ... import errors
from ...auth.identity import make_token
from ...errors import CLOSES, ERROR_CODES, AuthenticationFailed, Close, Refused
from ...gateway.gateway import Gateway
from ...plugin import Command, EventType
from ...registry import Registry
from ...schemas.validator import Validator
from ...specs.catalog import CORE_COMMANDS
from .. import console_session
from ..app_keys import DEV, GATEWAY
from ..request_head import remote_address
from ..upgrade import handshake
from .login_attempts import Attempts

log = logging.getLogger("roomcast.console")

PATH: Final = "/console"
STATIC: Final = f"{PATH}/static/"
TEMPLATES: Final = "roomcast.templates"
#: How long a made-up user's token holds, in seconds.
TOKEN_LIFETIME: Final = 12 * 3600

_TYPES: Final = {".css": "text/css", ".js": "text/javascript"}
_PAGE: Final = web.AppKey("console_page", dict[str, Any])
_ATTEMPTS: Final = web.AppKey("console_attempts", Attempts)
#: So many wrong keys an address may enter within so many seconds.
WRONG_KEYS: Final = 5
WRONG_KEYS_WITHIN: Final = 60.0

#: What a close means to the developer before whom it happens, by code and reason.
MEANINGS: Final[Mapping[Close, str]] = {
    errors.NORMAL: "The connection was closed in good order.",
    errors.PROTOCOL_ERROR: "The server received frames that WebSocket (RFC 6455) does not allow.",
    errors.UNSUPPORTED_DATA: "A binary frame was sent; roomcast speaks JSON in text frames.",
    errors.INVALID_TEXT: "A text frame was sent whose bytes are not UTF-8.",
    errors.MESSAGE_TOO_BIG: "The message was longer than WS_MAX_MESSAGE_SIZE allows.",
    errors.SERVICE_RESTART: "The server is restarting. Connect again in a moment; missed events can be resumed.",
    errors.TOO_SLOW: "This client read too slowly: more than WS_MAX_BUFFER waited for it. Connect again and resume.",
    errors.AUTHENTICATION_FAILED: "The token is missing, wrong or expired. Connect with a new one; the server's log "
    "says what was wrong with it.",
    errors.FORBIDDEN: "This user has no access to the room that was asked for. The token's rooms claim, or the rule of "
    "the room's type, says who may enter. With FORBIDDEN_JOIN=keep the connection would have stayed.",
    errors.TOO_MANY_CONNECTIONS: "This user has as many connections as MAX_CONNECTIONS_PER_USER allows. Close another "
    "tab, or connect as another user.",
    errors.TOO_MANY_MESSAGES: "This client went on sending faster than WS_MESSAGE_RATE allows.",
    errors.INTERNAL_ERROR: "The server failed; its log says why.",
    errors.DISCONNECTED: "An operator disconnected this user.",
}


class MadeUpUser(Schema):
    """A user who exists for as long as somebody tries something out."""

    username = fields.String(required=True, validate=validate.Length(1, 64))
    user_id = fields.Raw(required=True)
    rooms = fields.List(fields.String(), load_default=list)


_made_up_user: Final = Validator(MadeUpUser)


class Static(NamedTuple):
    """A file of the page's, as it is sent."""

    body: bytes
    content_type: str
    etag: str


def add(app: web.Application) -> None:
    """Give ``app`` the console's routes, if there is to be a console."""
    gateway, dev = app[GATEWAY], app[DEV]
    if not (dev or gateway.settings.console):
        return
    if not dev and gateway.settings.api_key is None:
        log.warning("CONSOLE is set, but the console lets nobody in without API_KEY: set that, too.")
    environment = aiohttp_jinja2.setup(app, loader=PackageLoader(TEMPLATES, ""))
    environment.policies["json.dumps_kwargs"] = {"default": str}  # a schema's default may be a date
    app[_PAGE] = page_data(gateway, dev=dev)
    app[_ATTEMPTS] = Attempts(WRONG_KEYS, WRONG_KEYS_WITHIN)
    app.router.add_get(PATH, _console)
    app.router.add_post(f"{PATH}/login", _log_in)
    app.router.add_post(f"{PATH}/logout", _log_out)
    if dev:
        app.router.add_post(f"{PATH}/token", _token)
    for name, static in _static_files():
        app.router.add_get(STATIC + name, _sender(static))


# The page.


async def _console(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /console``: the console, or the way to it."""
    settings = request.app[GATEWAY].settings
    if not request.app[DEV]:
        if settings.api_key is None:
            return _render(request, "login.html", {"missing_key": True}, status=503)
        if not console_session.logged_in(request, settings.api_key):
            return _render(request, "login.html", {})
    return _render(request, "console.html", {"page": request.app[_PAGE]})


def _render(
    request: web.Request,
    template: str,
    context: dict[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    nonce = secrets.token_urlsafe(16)
    context |= {"nonce": nonce, "static": STATIC}
    response = aiohttp_jinja2.render_template(template, request, context, status=status)
    response.headers.update({**_headers(nonce, request.host), **(headers or {})})
    return response


def _headers(nonce: str, host: str) -> dict[str, str]:
    """Return what keeps a page safe; ``host`` is named for browsers in which 'self' does not cover WebSockets."""
    sockets = f" ws://{host} wss://{host}" if re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", host) else ""
    policy = (
        "default-src 'none'",
        f"script-src 'nonce-{nonce}'",
        f"style-src 'nonce-{nonce}'",
        f"connect-src 'self'{sockets}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def page_data(gateway: Gateway, *, dev: bool) -> dict[str, Any]:
    """Return what the page has to know: the types with their JSON Schemas, the close and error codes in words."""
    registry = gateway.registry
    return {
        "dev": dev,
        "header": console_session.HEADER,
        "socket": handshake.PATH,
        "commands": [
            *(_shown(registry, "command", type, text, data or {}) for type, (text, data, _) in CORE_COMMANDS.items()),
            *(_command(registry, one) for one in registry.commands.values()),
        ],
        "events": [_event(registry, one) for one in registry.events.values()],
        "rooms": [
            {"type": room.type, "description": room.description, "plugin": registry.owner("room type", room.type)}
            for room in registry.rooms.values()
            if room.type != "user"
        ],
        "closes": [{**close._asdict(), "meaning": MEANINGS[close]} for close in CLOSES],
        "errors": {code: error._asdict() for code, error in ERROR_CODES.items()},
    }


def _command(registry: Registry, command: Command) -> dict[str, Any]:
    return _shown(registry, "command", command.type, command.description, command.validator.json_schema())


def _event(registry: Registry, event: EventType) -> dict[str, Any]:
    shown = _shown(registry, "event", event.type, event.description, event.validator.json_schema())
    return shown | {"rooms": event.rooms, "publishable": not event.published_by_core}


def _shown(registry: Registry, kind: str, type: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": type, "plugin": registry.owner(kind, type), "description": description, "schema": schema}


# Its files.


def _static_files() -> Iterator[tuple[str, Static]]:
    for file in resources.files(TEMPLATES).iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            body = file.read_bytes()
            yield file.name, Static(body, _TYPES[suffix], hashlib.sha256(body).hexdigest()[:32])


def _sender(static: Static) -> Any:
    async def send(request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        unchanged = any(tag.value == static.etag for tag in request.if_none_match or ())
        response = web.Response(status=304, headers=headers) if unchanged else _file(static, headers)
        response.etag = static.etag
        return response

    return send


def _file(static: Static, headers: dict[str, str]) -> web.Response:
    return web.Response(body=static.body, content_type=static.content_type, charset="utf-8", headers=headers)


# Login, and users who do not exist.


async def _log_in(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /console/login``: on to the console with a cookie, or the form once more."""
    settings = request.app[GATEWAY].settings
    if settings.api_key is None:
        return _render(request, "login.html", {"missing_key": True}, status=503)
    try:
        async with asyncio.timeout(request.app[GATEWAY].settings.handshake_timeout):
            given = (await request.post()).get("key")
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The form did not arrive in time.\n") from None
    remote = remote_address(request, trust_proxy=settings.trust_proxy)
    attempts = request.app[_ATTEMPTS]
    if wait := ceil(attempts.wait(remote)):  # the right key too, or one could try on and see
        return _render(request, "login.html", {"wait": wait}, status=429, headers={"Retry-After": str(wait)})
    if not isinstance(given, str) or not console_session.is_key(given.strip(), settings.api_key):
        attempts.add(remote)
        log.warning("refused a login at the console from %s: the key is wrong", remote)
        return _render(request, "login.html", {"wrong": True}, status=403)
    response = web.Response(status=303, headers={"Location": PATH, "Cache-Control": "no-store"})
    console_session.log_in(request, response, settings.api_key, trust_proxy=settings.trust_proxy)
    return response


async def _log_out(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /console/logout``, which only the console's own page may ask."""
    if not console_session.is_console(request):
        raise web.HTTPForbidden(text="Log out at the console itself.\n")
    response = web.Response(status=204)
    console_session.log_out(response)
    return response


async def _token(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /console/token`` of ``roomcast dev``: a token for a user made up on the spot."""
    if not console_session.is_console(request):
        raise web.HTTPForbidden(text="Only the console itself may make up users.\n")
    try:
        token = _make_up(request.app[GATEWAY], await _json(request))
    except Refused as refused:
        answer = {"error": refused.message, "code": refused.code, "fields": refused.fields or {}}
        return web.json_response(answer, status=422, headers={"Cache-Control": "no-store"})
    return web.json_response({"token": token}, headers={"Cache-Control": "no-store"})


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError:
        raise Refused("bad_json", "The body is not JSON.") from None


def _make_up(gateway: Gateway, given: Any) -> str:
    """Return a token for the user that ``given`` describes; raise ``Refused``."""
    settings = gateway.settings
    if settings.jwt_secret is None:
        raise Refused("no_secret", "Tokens can be made with JWT_SECRET only, which is not set; paste one of your own.")
    user = _made_up_user.load(given)
    claims = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    token = make_token(
        settings.jwt_secret,
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
