"""The debug console at ``/console``: a page that shows a developer every frame of a WebSocket, and calls the API.

It exists in ``roomcast dev``, and with ``CONSOLE=1`` for users who log in with an API key. Templates and scripts are
in ``roomcast.templates``. This module has the page's data and its security headers: the policy allows no script and no
style sheet but the console's own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from aiohttp import web

from ... import errors
from ...declarations import Command, EventType
from ...errors import CLOSES, ERROR_CODES, Close
from ...gateway.gateway import Gateway
from ...registry import Registry
from ...specs.core_frames import CORE_COMMANDS
from .. import console_session
from ..app_state import DEV, GATEWAY
from ..public_url import root_of
from ..upgrade import handshake
from . import templates
from .static_files import file_handler

log = logging.getLogger("roomcast.console")

PATH: Final = "/console"
STATIC: Final = f"{PATH}/static/"

_CONTENT_TYPES: Final = {".css": "text/css", ".js": "text/javascript"}
_FILE_HEADERS: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_PAGE: Final = web.AppKey("console_page", dict[str, Any])

#: What each close means for a developer, by code and reason.
MEANINGS: Final[Mapping[Close, str]] = {
    errors.NORMAL: "The connection was closed normally.",
    errors.PROTOCOL_ERROR: "The server received frames that WebSocket (RFC 6455) does not allow.",
    errors.UNSUPPORTED_DATA: "A binary frame was sent; roomcast uses JSON in text frames.",
    errors.INVALID_TEXT: "A text frame was sent whose bytes are not UTF-8.",
    errors.MESSAGE_TOO_BIG: "The message was longer than WS_MAX_MESSAGE_SIZE allows.",
    errors.SERVICE_RESTART: "The server is restarting. Connect again in a moment; missed events can be resumed.",
    errors.NODE_FULL: "The server has MAX_CONNECTIONS connections already. Connect again later.",
    errors.TOO_SLOW: "This client read too slowly: more than WS_MAX_BUFFER waited for it. Connect again and resume.",
    errors.AUTHENTICATION_FAILED: "The token is missing, wrong or expired. Connect with a new one; the server's log "
    "says what was wrong with it.",
    errors.FORBIDDEN: "This user has no access to the room in the request. The token's rooms claim, or the rule of "
    "the room's type, says who may enter. With FORBIDDEN_JOIN=keep the connection would have stayed.",
    errors.TOO_MANY_CONNECTIONS: "This user has as many connections as MAX_CONNECTIONS_PER_USER allows. Close another "
    "tab, or connect as another user.",
    errors.TOO_MANY_MESSAGES: "This client continued to send faster than WS_MESSAGE_RATE or WS_BYTE_RATE allows.",
    errors.INTERNAL_ERROR: "The server failed; its log says why.",
    errors.DISCONNECTED: "An operator disconnected this user.",
}


def is_enabled(app: web.Application) -> bool:
    """Return True if this server has a console."""
    return app[DEV] or app[GATEWAY].settings.console


def add_routes(app: web.Application) -> None:
    """Add the routes of the page and its files."""
    gateway, dev = app[GATEWAY], app[DEV]
    if not dev and not gateway.settings.http_keys:
        log.warning("CONSOLE is set, but no user can log in to the console without API_KEY: set that, too.")
    app[_PAGE] = page_data(gateway, dev=dev)
    app.router.add_get(PATH, show_console)
    for file in resources.files(templates.PACKAGE).iterdir():
        content_type = _CONTENT_TYPES.get(file.name[file.name.rfind(".") :])
        if content_type is not None:
            handler = file_handler(file.read_bytes(), content_type, _FILE_HEADERS, may_compress=False)
            app.router.add_get(STATIC + file.name, handler)


async def show_console(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /console``: the console, or the login form."""
    settings = request.app[GATEWAY].settings
    if not request.app[DEV]:
        if not settings.http_keys:
            return render(request, "login.html", {"missing_key": True}, status=503)
        if console_session.logged_in_key(request, settings.http_keys) is None:
            return render(request, "login.html", {})
    return render(request, "console.html", {"page": request.app[_PAGE]})


def render(
    request: web.Request,
    template: str,
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a page of the console."""
    return templates.render(
        request,
        template,
        {**context, "root": root_of(request), "static": root_of(request) + STATIC[1:]},
        _policy(request.host),
        status=status,
        headers={"Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store", **(headers or {})},
    )


def _policy(host: str) -> tuple[str, ...]:
    """Return the content security policy. It names ``host`` for browsers in which 'self' does not cover WebSockets."""
    sockets = f" ws://{host} wss://{host}" if re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", host) else ""
    return (
        "default-src 'none'",
        "script-src 'nonce-{nonce}'",
        "style-src 'nonce-{nonce}'",
        f"connect-src 'self'{sockets}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )


def page_data(gateway: Gateway, *, dev: bool) -> dict[str, Any]:
    """Return the page's data: all types with their JSON Schemas, and the meanings of close and error codes."""
    registry = gateway.registry
    return {
        "dev": dev,
        "header": console_session.HEADER,
        "socket": handshake.PATH[1:],
        "commands": [
            *(_entry(registry, "command", type, text, data or {}) for type, (text, data, _) in CORE_COMMANDS.items()),
            *(_command(registry, one) for one in registry.commands.values()),
        ],
        "events": [_event(registry, one) for one in registry.events.values()],
        "rooms": [
            {"type": room.type, "description": room.description, "plugin": registry.owner("room type", room.type)}
            for room in registry.rooms.values()
            if room.type != "user"
        ],
        "dead_letters": _dead_letters(registry),
        "closes": [{**close._asdict(), "meaning": MEANINGS[close]} for close in CLOSES],
        "errors": {code: error._asdict() for code, error in ERROR_CODES.items()},
    }


def _dead_letters(registry: Registry) -> str | None:
    """Return the path of the dead letters of the plugin for webhooks, or None if that is not loaded."""
    plugin = registry.plugins.get("webhook")
    return f"plugins/{plugin.plugin.name}/dead-letters" if plugin is not None else None


def _command(registry: Registry, command: Command) -> dict[str, Any]:
    return _entry(registry, "command", command.type, command.description, command.validator.json_schema())


def _event(registry: Registry, event: EventType) -> dict[str, Any]:
    data = _entry(registry, "event", event.type, event.description, event.validator.json_schema())
    return data | {"rooms": event.rooms, "publishable": not event.published_by_core}


def _entry(registry: Registry, kind: str, type: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": type, "plugin": registry.owner(kind, type), "description": description, "schema": schema}
