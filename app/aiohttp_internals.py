"""The only module that depends on aiohttp's private names and undocumented behaviour.

Everything else uses aiohttp's public API. ``tests/unit/test_layout.py`` enforces this. ``tests/unit/web/upgrade`` fails
if an aiohttp release changes something that this module relies on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import web, web_protocol, web_response
from aiohttp._websocket.helpers import websocket_mask
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, InvalidHeader, InvalidURLError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

__all__ = [
    "MAX_EARLY_BYTES",
    "MAX_HEAD",
    "AiohttpUpgradeRequest",
    "ErrorResponses",
    "HttpConnection",
    "Malformation",
    "fail_body",
    "has_received_request",
    "head_size",
    "hide_versions",
    "http_connections",
    "http_transports",
    "parse_upgrade_request",
    "websocket_mask",
]

#: How many bytes may follow an upgrade request before it is answered. Then the transport stops reading.
MAX_EARLY_BYTES: Final = 16_384
#: The largest head of a request, in bytes. aiohttp limits only its parts: 128 headers of up to 8,190 bytes.
MAX_HEAD: Final = 32_768

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


class Malformation(NamedTuple):
    """Why the parser refuses a request: one of a few sentences, and the parser's words. Neither is from the client."""

    is_too_large: bool
    sentence: str
    reason: str = ""


#: By the class of the parser's error, subclasses first.
_MALFORMATIONS: Final[Mapping[type[Exception], Malformation]] = {
    LineTooLong: Malformation(True, "The URL or a header of the request is longer than 8190 bytes."),
    BadHttpMethod: Malformation(False, "The request does not begin with a method of HTTP/1.1."),
    BadStatusLine: Malformation(False, "The request line is malformed; it must be: METHOD PATH HTTP/1.1"),
    InvalidURLError: Malformation(False, "The URL in the request line is malformed."),
    InvalidHeader: Malformation(False, "A header of the request is malformed."),
}
_NOT_HTTP: Final = Malformation(False, "The request is not well-formed HTTP/1.1.")
#: The reason in a message of the parser: the same few words for all clients. An excerpt of the request may follow.
_reason: Final = re.compile(r"([A-Za-z0-9 `'/-]{1,100})(?::\n|\.?$)").match
#: By the beginning of the parser's message.
_SPECIAL: Final[Mapping[str, Malformation]] = {
    "Received HTTPS traffic": Malformation(False, "This port serves plain HTTP, not TLS; use http:// and ws://."),
    "Pause on PRI": Malformation(False, "HTTP/2 is not supported; let the client or the proxy use HTTP/1.1."),
    "Missing 'Host'": Malformation(False, "The request has no Host header."),
    "Too many headers": Malformation(True, "The request has more than 128 headers."),
}
_HEAD_TOO_LARGE: Final = Malformation(True, f"The head of the request is larger than {MAX_HEAD} bytes.")


class _HeadTooLarge(HttpProcessingError):
    """The head of a request has more than ``MAX_HEAD`` bytes and has not ended."""


def _describe(error: HttpProcessingError) -> Malformation:
    if isinstance(error, _HeadTooLarge):
        return _HEAD_TOO_LARGE
    known = [text for start, text in _SPECIAL.items() if error.message.startswith(start)]
    known += [text for kind, text in _MALFORMATIONS.items() if isinstance(error, kind)]
    if known:
        return known[0]
    found = _reason(error.message)
    return _NOT_HTTP if found is None else _NOT_HTTP._replace(reason=found[1])


def head_size(request: web.BaseRequest) -> int:
    """Return the size of the URL and the headers of ``request``, in bytes, without separators."""
    return len(request._message.path) + sum(map(len, chain.from_iterable(request.raw_headers)))


def fail_body(request: web.BaseRequest, error: Exception) -> None:
    """Let each read of the body of ``request`` raise ``error``, unless all of the body has arrived."""
    if not request.content.is_eof():
        request.content.set_exception(error)


class ErrorResponses(Protocol):
    """Answers and logs what goes wrong on a connection."""

    def check(self, request: web.BaseRequest) -> web.Response | None:
        """Return the response that refuses ``request`` before its route is looked up, or None."""

    def refuse(self, request: web.BaseRequest, malformation: Malformation) -> web.Response:
        """Return the response to a request that could not be parsed: ``request`` has no path and no headers."""

    def fail(self, request: web.BaseRequest, error: BaseException | None) -> web.Response:
        """Return the response to a request whose handler raised ``error``, or a timeout if that is None."""

    def log_failure(self, error: BaseException | None) -> None:
        """Log an error that ended the connection."""

    async def send_and_close(self, request: web.BaseRequest, response: web.Response) -> None:
        """Send ``response`` and end the connection, so that the client receives the response."""

    async def wait_until_read(self, transport: asyncio.Transport, *, is_last: bool) -> None:
        """Wait until the client has read most of the response, or all of it if it is the last one."""


