"""Which pages may connect: ``ALLOWED_ORIGINS``. A program sends no Origin header and is let through."""

from __future__ import annotations

from urllib.parse import urlsplit

from .request import RequestHead


def is_allowed(request: RequestHead, allowed: tuple[str, ...]) -> bool:
    """Whether the page that made ``request`` may; with nothing in ``allowed``, pages of the same host may.

    Browsers send Origin with every WebSocket handshake (RFC 6455 section 10.2). Behind a proxy the host is the one in
    the Host header, which the proxy has to pass on.
    """
    origin = request.headers.get("Origin")
    if origin is None or "*" in allowed:
        return True
    if allowed:
        return origin.lower() in allowed
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:  # no browser sends such a one
        return False
