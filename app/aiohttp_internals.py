"""The only module that depends on aiohttp's private names and undocumented behaviour.

Everything else uses aiohttp's public API. ``tests/unit/test_layout.py`` enforces this. ``tests/unit/web/upgrade`` fails
if an aiohttp release changes something that this module relies on.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web, web_response
from aiohttp._websocket.helpers import websocket_mask
from aiohttp.web_protocol import RequestHandler

__all__ = ["detach_transport", "has_received_request", "hide_versions", "wants_upgrade", "websocket_mask"]


def hide_versions() -> None:
    """Send ``Server: roomcast``. By default aiohttp sends its version and Python's in every response."""
    web_response.SERVER_SOFTWARE = "roomcast"  # type: ignore[attr-defined]  # there is no documented way


def has_received_request(handler: RequestHandler) -> bool:
    """Return True if a whole request has arrived on the connection of ``handler``."""
    return handler._request_count > 0


def wants_upgrade(request: web.Request) -> bool:
    """Return True if the headers ``Connection`` and ``Upgrade`` ask for another protocol, as the parser reads them."""
    return request._message.upgrade


def detach_transport(request: web.Request) -> tuple[asyncio.Transport, bytes]:
    """Take the transport from aiohttp without closing it; return it with the bytes that followed the request's head.

    aiohttp is made to believe that the connection was lost. This relies on three properties of ``RequestHandler``:
    bytes after an upgrade request wait in ``_message_tail``, ``connection_lost`` closes only its own ``transport``, and
    nothing else resumes a paused transport.
    """
    protocol: Any = request.protocol
    transport: asyncio.Transport = protocol.transport
    early: bytes = protocol._message_tail
    protocol._message_tail = b""
    protocol.transport = None
    protocol.connection_lost(None)
    return transport, early
