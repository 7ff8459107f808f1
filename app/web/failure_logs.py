"""The log lines about failed and refused requests, at most a few a minute for each cause."""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from aiohttp import web

from ..errors import Unavailable
from ..failure_log import EXCEPTION_LINES, FailureLog, place_of

log = logging.getLogger("roomcast.api")

#: How many lines a minute each kind of clients without access has. Operators look for single users in them.
DENIAL_LINES: Final = 10


class FailureLogs:
    """Logs failed requests without flooding the log: clients can cause as many of them as they like.

    There is a line a minute for each request that failed without the broker, and for each kind of request or connection
    that is refused. Each place of an exception has ten, and so has each kind of clients without access.
    """

    def __init__(self) -> None:
        self._unavailable: Final = FailureLog(log)
        self._refusals: Final = FailureLog(log, level=logging.INFO)
        self._exceptions: Final = FailureLog(log, EXCEPTION_LINES)
        self._denials: Final = FailureLog(log, DENIAL_LINES, logging.INFO)
        self._origins: Final = FailureLog(log, DENIAL_LINES)

    def add(self, request: web.BaseRequest, error: BaseException | None) -> None:
        """Log that ``request`` failed with ``error``."""
        name = "a request"
        with contextlib.suppress(AssertionError, AttributeError):  # its route was not looked up, or there is none
            route = request.match_info.route  # type: ignore[attr-defined]
            name = f"{route.method} {route.resource.canonical}"
        if isinstance(error, Unavailable):
            self.add_unavailable(name, f"{name} could not be carried out: {error.detail}")
        else:
            self.add_exception(f"{name} failed", error)

    def add_unavailable(self, kind: str, text: str) -> None:
        """Log that a client could not be served now. There are few kinds."""
        self._unavailable.add(kind, text)

    def add_exception(self, text: str, error: BaseException | None) -> None:
        """Log an unexpected exception. There are few such texts."""
        self._exceptions.add(text if error is None else f"{text} {place_of(error)}", text, error)

    def add_refusal(self, kind: str, text: str) -> None:
        """Log that a client is refused. There are few kinds. ``text`` contains nothing that the client sent."""
        self._refusals.add(kind, text)

    def add_denial(self, kind: str, text: str) -> None:
        """Log that a client has no access: its token or ticket is wrong, or its user has too many connections."""
        self._denials.add(kind, text)

    def add_origin(self, what: str, origin: str) -> None:
        """Log that ``what`` was refused to a page of ``origin``. ALLOWED_ORIGINS may lack it."""
        self._origins.add(what, f"refused {what} of another site: origin {origin[:200]!r}")


FAILURE_LOGS: Final = web.AppKey("failure_logs", FailureLogs)
