"""Log lines about users that operators need: refused joins, revoked tokens, ended connections."""

from __future__ import annotations

import logging
from typing import Final

from ..failure_log import FailureLog
from .client import Client

_log = logging.getLogger("roomcast.connections")

#: How many lines a minute each user has for each kind of denial.
DENIAL_LINES: Final = 10


def log_user_event(what: str, client: Client, detail: str) -> None:
    """Log the event ``what`` of the client's user, with ``detail``."""
    _log.info("%s", _line(what, client, detail))


def _line(what: str, client: Client, detail: str) -> str:
    identity = client.identity
    return f"{what}: user {identity.user_id} ({identity.username}) from {client.remote}: {detail}"


class Denials:
    """Logs what users are denied. Clients can repeat it without a limit, so each user has a limited number of lines."""

    def __init__(self) -> None:
        self._failures: Final = FailureLog(_log, DENIAL_LINES, logging.INFO)

    def add(self, what: str, client: Client, detail: str) -> None:
        """Log or count that the client's user was denied ``what``, one of a few texts, with ``detail``."""
        self._failures.add(f"{what} {client.identity.user_id!r}", _line(what, client, detail))


def log_end(client: Client, seconds: float) -> None:
    """Log that the client's connection ended after ``seconds``, and why."""
    identity, end = client.identity, client.end
    assert end is not None
    _log.info(
        "connection ended: user %s (%s) from %s after %.1f s: %s",
        identity.user_id,
        identity.username,
        client.remote,
        seconds,
        f"{end.code} {end.reason}".rstrip(),
        extra={
            "user_id": identity.user_id,
            "username": identity.username,
            "remote": client.remote,
            "seconds": round(seconds, 1),
            "code": end.code,
            "reason": end.reason,
        },
    )
