"""The WebSocket handshake: check the request, authenticate the user, answer 101 and give the socket to a connection.

``acceptor`` parses most requests, aiohttp the others. aiohttp would keep the request, its headers, a parser, two tasks
and a queue until the connection ends. None of them is needed after the 101, so the transport is detached from its
request.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from ...aiohttp_internals import AiohttpUpgradeRequest
from ...auth.identity import Identity
from ...errors import (
    AUTHENTICATION_FAILED,
    INTERNAL_ERROR,
    NODE_FULL,
    SERVICE_RESTART,
    TOO_MANY_CONNECTIONS,
    AuthenticationFailed,
    Close,
    Unavailable,
)
from ...gateway.client import Client
from ...gateway.gateway import Gateway
from ...transport.connection import Connection
from ...transport.keepalive import Keepalive
from ...transport.write_scheduler import WriteScheduler
from ..api.ticket_limit import TICKET_LIMIT
from ..app_state import GATEWAY
from ..client_address import client_address
from ..connection_limit import CONNECTION_LIMIT
from ..failure_logs import FAILURE_LOGS
from ..json_errors import Failure, in_json
from ..origins import ORIGINS, AllowedOrigins
from ..request_head import RequestHead, bearer_token
from .pending_handshakes import PENDING_HANDSHAKES

log = logging.getLogger("roomcast.handshake")

PATH: Final = "/api/v1/ws/connect"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
#: The subprotocol that is followed by the token. Besides the URL, a browser can send a token only in this way.
BEARER: Final = "bearer"
#: How many subprotocols are read. A client could send 32,000 commas.
_MAX_OFFERED: Final = 100


class UpgradeRequest(RequestHead, Protocol):
    """A request for a WebSocket, and the transport that it came on."""

    @property
    def connection(self) -> object:
        """The protocol object of the connection, which ``ConnectionLimit`` counts."""

    @property
    def query(self) -> Mapping[str, str]:
        """The decoded query of the URL. The first of several parameters with the same name counts."""

    @property
    def upgrade(self) -> bool:
        """True if the parser found that ``Connection`` and ``Upgrade`` ask for another protocol."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport; None after it was lost or detached."""

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """Give up the transport; return it with the bytes that followed the request. Requires a transport."""


class DetachedResponse(web.StreamResponse):
    """The response to a request whose transport was detached. aiohttp handles it like one to a lost client."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Refuse to be sent."""
        raise ConnectionResetError("the transport was detached")


_DETACHED: Final = DetachedResponse()


class RefusedConnection(Connection):
    """A connection that is opened and closed at once, so that the client receives the reason, ``refusal``."""

    __slots__ = ("_refusal",)

    def __init__(self, scheduler: WriteScheduler, keepalive: Keepalive, refusal: Close) -> None:
        super().__init__(scheduler, keepalive)
        self._refusal: Final = refusal

    def on_open(self) -> None:
        """Close before anything that the client sent is read."""
        self.close(self._refusal)


class Credentials(NamedTuple):
    """A client's token or ticket, and the subprotocol to select: ``bearer`` as the client wrote it, or None."""

    token: str | None
    ticket: str | None
    subprotocol: str | None


@in_json
async def connect(request: web.Request) -> web.StreamResponse:
    """Handle a ``GET /api/v1/ws/connect`` that aiohttp has parsed."""
    app, upgrade = request.app, AiohttpUpgradeRequest(request)
    try:
        accept = check_request(upgrade, app[ORIGINS])
    except Failure as failure:
        if failure.code == "bad_origin":
            app[FAILURE_LOGS].add_origin("a page", request.headers.get("Origin", ""))
        else:
            remote = client_address(upgrade, trust_proxy=app[GATEWAY].settings.trust_proxy)
            app[FAILURE_LOGS].add_refusal(str(failure), f"refused a handshake from {remote}: {failure}")
        raise
    task, handshakes = asyncio.current_task(), app[PENDING_HANDSHAKES]
    assert task is not None
    handshakes.add(task, upgrade, time.monotonic())
    try:
        await admit(app, upgrade, accept)
    finally:
        handshakes.remove(task)
    return _DETACHED


def check_request(request: UpgradeRequest, origins: AllowedOrigins) -> bytes:
    """Return the value of Sec-WebSocket-Accept for ``request`` (RFC 6455 section 4.2.2).

    Raises the ``Failure`` that answers a request from another origin or one that is not a handshake.
    """
    if not origins.allow(request):
        raise Failure("bad_origin", "This page's origin is not allowed; add it to ALLOWED_ORIGINS.")
    headers = request.headers
    if headers.get("Upgrade", "").lower() != "websocket" or not request.upgrade:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
        raise Failure("upgrade_required", "Connect with a WebSocket client, such as wscat.", headers=upgrade)
    if headers.get("Sec-WebSocket-Version") != "13":
        version = {"Sec-WebSocket-Version": "13"}
        raise Failure("upgrade_required", "Only version 13 of WebSocket is supported.", headers=version)
    key = headers.get("Sec-WebSocket-Key", "")
    try:
        is_valid = len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except (binascii.Error, ValueError):
        is_valid = False
    if not is_valid:
        raise Failure("bad_handshake", "Sec-WebSocket-Key must be 16 bytes in base64.")
    # The RFC prescribes SHA-1. Nothing depends on its strength.
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False)


