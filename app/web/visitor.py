"""What a handshake needs of whoever asks for it, be the request read by aiohttp or at the entrance."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web
from multidict import CIMultiDictProxy


class Head(Protocol):
    """What a request says of itself, and where it came from: an aiohttp request, for one."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Its headers."""

    @property
    def host(self) -> str:
        """The host that it was sent to, as in its ``Host``."""

    @property
    def remote(self) -> str | None:
        """The address that it came from; empty or None if it has none."""


class Visitor(Head, Protocol):
    """Whoever asks for a handshake: the request, and the transport to hand over."""

    @property
    def query(self) -> Mapping[str, str]:
        """The decoded query of its URL; of a name that is there twice, the first counts."""

    @property
    def upgrade(self) -> bool:
        """Whether its ``Connection`` and ``Upgrade`` ask for another protocol, by the parser's reading."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Its transport; None once it was lost, or given away."""

    def leave(self) -> tuple[asyncio.Transport, bytes]:
        """Give the transport away for good; return it with what came behind the head. Only while there is one."""


class Greeted:
    """A visitor whom aiohttp has greeted.

    To leave, this leans on three things of aiohttp's ``RequestHandler``: that bytes after an upgrade request wait in
    ``_message_tail``, that ``connection_lost`` closes only its own ``transport``, and that a paused transport is
    resumed by nobody else. ``tests/test_handshake.py`` fails if one of them changes.
    """

    __slots__ = ("_request",)

    def __init__(self, request: web.Request) -> None:
        self._request = request

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """See ``Head``."""
        return self._request.headers

    @property
    def host(self) -> str:
        """See ``Head``."""
        return self._request.host

    @property
    def remote(self) -> str | None:
        """See ``Head``."""
        return self._request.remote

    @property
    def query(self) -> Mapping[str, str]:
        """See ``Visitor``."""
        return self._request.rel_url.query

    @property
    def upgrade(self) -> bool:
        """See ``Visitor``."""
        return self._request._message.upgrade

    @property
    def transport(self) -> asyncio.Transport | None:
        """See ``Visitor``."""
        return self._request.transport

    def leave(self) -> tuple[asyncio.Transport, bytes]:
        """See ``Visitor``: aiohttp is told that the connection was lost, and forgets it without closing it."""
        protocol: Any = self._request.protocol
        transport: asyncio.Transport = protocol.transport
        early: bytes = protocol._message_tail
        protocol._message_tail = b""
        protocol.transport = None
        protocol.connection_lost(None)
        return transport, early
