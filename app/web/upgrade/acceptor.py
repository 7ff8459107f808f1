"""Where every connection comes in: a plain handshake is answered here, all else is passed on to aiohttp.

What aiohttp sets up for a request, it sets up for nothing where a WebSocket begins: its handler, two tasks, a timer,
the request object, the router. That is 100 us of the 350 that a connection costs with its first join (measured on
uvloop 0.23, Python 3.11).

Only the common case is taken: the whole head of a handshake, in one piece, that can be answered 101, read by aiohttp's
own parser. Whatever is otherwise in any way, aiohttp gets with the very same bytes, as if it had accepted it: other
paths, heads in pieces, requests with a body, and all that is to be answered with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDictProxy

from ...aiohttp_internals import has_received_request
from ..api.ticket_limit import TICKET_LIMIT
from ..app_keys import GATEWAY
from . import handshake

log = logging.getLogger("roomcast")

_REQUEST: Final = b"GET " + handshake.PATH.encode()
_HEAD_ENDS: Final = b"\r\n\r\n"
#: So many bytes may come behind a head while its handshake waits for the broker; then the socket is not read. aiohttp's
#: own limit.
_MOST_EARLY: Final = 2**18
#: How long the end of the server waits for handshakes that are under way, in seconds, and once more for them to be
#: cut off.
_FAREWELL: Final = 1.0


class NotForUpgrade(Exception):
    """The request is one that aiohttp shall answer."""


class PendingConnection(asyncio.Protocol):
    """One connection until its request is there. If that is a plain handshake, this is its ``Visitor``."""

    __slots__ = ("_early", "_entrance", "headers", "host", "query", "transport", "upgrade")

    def __init__(self, entrance: Acceptor) -> None:
        self._entrance = entrance
        #: What came behind the head; None as long as there is none.
        self._early: bytes | None = None
        self.transport: asyncio.Transport | None = None

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request."""
        self.transport = transport  # type: ignore[assignment]
        self._entrance.expect(self)

    def data_received(self, data: bytes) -> None:
        """Begin the handshake, or keep what comes while it waits for the broker."""
        if self._early is None:
            self._entrance.receive(self, data)
            return
        self._early += data
        if len(self._early) >= _MOST_EARLY and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport; a handshake that is under way sees that it has none."""
        self.transport = None
        self._entrance.forget(self)

    # What the handshake asks.

    def read(self, data: bytes) -> None:
        """Read the request; raise ``Passed`` or the parser's ``HttpProcessingError`` if it is not for here."""
        end = data.find(_HEAD_ENDS) + len(_HEAD_ENDS)
        if end < len(_HEAD_ENDS) or not data.startswith(_REQUEST):
            raise NotForUpgrade
        # Protocol and loop are for bodies, but aiohttp's parser in Python asks for a protocol without one, too.
        parser = HttpRequestParser(self, None, _MOST_EARLY)  # type: ignore[arg-type]
        messages, upgraded, tail = parser.feed_data(data[:end])
        if not upgraded or tail or len(messages) != 1:
            raise NotForUpgrade
        message = messages[0][0]
        if message.version != HttpVersion11 or message.path.partition("?")[0] != handshake.PATH:
            raise NotForUpgrade
        if "Expect" in message.headers:
            raise NotForUpgrade
        self.headers: CIMultiDictProxy[str] = message.headers
        self.host: str = message.headers["Host"]  # without which the parser lets no request of HTTP/1.1 through
        self.query: Mapping[str, str] = message.url.query
        self.upgrade: bool = message.upgrade
        self._early = data[end:]

    @property
    def remote(self) -> str | None:
        """See ``Head``."""
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return None if peer is None else str(peer[0] if isinstance(peer, tuple | list) else peer)

    def leave(self) -> tuple[asyncio.Transport, bytes]:
        """See ``Visitor``."""
        transport, self.transport = self.transport, None
        assert transport is not None
        return transport, self._early or b""


