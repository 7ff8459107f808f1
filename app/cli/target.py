"""The address of a server that a command talks to, and the words for a failed connection."""

from __future__ import annotations

import os
import ssl
from typing import Final, NamedTuple

from yarl import URL

from ..errors import SettingsError

#: Where ``roomcast serve`` and ``roomcast dev`` listen by default.
DEFAULT_AUTHORITY: Final = "127.0.0.1:8000"
DEFAULT_HTTP_URL: Final = f"http://{DEFAULT_AUTHORITY}"
DEFAULT_WS_URL: Final = f"ws://{DEFAULT_AUTHORITY}"


class Target(NamedTuple):
    """The address of a server.

    ``path`` is that of the WebSocket, with the query. ``prefix`` is the path below which a proxy serves the server,
    such as ``/rt``, and empty without one.
    """

    host: str
    port: int
    path: str
    tls: bool
    prefix: str = ""

    @property
    def authority(self) -> str:
        """Host and port, as in a URL and in a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def http(self) -> str:
        """The HTTP URL of the server, without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"


def parse_target(url: str) -> Target:
    """Parse a ws://, wss://, http:// or https:// URL, as of ``--url``.

    Its path is that below which the server is served. It may also be the whole path of the WebSocket, which ends with
    ``/api/v1/ws/connect``. Raises ``SettingsError``.
    """
    from ..web.upgrade.handshake import PATH  # here, because it imports the gateway, which completions do not need

    try:
        parsed = URL(url)
        port = parsed.port
    except ValueError:
        parsed, port = URL(), None
    if parsed.scheme not in ("ws", "wss", "http", "https") or not parsed.host or not port:
        raise SettingsError(f"{url!r} is not the URL of a server; give one like {DEFAULT_HTTP_URL}.")
    prefix = parsed.raw_path.rstrip("/").removesuffix(PATH).rstrip("/")
    query = f"?{parsed.raw_query_string}" if parsed.raw_query_string else ""
    return Target(
        parsed.raw_host or parsed.host, port, prefix + PATH + query, parsed.scheme in ("wss", "https"), prefix
    )


def connection_error(error: Exception) -> str:
    """Return why a connection failed, in the words of the operating system or of TLS, without numbers."""
    error = getattr(error, "os_error", error)  # aiohttp wraps the error of the operating system
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS as expected ({error.reason or error})"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
