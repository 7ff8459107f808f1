"""Every route, in one place."""

from __future__ import annotations

from aiohttp import web

from . import console, handshake, plugin_routes


def add(app: web.Application) -> None:
    """Give ``app`` all routes."""
    app.router.add_get(handshake.PATH, handshake.connect)
    console.add(app)
    plugin_routes.add(app)