class HttpConnection(web.RequestHandler):
    """A connection that aiohttp handles, with a bound on the work that it causes in one iteration of the event loop.

    A read can bring 256 KB. In that many bytes a client can put 40,000 chunks of one byte, which take 16 ms to parse.
    """

    __slots__ = (
        "_app_handler",
        "_body",
        "_errors",
        "_head_bytes",
        "_is_scheduled",
        "_new_request",
        "_on_lost",
        "_unparsed",
        "may_be_unread",
    )

    #: How many bytes are parsed in one iteration of the event loop. That takes at most 1 ms.
    PARSE_AT_ONCE: Final = 16_384

    def __init__(
        self, manager: web.Server, errors: ErrorResponses, on_lost: Callable[[HttpConnection], None], **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._errors: Final = errors
        self._on_lost: Final = on_lost
        self._app_handler: Final = manager.request_handler
        self._request_handler = self._check_and_handle
        self._new_request: Final = manager.request_factory
        self._request_factory = self._new_relative_request
        self._read_bufsize = MAX_EARLY_BYTES  # the parser has its own copy, which limits bodies
        #: Bytes to parse in the next iterations. The transport is paused until they are parsed.
        self._unparsed = b""
        self._is_scheduled = False
        #: The body of the request that is handled.
        self._body: StreamReader = EMPTY_PAYLOAD
        #: The bytes of a head that has not ended.
        self._head_bytes = 0
        #: True if a response was sent since ``web.unread_responses`` has set this to False.
        self.may_be_unread = False

    @property
    def is_responding(self) -> bool:
        """True while a request is handled."""
        return self._request_in_progress

    def _new_relative_request(self, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        """Return the request, without a host in its URL. The header ``Host`` is used, but aiohttp would decode both.

        Decoding 8 KB of a name in Punycode takes 40 ms, and an exception would end the connection's task.
        """
        url = message.url
        if url.absolute:
            url = URL.build(path=url.raw_path, query_string=url.raw_query_string, encoded=True)
            message = message._replace(url=url)
        return self._new_request(message, *rest)

    async def _check_and_handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._body = request.content
        refusal = self._errors.check(request)
        return await self._app_handler(request) if refusal is None else await self._close_after(request, refusal)

    async def _close_after(self, request: web.BaseRequest, response: web.Response) -> web.Response:
        await self._errors.send_and_close(request, response)
        return response

    def _make_error_handler(self, err_info: Any) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Return the handler of a request that was not parsed."""
        return lambda request: self._close_after(request, self._errors.refuse(request, _describe(err_info.exc)))

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response to a request whose handler failed."""
        if isinstance(exc, ConnectionError) and exc.__cause__ is None:  # the client has hung up
            raise exc
        response = self._errors.fail(request, exc)
        if request.writer.output_size > 0:
            raise ConnectionAbortedError("the handler failed after its response had begun")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log an error that ended the connection."""
        self._errors.log_failure(options.get("exc_info"))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send ``resp``. With TLS, also wait for a client that reads slowly.

        The transport does not count the bytes that it has encrypted, so aiohttp considers the response sent. The
        connection would count as idle or be closed, and a few seconds later TLS discards what is unsent.
        """
        self.may_be_unread = True
        result = await super().finish_response(request, resp, start_time)
        if self.transport is not None and self.ssl_context is not None:
            await self._errors.wait_until_read(self.transport, is_last=not resp.keep_alive)
        return result

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report that this object no longer has a transport."""
        super().connection_lost(exc)
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Parse the beginning of ``data`` now, and the rest later. aiohttp passes ``b""`` to resume its parser."""
        if self._unparsed and data:  # the transport had read this before it was paused
            self._unparsed += data
            return
        self._parse(data[: self.PARSE_AT_ONCE])
        if rest := data[self.PARSE_AT_ONCE :]:
            self._unparsed = rest
            self._pause_transport_reading()
            self._schedule()

    def _parse(self, data: bytes) -> None:
        """Pass ``data`` to aiohttp's parser, unless it continues a head that is too large."""
        if self._head_bytes > MAX_HEAD:
            return
        count, is_body = self._request_count, self._is_reading_body()
        super().data_received(data)
        if is_body or self._upgraded or self._request_count != count:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD:
            self._add_error(_HeadTooLarge())

    def _is_reading_body(self) -> bool:
        body = self._messages[-1][1] if self._messages else self._body
        return not body.is_eof()

    def _add_error(self, error: HttpProcessingError) -> None:
        """Do what aiohttp does if its parser raises ``error``."""
        self._request_count += 1
        self._messages.append((web_protocol._ErrInfo(400, error, ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take_unparsed(self) -> bytes:
        """Return the bytes that wait to be parsed, and forget them."""
        rest, self._unparsed = self._unparsed, b""
        return rest

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._parse_rest)

    def _parse_rest(self) -> None:
        self._is_scheduled = False
        if self._reading_paused or self._buffer_paused:
            return  # until aiohttp resumes reading
        rest = self.take_unparsed()
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


def http_connections(
    server: web.Server, errors: ErrorResponses, on_lost: Callable[[HttpConnection], None]
) -> Callable[[], HttpConnection]:
    """Return the factory of the connections of ``server``. By itself, that creates aiohttp's ``RequestHandler``.

    ``on_lost`` is called with each connection that has lost its transport, or has passed it on.
    """
    return lambda: HttpConnection(server, errors, on_lost, loop=server._loop, **server._kwargs)


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
        if isinstance(protocol, HttpConnection):
            early += protocol.take_unparsed()
        protocol.transport = None
        protocol.connection_lost(None)
        return transport, early
