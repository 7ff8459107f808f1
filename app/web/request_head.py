"""Functions that read the head of a request: the bearer token, the client's address, the page's origin.

They take requests of aiohttp and those of ``upgrade.acceptor``.
"""

from __future__ import annotations

from typing import Protocol

from multidict import CIMultiDictProxy


class RequestHead(Protocol):
    """A request without its body, such as aiohttp's ``web.Request``."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The request's headers."""

    @property
    def host(self) -> str:
        """The host that the request was sent to: its ``Host`` header."""

    @property
    def remote(self) -> str | None:
        """The IP address that the request came from; empty or None on a Unix socket."""


def bearer_token(request: RequestHead) -> str | None:
    """Return the credentials of ``Authorization: Bearer`` (RFC 6750); None if the header is missing or of another kind.

    The scheme is case-insensitive (RFC 9110 section 11.1).
    """
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def remote_address(request: RequestHead, *, trust_proxy: bool) -> str:
    """Return the address of the client: the peer's, or the last one in X-Forwarded-For if the proxy is trusted.

    The proxy adds the last entry; the client may have sent the others. Most proxies append the entry to the client's
    header, HAProxy adds a second header.
    """
    forwarded = request.headers.getall("X-Forwarded-For", [""])[-1] if trust_proxy else ""
    if last := forwarded.rpartition(",")[2].strip()[:64]:
        return last
    return request.remote or "unix"


def is_allowed_origin(request: RequestHead, allowed: tuple[str, ...] = ()) -> bool:
    """Return True if the page that made ``request`` has an allowed origin, or if no page made it.

    ``allowed`` are origins in lower case, or ``*`` for all. If it is empty, only pages of the request's own host are
    allowed. Browsers send Origin with every WebSocket handshake (RFC 6455 section 10.2) and with every request that
    changes something; other programs send none. A reverse proxy has to pass on the Host header.
    """
    origin = request.headers.get("Origin")
    if origin is None or "*" in allowed:
        return True
    if allowed:
        return origin.lower() in allowed
    return origin.partition("://")[2].lower() == request.host.lower()
