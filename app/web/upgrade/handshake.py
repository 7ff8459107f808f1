"""The WebSocket handshake: whoever asks for it is examined, then the transport is given to a ``Connection``.

Most requests are read at the entrance, the others by aiohttp, which would keep the request, its headers, a parser, two
tasks and a queue for as long as the connection lives. None of it is needed after the 101, so whoever has read the
request gives the transport away, and forgets it without closing it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
from typing import Final, NamedTuple, NoReturn

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from ...auth.identity import Identity
from ...errors import (
    AUTHENTICATION_FAILED,
    INTERNAL_ERROR,
    SERVICE_RESTART,
    TOO_MANY_CONNECTIONS,
    AuthenticationFailed,
    Close,
    Unavailable,
)
from ...gateway.client import Client
from ...gateway.gateway import Gateway
from ...transport.connection import Connection
from ..api.ticket_limit import TICKET_LIMIT, TicketLimit
from ..app_keys import GATEWAY
from .origin import is_allowed
from .request import AiohttpUpgradeRequest, RequestHead, UpgradeRequest

log = logging.getLogger("roomcast.handshake")

PATH: Final = "/api/v1/ws/connect"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
#: The subprotocol whose second entry is the token: what a browser can send besides the URL.
BEARER: Final = "bearer"


class HandedOver(web.StreamResponse):
    """What the handler returns after the transport has gone: sending it fails, as to a lost client."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Refuse to be sent."""
        raise ConnectionResetError("the transport was handed over")


_HANDED_OVER: Final = HandedOver()


class Refusal(Connection):
    """A connection that was only opened to be told why it is closed."""

    __slots__ = ()

    def on_text(self, payload: bytearray) -> None:
        """Ignore what a client sends before it has read that it was refused."""


class Offer(NamedTuple):
    """What a client brought: its token or ticket, and the subprotocol to confirm, if it used that."""

    token: str | None
    ticket: str | None
    subprotocol: str | None


