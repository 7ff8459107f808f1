"""Every route, in one place."""

from __future__ import annotations

from aiohttp import web

from . import (
    api,
    console,
    documents,
    elsewhere,
    handshake,
    health,
    metrics,
    outstanding,
    plugin_routes,
    static,
    tickets,
)


def add(app: web.Application) -> None:
    """Give ``app`` all routes."""
    app[outstanding.OUTSTANDING] = outstanding.Outstanding()
    app.router.add_get(handshake.PATH, handshake.connect)
    app.router.add_get("/health/live", health.live)
    app.router.add_get("/health/ready", health.ready)
    app.router.add_get("/metrics", metrics.metrics)
    app.router.add_post(tickets.PATH, tickets.post_ticket)
    app.router.add_options(tickets.PATH, tickets.preflight)
    api.add(app)
    console.add(app)
    static.add(app)
    documents.add(app)
    plugin_routes.add(app)
    elsewhere.add(app)
