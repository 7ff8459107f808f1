"""The only module that depends on aiohttp's private names and undocumented behaviour.

Everything else uses aiohttp's public API. ``tests/unit/test_layout.py`` enforces this. ``tests/unit/web/upgrade`` fails
if an aiohttp release changes something that this module relies on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web, web_protocol, web_response
from aiohttp._websocket.helpers import websocket_mask
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11, RawRequestMessage
from multidict import CIMultiDictProxy

__all__ = [
    "MAX_EARLY_BYTES",
    "AiohttpUpgradeRequest",
    "HttpConnection",
    "has_received_request",
    "hide_versions",
    "http_connections",
    "http_transports",
    "parse_upgrade_request",
    "websocket_mask",
]

#: How many bytes may follow an upgrade request before it is answered. Then aiohttp stops reading.
MAX_EARLY_BYTES: Final = 2**18


# How many requests of one connection are parsed ahead while a response is sent. Browsers and proxies send the next
# request after the response.
web_protocol.MAX_MSG_QUEUE_SIZE = 4


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


class HttpConnection(web.RequestHandler):
    """A connection that aiohttp handles, with a bound on the work that it causes in one iteration of the event loop.

    A read can bring 256 KB. In that many bytes a client can put 40,000 chunks of one byte, which take 16 ms to parse.
    """

    __slots__ = ("_is_scheduled", "_on_lost", "_unparsed", "may_be_unread")

    #: How many bytes are parsed in one iteration of the event loop. That takes at most 1 ms.
    PARSE_AT_ONCE: Final = 16_384

    def __init__(self, manager: web.Server, on_lost: Callable[[HttpConnection], None], **options: Any) -> None:
        super().__init__(manager, **options)
        self._on_lost: Final = on_lost
        #: Bytes to parse in the next iterations. The transport is paused until they are parsed.
        self._unparsed = b""
        self._is_scheduled = False
        #: True if a response was sent since ``web.unread_responses`` has set this to False.
        self.may_be_unread = False

    @property
    def is_responding(self) -> bool:
        """True while a request is handled."""
        return self._request_in_progress

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send ``resp``."""
        self.may_be_unread = True
        return await super().finish_response(request, resp, start_time)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report that this object no longer has a transport."""
        super().connection_lost(exc)
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Parse the beginning of ``data`` now, and the rest later. aiohttp passes ``b""`` to resume its parser."""
        if self._unparsed and data:  # the transport had read this before it was paused
            self._unparsed += data
            return
        super().data_received(data[: self.PARSE_AT_ONCE])
        rest = data[self.PARSE_AT_ONCE :]
        if rest and self._upgraded:  # it is not parsed here, see ``AiohttpUpgradeRequest.detach_transport``
            super().data_received(rest)
        elif rest:
            self._unparsed = rest
            self._pause_transport_reading()
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._parse_rest)

    def _parse_rest(self) -> None:
        self._is_scheduled = False
        if self._reading_paused or self._buffer_paused:
            return  # until aiohttp resumes reading
        rest, self._unparsed = self._unparsed, b""
        transport = self.transport
        if transport is not None and transport.get_protocol() is self:
            self.data_received(rest)
            if not self._unparsed and not self._reading_paused and not self._buffer_paused:
                super()._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        """Parse what was read before, then read more."""
        if self._unparsed:
            self._schedule()
        else:
            super()._resume_transport_reading()


def http_transports(server: web.Server) -> list[tuple[HttpConnection, asyncio.Transport]]:
    """Return the connections of ``server`` with their transports, which aiohttp forgets when it closes them."""
    pairs: list[tuple[Any, asyncio.Transport]] = list(server._connections.items())
    return [(connection, transport) for connection, transport in pairs if connection._manager is not None]


def http_connections(server: web.Server, on_lost: Callable[[HttpConnection], None]) -> Callable[[], HttpConnection]:
    """Return the factory of the connections of ``server``. By itself, that creates aiohttp's ``RequestHandler``.

    ``on_lost`` is called with each connection that has lost its transport, or has given it away. In asyncio's debug
    mode, aiohttp would also send tracebacks to clients.
    """
    options = {**server._kwargs, "debug": False}
    return lambda: HttpConnection(server, on_lost, loop=server._loop, **options)


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
    def connection(self) -> web.RequestHandler:
        """See ``UpgradeRequest``."""
        return self._request.protocol

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
