"""The address of a server that a command talks to, and the reason why it cannot be reached."""

from __future__ import annotations

import os
import ssl
from typing import Final, NamedTuple

from yarl import URL

from ..errors import RoomcastError
from ..web.upgrade.handshake import PATH

#: Where ``roomcast serve`` and ``roomcast dev`` listen by default.
DEFAULT_AUTHORITY: Final = "127.0.0.1:8000"
DEFAULT_HTTP_URL: Final = f"http://{DEFAULT_AUTHORITY}"
DEFAULT_WS_URL: Final = f"ws://{DEFAULT_AUTHORITY}"


class Unreachable(RoomcastError):
    """No connection could be opened. The message is a sentence with the address and the reason."""


class Target(NamedTuple):
    """The address of a server. ``path`` includes the query."""

    host: str
    port: int
    path: str
    tls: bool

    @property
    def authority(self) -> str:
        """Host and port, as in a URL and in a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def http(self) -> str:
        """The HTTP URL of the server, without a path."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def parse_target(url: str) -> Target:
    """Parse a ws://, wss://, http:// or https:// URL. The default path is that of the WebSocket.

    Raises ``RoomcastError``.
    """
    try:
        parsed = URL(url)
        port = parsed.port
    except ValueError:
        parsed, port = URL(), None
    if parsed.scheme not in ("ws", "wss", "http", "https") or not parsed.host or not port:
        raise RoomcastError(f"{url!r} is not the URL of a server; give one like ws://127.0.0.1:8000.")
    path = parsed.raw_path_qs if parsed.path not in ("", "/") else PATH + parsed.raw_path_qs.lstrip("/")
    return Target(parsed.raw_host or parsed.host, port, path, parsed.scheme in ("wss", "https"))


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
