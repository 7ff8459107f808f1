"""The head of a request, and its bearer token. ``origins`` reads its origin, ``client_address`` the client's address.

They take requests of aiohttp and those of ``upgrade.acceptor``.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from multidict import CIMultiDictProxy

#: A name or an address, with or without a port (RFC 9110 section 7.2).
_is_host: Final = re.compile(r"(?:[A-Za-z0-9._-]{0,255}|\[[A-Za-z0-9.:%_-]{2,80}\])(?::[0-9]{0,5})?").fullmatch


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


def is_host(text: str) -> bool:
    """Return True if ``text`` is valid as a ``Host`` header. Pages and documents contain that of their request."""
    return _is_host(text) is not None


def bearer_token(request: RequestHead) -> str | None:
    """Return the credentials of ``Authorization: Bearer`` (RFC 6750); None if the header is missing or of another kind.

    The scheme is case-insensitive (RFC 9110 section 11.1).
    """
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None
