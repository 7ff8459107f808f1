"""The origins whose pages may use this server: those in ALLOWED_ORIGINS, and always the server's own host.

The WebSocket handshake, tickets (CORS) and the console use this module. A browser sends ``Origin`` with every WebSocket
handshake (RFC 6455 section 10.2) and with every request that changes something; other programs send none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from aiohttp import web
from yarl import URL

from .request_head import RequestHead

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class AllowedOrigins:
    """The origins in ALLOWED_ORIGINS, as ``setting_rules.normalize_origin`` returns them, and the server's own.

    ``https://*.example.com`` matches subdomains at any depth, but not ``https://example.com``. In a
    Content-Security-Policy, ``*.example.com`` has the same meaning. The port ``*`` matches every port, and ``*`` alone
    every origin. The server's own origin is that of ``public_url`` and that of the host of each request.
    """

    def __init__(self, entries: Iterable[str] = (), public_url: str | None = None) -> None:
        self._exact: Final = frozenset(entries)
        patterns = [_pattern(entry) for entry in self._exact if "*" in entry]
        self._matches: Final = re.compile("|".join(patterns)).fullmatch if patterns else None
        self._public: Final = None if public_url is None else str(URL(public_url).origin()).lower()

    def allow(self, request: RequestHead) -> bool:
        """Return True if the page that made ``request`` has an allowed origin, or if no page made it."""
        if "*" in self._exact or self.is_own(request):
            return True
        origin = request.headers["Origin"].lower()
        return origin in self._exact or (self._matches is not None and self._matches(origin) is not None)

    def is_own(self, request: RequestHead) -> bool:
        """Return True if the page that made ``request`` is from this server, or if no page made it.

        The scheme of the request is not compared, because a proxy may serve TLS. The proxy has to pass on ``Host``,
        unless PUBLIC_URL is set. Some proxies add the default port to it, which browsers omit.
        """
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        origin = origin.lower()
        scheme, _, host = origin.partition("://")
        port = _DEFAULT_PORTS.get(scheme)
        is_host = port is not None and host != "" and host == request.host.lower().removesuffix(port)
        return is_host or origin == self._public


def _pattern(entry: str) -> str:
    """Return the regular expression of an entry with ``*`` in place of a subdomain or the port."""
    pattern = re.escape(entry.removesuffix(":*")).replace(r"://\*\.", r"://(?:[a-z0-9_-]+\.)+", 1)
    return pattern + r"(?::[0-9]{1,5})?" if entry.endswith(":*") else pattern


ORIGINS: Final = web.AppKey("origins", AllowedOrigins)
