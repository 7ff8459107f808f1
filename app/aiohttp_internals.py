"""The only module that depends on aiohttp's private names and undocumented behaviour.

Everything else uses aiohttp's public API. ``tests/unit/test_layout.py`` enforces this. ``tests/unit/web/upgrade`` fails
if an aiohttp release changes something that this module relies on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web, web_response
from aiohttp._websocket.helpers import websocket_mask
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11, RawRequestMessage
from multidict import CIMultiDictProxy

__all__ = [
    "MAX_EARLY_BYTES",
    "AiohttpUpgradeRequest",
    "has_received_request",
    "hide_versions",
    "parse_upgrade_request",
    "websocket_mask",
]

#: How many bytes may follow an upgrade request before it is answered. Then aiohttp stops reading.
MAX_EARLY_BYTES: Final = 2**18


def hide_versions() -> None:
    """Send ``Server: roomcast``. By default aiohttp sends its version and Python's in every response."""
    web_response.SERVER_SOFTWARE = "roomcast"  # type: ignore[attr-defined]  # there is no documented way


def has_received_request(handler: web.RequestHandler) -> bool:
    """Return True if a whole request has arrived on the connection of ``handler``."""
    return handler._request_count > 0


def parse_upgrade_request(protocol: asyncio.Protocol, head: bytes) -> RawRequestMessage | None:
    """Return the request in ``head``. Return None if that is not exactly one valid HTTP/1.1 upgrade without a body.

    aiohttp's parser attaches ``protocol`` to the body of each request. Its Python version fails without one.
    """
    parser = HttpRequestParser(protocol, None, MAX_EARLY_BYTES)  # type: ignore[arg-type]
    try:
        messages, upgraded, tail = parser.feed_data(head)
    except HttpProcessingError:
        return None
    if not upgraded or tail or len(messages) != 1:
        return None
    message: RawRequestMessage = messages[0][0]
    return message if message.version == HttpVersion11 else None


class AiohttpUpgradeRequest:
    """An upgrade request that aiohttp has read. Implements ``web.upgrade.handshake.UpgradeRequest``."""

    __slots__ = ("_request",)

    def __init__(self, request: web.Request) -> None:
        self._request: Final = request

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """See ``RequestHead``."""
        return self._request.headers

    @property
    def host(self) -> str:
        """See ``RequestHead``."""
        return self._request.host

    @property
    def remote(self) -> str | None:
        """See ``RequestHead``."""
        return self._request.remote

    @property
    def query(self) -> Mapping[str, str]:
        """See ``UpgradeRequest``."""
        return self._request.rel_url.query

    @property
    def upgrade(self) -> bool:
        """See ``UpgradeRequest``."""
        return self._request._message.upgrade

    @property
    def transport(self) -> asyncio.Transport | None:
        """See ``UpgradeRequest``."""
        return self._request.transport

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """Take the transport from aiohttp without closing it; return it with the bytes that followed the request.

        This calls ``connection_lost`` of aiohttp's protocol while the connection is open. It relies on three properties
        of the protocol: bytes after an upgrade request wait in ``_message_tail``, ``connection_lost`` closes only the
        protocol's ``transport``, and nothing else resumes a paused transport.
        """
        protocol: Any = self._request.protocol
        transport: asyncio.Transport = protocol.transport
        early: bytes = protocol._message_tail
        protocol._message_tail = b""
        protocol.transport = None
        protocol.connection_lost(None)
        return transport, early