async def admit(app: web.Application, request: UpgradeRequest, accept: bytes) -> None:
    """Answer 101 to a request that was checked, then open the client's session or close with the reason.

    Does nothing if the client has disconnected meanwhile.
    """
    gateway, credentials = app[GATEWAY], _read_credentials(request)
    outcome = await _open_session(app, request, credentials)
    if isinstance(outcome, Close):
        _refuse(request, gateway, accept, credentials, outcome)
    elif request.transport is None:  # the client has disconnected meanwhile
        await _release(gateway, outcome)
    else:
        _upgrade(request, accept, credentials, outcome)


def _read_credentials(request: UpgradeRequest) -> Credentials:
    """Find the token: in the URL, in an Authorization header, or in the subprotocol pair ``bearer, <token>``."""
    query = request.query
    token, ticket, subprotocol = query.get("token"), query.get("ticket"), None
    if token is None and ticket is None:
        token = bearer_token(request)
    if offered := request.headers.getall("Sec-WebSocket-Protocol", ()):
        subprotocol, following = _find_bearer(offered)
        if token is None and ticket is None:
            token = following
    return Credentials(token, ticket, subprotocol)


def _find_bearer(lines: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the subprotocol ``bearer`` as the client wrote it, and the one that follows it, which is the token.

    ``lines`` are the values of Sec-WebSocket-Protocol. The header may be sent several times, with one list in all (RFC
    6455 section 11.3.4). A library may offer other subprotocols before or after the pair, and write ``Bearer``.
    """
    parts = ",".join(lines).split(",", _MAX_OFFERED)[:_MAX_OFFERED]
    offered = [name for part in parts if (name := part.strip())]
    for index, name in enumerate(offered):
        if name.lower() == BEARER:
            return name, offered[index + 1] if index + 1 < len(offered) else None
    return None, None


async def _open_session(app: web.Application, request: UpgradeRequest, credentials: Credentials) -> Client | Close:
    """Return the client for ``request``, or the close frame that refuses it. The log has more detail on a refusal."""
    gateway, limit = app[GATEWAY], app[CONNECTION_LIMIT]
    if limit.is_full:  # before a ticket is used, so that the client can connect to another node with it
        limit.count_refusal()
        return NODE_FULL
    remote = client_address(request, trust_proxy=gateway.settings.trust_proxy)
    limit.identify(request.connection, remote)
    try:
        identity = await _authenticate(gateway, credentials)
        limit.verify(request.connection, identity.user_id)
        if credentials.ticket is not None:
            app[TICKET_LIMIT].remove(identity.user_id, credentials.ticket)
        client = await gateway.sessions.admit(identity, remote, request.query.get("since"))
    except AuthenticationFailed as failed:
        app[FAILURE_LOGS].add_denial("a connection", f"refused a connection from {remote}: {failed}")
        return AUTHENTICATION_FAILED
    except Unavailable as error:
        app[FAILURE_LOGS].add_unavailable("a connection", f"refused a connection from {remote}: {error.detail}")
        return INTERNAL_ERROR
    except asyncio.CancelledError:
        if request.transport is None or request.transport.is_closing():  # the client has left, or the server stops
            raise
        text = f"refused a connection from {remote}: the broker took longer than HANDSHAKE_TIMEOUT"
        app[FAILURE_LOGS].add_unavailable("a slow connection", text)
        return INTERNAL_ERROR
    except Exception as error:
        app[FAILURE_LOGS].add_exception("a handshake failed", error)
        return INTERNAL_ERROR
    if client is None:
        text = f"refused a connection of user {identity.user_id} from {remote}: too many connections"
        app[FAILURE_LOGS].add_denial("too many connections", text)
        return TOO_MANY_CONNECTIONS
    if gateway.is_draining:  # the drain has already listed the connections to close
        await _release(gateway, client)
        return SERVICE_RESTART
    if limit.is_full:  # others were admitted while this one waited for the broker
        limit.count_refusal()
        await _release(gateway, client)
        return NODE_FULL
    return client


async def _authenticate(gateway: Gateway, credentials: Credentials) -> Identity:
    """Return the user of ``credentials``; raise ``AuthenticationFailed``. A ticket cannot be used again afterwards."""
    token = credentials.token
    if credentials.ticket is not None:
        stored = await gateway.broker.take(f"ticket/{credentials.ticket[:128]}")
        if stored is None:
            raise AuthenticationFailed("the ticket is unknown, used or too old")
        token = json.loads(stored)
    if not token:
        raise AuthenticationFailed("no token was given")
    return gateway.authenticator.verify(token)


async def _release(gateway: Gateway, client: Client) -> None:
    """Release the connection slot of a client that was not connected. If the broker fails, its lease expires."""
    try:
        await gateway.sessions.release(client)
    except Unavailable as error:
        log.warning(
            "the slot of a connection that was not opened stays taken until its lease expires: %s", error.detail
        )


def _refuse(request: UpgradeRequest, gateway: Gateway, accept: bytes, credentials: Credentials, close: Close) -> None:
    """Complete the upgrade, then close with the reason. Browsers report a refused upgrade only as 1006."""
    gateway.counters.count_end(close)
    if request.transport is not None:
        _upgrade(request, accept, credentials, RefusedConnection(gateway.delivery, gateway.keepalive, close))


def _upgrade(request: UpgradeRequest, accept: bytes, credentials: Credentials, connection: Connection) -> None:
    """Answer 101 and give the transport to ``connection``, with the bytes that followed the request."""
    subprotocol = (
        b"" if credentials.subprotocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % credentials.subprotocol.encode()
    )
    response = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, subprotocol)
    )
    transport, early = request.detach_transport()
    if not transport.is_reading():
        transport.resume_reading()
    connection.take_over(transport, response, early)
