"""Every route, in one place."""

from __future__ import annotations

from aiohttp import web

from .api import plugin_routes, routes, ticket_limit, tickets
from .ops import health, metrics
from .pages import console, docs, fallback, static_files
from .upgrade import handshake


def add(app: web.Application) -> None:
    """Give ``app`` all routes."""
    app[ticket_limit.TICKET_LIMIT] = ticket_limit.TicketLimit()
    app.router.add_get(handshake.PATH, handshake.connect)
    app.router.add_get("/health/live", health.live)
    app.router.add_get("/health/ready", health.ready)
    app.router.add_get("/metrics", metrics.metrics)
    app.router.add_post(tickets.PATH, tickets.post_ticket)
    app.router.add_options(tickets.PATH, tickets.preflight)
    routes.add(app)
    console.add(app)
    static_files.add(app)
    docs.add(app)
    plugin_routes.add(app)
    fallback.add(app)
