"""What both clients share about the connection to a server: its URL, and the API key in each request."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

#: How long one attempt of a request may take by default, in seconds.
TIMEOUT: Final = 5.0


class ApiKeyAuth(httpx.Auth):
    """Sends the API key, unless the request has a token. Its text does not show the key."""

    def __init__(self, api_key: str) -> None:
        self._header: Final = _Secret(f"Bearer {api_key}")

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header."""
        if "Authorization" not in request.headers:
            request.headers["Authorization"] = self._header.value
        yield request


def websocket_url(url: str) -> str:
    """Return the URL of the WebSocket of the server at ``url``. Raises ``ValueError``."""
    _check(url, "http", "https", "ws", "wss")
    base = url.replace("http", "ws", 1) if url.startswith("http") else url
    return f"{base.rstrip('/')}/api/v1/ws/connect"


def _check(url: str, *schemes: str) -> None:
    """Raise ``ValueError`` if ``url`` is not that of a server. It may have a password, and is not in the sentence."""
    parts = urlsplit(url)
    is_plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in schemes or not parts.hostname or not is_plain:
        raise ValueError("The URL of the server must be like http://127.0.0.1:8000, without a user and a query.")


class _Secret:
    """A text that is not shown by tools that print the attributes of objects."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value: Final = value

    def __repr__(self) -> str:
        return "<secret>"


def options(url: str, api_key: str) -> Mapping[str, Any]:
    """Return the arguments of httpx's clients for the server at ``url``. Raises ``ValueError``."""
    _check(url, "http", "https")
    if not api_key or not api_key.isascii() or not api_key.isprintable() or api_key != api_key.strip():
        raise ValueError("The API key is empty, or has a space, a line break or a character that is not ASCII.")
    return {"base_url": url.rstrip("/"), "auth": ApiKeyAuth(api_key), "follow_redirects": False}
