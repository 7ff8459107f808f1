"""Refuses bodies that are expensive to decode or arrive slowly, and bounds the part of a body that nothing reads.

A body that inflates a thousand times keeps the event loop busy for seconds, so the server accepts none. Requests to the
server are small; compressing them would save nothing.

Most responses to wrong requests are sent without reading the body. The rest of it is received without being parsed,
because parsing it could cost more than the request: a body can consist of chunks of one byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from aiohttp import web

from ..aiohttp_internals import fail_body
from .app_state import GATEWAY
from .json_errors import Failure, Handler

#: The limits of a body that is discarded, in seconds and bytes.
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 4 * 1024 * 1024
#: The largest Content-Type, in bytes. aiohttp parses 8,000 in 2 ms.
MAX_CONTENT_TYPE: Final = 512
#: The charsets of bodies. Python has others, such as ``punycode``, whose time is quadratic in the size of the body.
CHARSETS: Final = ("utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252")


@web.middleware
async def limit_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle ``request`` unless its body is encoded. Close the connection if its body is not read completely.

    A body that has not arrived within HANDSHAKE_TIMEOUT cannot be read any more: reading it raises a ``Failure``.
    """
    refusal = _refusal(request)
    timer = None if request.content.is_eof() else _start_timer(request)
    try:
        response = await handler(request) if refusal is None else refusal.response_to(request)
    except web.HTTPException as error:
        if not request.content.is_eof():
            await send_and_close(request, error)
        raise
    except Failure as failure:
        response = failure.response_to(request)
    finally:
        if timer is not None:
            timer.cancel()
    if refusal is not None:
        response.force_close()
    if not request.content.is_eof():
        await send_and_close(request, response)
    return response


def _start_timer(request: web.Request) -> asyncio.TimerHandle:
    """Let the body of ``request`` fail when its time is over."""
    seconds = request.app[GATEWAY].settings.handshake_timeout
    failure = Failure("body_too_slow", f"The body did not arrive within {seconds:g} s.", closes=True)
    return asyncio.get_running_loop().call_later(seconds, fail_body, request, failure)


def _refusal(request: web.Request) -> Failure | None:
    """Return the response to a request with a body that is not accepted (RFC 9110 section 15.5.16), or None."""
    headers = request.headers
    if "Content-Encoding" in headers:
        sentence = "Bodies with a Content-Encoding are not accepted; send the body uncompressed, without that header."
        return Failure("body_encoded", sentence, headers={"Accept-Encoding": "identity"})
    content_type = headers.get("Content-Type", "")
    if len(content_type) > MAX_CONTENT_TYPE:
        return Failure("bad_content_type", f"The Content-Type is longer than {MAX_CONTENT_TYPE} bytes.")
    if "charset" in content_type.lower() and (request.charset or "").lower() not in CHARSETS:
        return Failure("bad_content_type", f"The charset of the body must be one of {', '.join(CHARSETS)}.")
    return None


async def send_and_close(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Send ``response``, discard what still arrives of the request until the client hangs up, and close.

    If a socket is closed with unread bytes, the kernel sends a reset, and the client can lose the response.
    """
    transport = request.transport
    if transport is None:  # the client has hung up, or a handshake has taken the transport
        return
    response.force_close()
    await response.prepare(request)
    await response.write_eof()
    discard = _Discard(transport)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await discard.ended
    finally:
        request.protocol.force_close()


class _Discard(asyncio.BufferedProtocol):
    """Receives and discards the bytes of a transport. The other calls go on to the transport's protocol."""

    #: What was read last, for all connections. It is small, because uvloop reads up to 32 times in one loop iteration.
    _buffer: Final = bytearray(16_384)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._protocol: Final[Any] = transport.get_protocol()
        self._bytes_left = LINGER_BYTES
        #: Done when the client has hung up, or has sent too much.
        self.ended: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        transport.set_protocol(self)
        with contextlib.suppress(RuntimeError, OSError):  # it is closing already, or the client has left
            transport.resume_reading()
            if transport.can_write_eof():
                transport.write_eof()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count what was read."""
        self._bytes_left -= nbytes
        if self._bytes_left < 0:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell aiohttp as well."""
        self._end()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell aiohttp as well."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell aiohttp as well."""
        self._protocol.resume_writing()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
