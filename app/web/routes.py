"""All routes of the server."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..specs.publishable import check_schemas
from .api import events, plugin_routes, rooms, tickets, users
from .api.ticket_limit import TICKET_LIMIT, TicketLimit
from .app_state import DEV, GATEWAY, PART, Part
from .failure_logs import FAILURE_LOGS, FailureLogs
from .ops import health, metrics
from .origins import ORIGINS, AllowedOrigins
from .pages import console, dev_problems, dev_tokens, docs, fallback, login, static_files, templates
from .upgrade import handshake
from .upgrade.pending_handshakes import PENDING_HANDSHAKES, PendingHandshakes
from .wrong_keys import WRONG_KEYS, WrongKeys

API_ROOT: Final = "/api/v1"


def add_routes(app: web.Application) -> None:
    """Add the routes of ``app[PART]`` to ``app``, in which the gateway is stored already. Raises ``PluginError``."""
    router, part = app.router, app[PART]
    check_schemas(app[GATEWAY].registry)
    app[TICKET_LIMIT] = TicketLimit()
    app[FAILURE_LOGS] = FailureLogs()
    app[WRONG_KEYS] = WrongKeys()
    settings = app[GATEWAY].settings
    app[ORIGINS] = AllowedOrigins(settings.allowed_origins, settings.public_url)
    app[PENDING_HANDSHAKES] = PendingHandshakes(app[GATEWAY].settings.handshake_timeout)
    router.add_get(handshake.PATH, handshake.connect)
    router.add_post(tickets.PATH, tickets.create_ticket)
    router.add_options(tickets.PATH, tickets.preflight)
    router.add_get("/health/live", health.live)
    router.add_get("/health/ready", health.ready)
    static_files.add_routes(app)
    plugin_routes.add_routes(app)
    if part is not Part.PUBLIC:
        _add_operators_routes(app)
    # The first route that matches is used, so these are the last.
    router.add_route("*", f"{API_ROOT}/{{rest:.*}}", fallback.api_not_found)
    router.add_route("*", "/{rest:.*}", fallback.not_found)


def _add_operators_routes(app: web.Application) -> None:
    """Add the routes for backends and operators, which the public port lacks if there is an internal one."""
    add_api_routes(app.router)
    metrics.add_routes(app)
    templates.set_up(app)
    if console.is_enabled(app):
        console.add_routes(app)
        login.add_routes(app)
    if app[DEV]:
        app.router.add_post(dev_tokens.PATH, dev_tokens.create_token)
        app.router.add_get(dev_problems.PATH, dev_problems.show_problems)
    docs.add_routes(app)
    app.router.add_get("/", fallback.root)


def add_api_routes(router: web.UrlDispatcher) -> None:
    """Add the routes that need the API key."""
    # The patterns accept any text without a slash, so that the handlers can refuse a wrong room or id with a sentence.
    room, user = f"{API_ROOT}/rooms/{{room:[^/]+}}", f"{API_ROOT}/users/{{user_id:[^/]+}}"
    router.add_post(f"{API_ROOT}/events", events.publish)
    router.add_get(f"{API_ROOT}/rooms", rooms.list_rooms)
    router.add_get(f"{room}/members", rooms.list_members)
    router.add_get(f"{room}/history", rooms.read_history)
    router.add_delete(f"{room}/members/{{user_id:[^/]+}}", rooms.kick)
    router.add_get(user, users.read_status)
    router.add_post(f"{API_ROOT}/users/status", users.read_statuses)
    router.add_delete(f"{user}/connections", users.disconnect)
    router.add_delete(f"{user}/tokens", users.revoke_all)
    router.add_delete(f"{user}/tokens/{{jti:[^/]+}}", users.revoke_one)
