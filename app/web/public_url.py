"""The server's address as its clients see it.

A proxy may serve roomcast below a path, such as ``https://example.com/rt/``, which it removes from requests. Pages link
with ``root_of``, which is right without a setting. Documents need the whole address, so ``PUBLIC_URL`` states it.
"""

from __future__ import annotations

from aiohttp import web

from .app_state import GATEWAY
from .client_address import is_https


def public_url(request: web.Request) -> str:
    """Return the server's URL without a slash at its end: PUBLIC_URL, or the address that the client used."""
    settings = request.app[GATEWAY].settings
    if settings.public_url is not None:
        return settings.public_url
    scheme = "https" if is_https(request, trust_proxy=settings.trust_proxy) else "http"
    return f"{scheme}://{request.host}"


def root_of(request: web.BaseRequest) -> str:
    """Return the relative URL of the server's root, as a page at the path of ``request`` links to it."""
    return "../" * (request.rel_url.raw_path.count("/") - 1) or "./"
