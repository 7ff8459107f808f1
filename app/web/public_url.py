"""The server's address as its clients see it.

A proxy may serve roomcast below a path, such as ``https://example.com/rt/``, which it removes from requests. Pages link
with ``root_of``, which is right without a setting. Documents need the whole address, so ``PUBLIC_URL`` states it.
"""

from __future__ import annotations

from aiohttp import web

from .app_state import GATEWAY, PART, Part
from .client_address import is_https


def public_url(request: web.Request) -> str:
    """Return the server's URL without a slash at its end: PUBLIC_URL, or the address that the client used."""
    return request.app[GATEWAY].settings.public_url or requested_url(request)


def api_url(request: web.Request) -> str:
    """Return the URL of the HTTP API without a slash at its end. PUBLIC_URL is not that of the internal port."""
    return requested_url(request) if request.app[PART] is Part.INTERNAL else public_url(request)


def requested_url(request: web.Request) -> str:
    """Return the address that the client used, without a slash at its end."""
    settings = request.app[GATEWAY].settings
    scheme = "https" if is_https(request, trust_proxy=settings.trust_proxy) else "http"
    return f"{scheme}://{request.host}"


def root_of(request: web.BaseRequest) -> str:
    """Return the relative URL of the server's root, as a page at the path of ``request`` links to it."""
    return "../" * (request.rel_url.raw_path.count("/") - 1) or "./"
