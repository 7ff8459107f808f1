"""What a handshake needs of whoever asks for it, be the request read by aiohttp or at the entrance."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from aiohttp import web
from multidict import CIMultiDictProxy

from ...aiohttp_internals import detach_transport, wants_upgrade


class RequestHead(Protocol):
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


class UpgradeRequest(RequestHead, Protocol):
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


class AiohttpUpgradeRequest:
    """An upgrade request that aiohttp has read."""

    __slots__ = ("_request",)

    def __init__(self, request: web.Request) -> None:
        self._request = request

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
        return wants_upgrade(self._request)

    @property
    def transport(self) -> asyncio.Transport | None:
        """See ``UpgradeRequest``."""
        return self._request.transport

    def leave(self) -> tuple[asyncio.Transport, bytes]:
        """See ``UpgradeRequest``."""
        return detach_transport(self._request)