class Acceptor:
    """The protocol factory of the listeners: ``app`` has the gateway, and ``http`` is aiohttp's server of it."""

    def __init__(self, app: web.Application, http: web.Server) -> None:
        self._gateway: Final = app[GATEWAY]
        self._outstanding: Final = app[TICKET_LIMIT]
        self._http: Final = http
        #: Who has sent nothing yet, and since when; the oldest come first.
        self._silent: Final[dict[PendingConnection, float]] = {}
        #: Since when each connection is with aiohttp that has not sent a whole request.
        self._halves: dict[RequestHandler, float] = {}
        #: The handshakes that wait for the broker.
        self._greeting: Final[dict[asyncio.Task[None], PendingConnection]] = {}
        self._closed = False

    def __call__(self) -> PendingConnection:
        """Return the protocol of a new connection."""
        return PendingConnection(self)

    def expect(self, front: PendingConnection) -> None:
        """Wait for the request of ``front``, which has just connected."""
        if self._closed and front.transport is not None:
            front.transport.close()
        self._silent[front] = time.monotonic()

    def forget(self, front: PendingConnection) -> None:
        """``front`` has lost its connection."""
        self._silent.pop(front, None)

    def receive(self, front: PendingConnection, data: bytes) -> None:
        """Take the first ``data`` of ``front``: shake hands, or pass the connection on."""
        since = self._silent.pop(front, None)
        if since is None:  # it was dropped
            return
        accept: bytes | None = None
        with contextlib.suppress(NotForUpgrade, HttpProcessingError, web.HTTPException):
            front.read(data)
            accept = handshake.examine(front, self._gateway.settings.allowed_origins)
        if accept is None:  # passed on here, not where the error was caught: aiohttp's log would tell of that one, too
            self._pass_on(front, data, since)
            return
        rest = self._gateway.tasks.start(self._greet(front, accept))
        if rest is not None:
            self._greeting[rest] = front
            rest.add_done_callback(self._greeting.pop)

    def _pass_on(self, front: PendingConnection, data: bytes, since: float) -> None:
        """Let aiohttp have the connection, which began at ``since``, as if it had been the first to read ``data``."""
        transport, _ = front.leave()
        handler = self._http()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)
        if not has_received_request(handler):
            self._halves[handler] = since

    async def _greet(self, front: PendingConnection, accept: bytes) -> None:
        try:
            await handshake.let_in(self._gateway, self._outstanding, front, accept)
        except Exception:
            log.exception("a handshake failed")
        finally:
            if front.transport is not None:  # it was neither let in nor refused
                front.transport.close()

    async def watch(self) -> None:
        """Close who has not sent a whole request after ``HANDSHAKE_TIMEOUT``; aiohttp has no such limit."""
        timeout = self._gateway.settings.handshake_timeout
        while True:
            await asyncio.sleep(min(1.0, timeout / 4))
            now = time.monotonic()
            seen, self._halves = self._halves, {}
            for handler in self._http.connections:
                if not has_received_request(handler):
                    since = self._halves[handler] = seen.get(handler, now)
                    if now - since >= timeout:
                        log.info("dropped a connection that sent no whole request in %g s", timeout)
                        handler.force_close()
            for front, since in list(self._silent.items()):
                if now - since < timeout:
                    break
                log.info("dropped a connection that sent no whole request in %g s", timeout)
                self._drop(front)

    def _drop(self, front: PendingConnection) -> None:
        """Close a connection that was not let in; what it still sends is not read."""
        self._silent.pop(front, None)
        if front.transport is not None:
            front.transport.close()

    async def close(self) -> None:
        """Drop who has sent nothing, and wait a moment for the handshakes that are under way."""
        self._closed = True
        for front in list(self._silent):
            self._drop(front)
        if self._greeting:
            _, late = await asyncio.wait(self._greeting, timeout=_FAREWELL)
            for task in late:
                self._drop(self._greeting[task])
                task.cancel()
            if late:  # what they had is given back, unless the broker does not answer to that either
                await asyncio.wait(late, timeout=_FAREWELL)