async def connect(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/v1/ws/connect`` where it was aiohttp that has read the request."""
    gateway, visitor = request.app[GATEWAY], AiohttpUpgradeRequest(request)
    try:
        accept = examine(visitor, gateway.settings.allowed_origins)
    except web.HTTPForbidden:
        log.warning("refused a page of another site: origin %r", request.headers.get("Origin", "")[:200])
        raise
    await let_in(gateway, request.app[TICKET_LIMIT], visitor, accept)
    return _HANDED_OVER


def examine(visitor: UpgradeRequest, origins: tuple[str, ...]) -> bytes:
    """Return the Sec-WebSocket-Accept for ``visitor``, or raise the ``web.HTTPException`` that says what is wrong.

    ``origins`` are the pages that may connect, as in ``is_allowed``.
    """
    if not is_allowed(visitor, origins):
        raise web.HTTPForbidden(text="This page's origin is not allowed; add it to ALLOWED_ORIGINS.\n")
    return _accept(visitor)


async def let_in(gateway: Gateway, outstanding: TicketLimit, visitor: UpgradeRequest, accept: bytes) -> None:
    """Answer 101 to ``visitor``, whose request was examined, then welcome or close; nothing if it went away."""
    offer = _offer(visitor)
    outcome = await _admit(gateway, outstanding, visitor, offer)
    if isinstance(outcome, Close):
        _refuse(visitor, gateway, accept, offer, outcome)
    elif visitor.transport is None:  # it went away meanwhile
        await _release(gateway, outcome)
    else:
        _hand_over(visitor, accept, offer, outcome)


async def _admit(gateway: Gateway, outstanding: TicketLimit, visitor: UpgradeRequest, offer: Offer) -> Client | Close:
    """Return a client for ``visitor``, or why there is none; the log has more."""
    remote = remote_address(visitor, trust_proxy=gateway.settings.trust_proxy)
    try:
        identity = await identify(gateway, offer)
        if offer.ticket is not None:
            outstanding.remove(identity.user_id, offer.ticket)
        client = await gateway.sessions.admit(identity, remote, visitor.query.get("since"))
    except AuthenticationFailed as failed:
        log.info("refused a connection from %s: %s", remote, failed)
        return AUTHENTICATION_FAILED
    except Unavailable as error:
        log.warning("refused a connection from %s: %s", remote, error)
        return INTERNAL_ERROR
    except Exception:
        log.exception("a handshake from %s failed", remote)
        return INTERNAL_ERROR
    if client is None:
        log.info("refused a connection of user %s from %s: too many connections", identity.user_id, remote)
        return TOO_MANY_CONNECTIONS
    if gateway.is_draining:  # whoever comes now would not be among those that are told to come back
        await _release(gateway, client)
        return SERVICE_RESTART
    return client


async def _release(gateway: Gateway, client: Client) -> None:
    """Give back what ``client`` had; a broker that is away will find out by itself, when the lease ends."""
    try:
        await gateway.sessions.release(client)
    except Unavailable as error:
        log.warning("a connection that did not come about is given back late: %s", error)


def _accept(visitor: UpgradeRequest) -> bytes:
    """Return Sec-WebSocket-Accept (RFC 6455 section 4.2.2), or raise what answers a request that is no handshake."""
    headers = visitor.headers
    if headers.get("Upgrade", "").lower() != "websocket" or not visitor.upgrade:
        _no_handshake(426, "Connect with a WebSocket client, such as wscat.", Upgrade="websocket", Connection="Upgrade")
    if headers.get("Sec-WebSocket-Version") != "13":
        _no_handshake(426, "Only version 13 of WebSocket is spoken here.", Sec_WebSocket_Version="13")
    key = headers.get("Sec-WebSocket-Key", "")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    if not valid:
        _no_handshake(400, "Sec-WebSocket-Key must be 16 bytes in base64.")
    # SHA-1 is what the RFC prescribes, and guards nothing.
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())


def _no_handshake(status: int, text: str, **headers: str) -> NoReturn:
    error: type[web.HTTPException] = web.HTTPUpgradeRequired if status == 426 else web.HTTPBadRequest
    raise error(text=f"{text}\n", headers={name.replace("_", "-"): value for name, value in headers.items()})


def _offer(visitor: UpgradeRequest) -> Offer:
    """Find the token: in the URL, in an Authorization header, or in the subprotocol pair ``bearer, <token>``."""
    query = visitor.query
    token, ticket, subprotocol = query.get("token"), query.get("ticket"), None
    if token is None and ticket is None:
        scheme, _, credentials = visitor.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = credentials.strip()
    protocols = [one.strip() for one in visitor.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if protocols[0] == BEARER and len(protocols) == 2:
        subprotocol = BEARER
        if token is None and ticket is None:
            token = protocols[1]
    return Offer(token, ticket, subprotocol)


async def identify(gateway: Gateway, offer: Offer) -> Identity:
    """Return who brought ``offer``; raise ``AuthenticationFailed``."""
    token = offer.token
    if offer.ticket is not None:
        kept = await gateway.broker.take(f"ticket/{offer.ticket[:128]}")
        if kept is None:
            raise AuthenticationFailed("the ticket is unknown, used or too old")
        token = json.loads(kept)
    if not token:
        raise AuthenticationFailed("no token was given")
    return gateway.authenticator.verify(token)


def remote_address(request: RequestHead, *, trust_proxy: bool) -> str:
    """Return where the client connects from; behind a trusted proxy, what that one says (the last X-Forwarded-For).

    A proxy adds its entry to the client's own, which may say anything, or in a line of its own behind it, as HAProxy.
    """
    forwarded = request.headers.getall("X-Forwarded-For", [""])[-1] if trust_proxy else ""
    if last := forwarded.rpartition(",")[2].strip()[:64]:
        return last
    return request.remote or "unix"


def _refuse(visitor: UpgradeRequest, gateway: Gateway, accept: bytes, offer: Offer, close: Close) -> None:
    """Complete the upgrade, then close with the reason: a browser shows a refused upgrade only as 1006."""
    gateway.counters.count_end(close)
    if visitor.transport is not None:
        refusal = Refusal(gateway.delivery, gateway.keepalive)
        _hand_over(visitor, accept, offer, refusal)
        refusal.close(close)


def _hand_over(visitor: UpgradeRequest, accept: bytes, offer: Offer, connection: Connection) -> None:
    """Answer 101 and give the transport to ``connection``, with what the client has sent early."""
    subprotocol = b"" if offer.subprotocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % offer.subprotocol.encode()
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, subprotocol)
    )
    transport, early = visitor.leave()
    if not transport.is_reading():
        transport.resume_reading()
    connection.take_over(transport, answer, early)
