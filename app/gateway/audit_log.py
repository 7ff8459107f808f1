"""Log lines about users that operators need: refused joins, revoked tokens, ended connections."""

from __future__ import annotations

import logging

from .client import Client

_log = logging.getLogger("roomcast.connections")


def log_user_event(what: str, client: Client, detail: str) -> None:
    """Log the event ``what`` of the client's user, with ``detail``."""
    identity = client.identity
    _log.info("%s: user %s (%s) from %s: %s", what, identity.user_id, identity.username, client.remote, detail)


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
