"""Tokens for trying things out: made with the server's own secret, for the command line and ``roomcast dev``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..auth.identity import Authenticator, make_token
from ..errors import AuthenticationFailed, RoomcastError, SettingsError
from ..settings import Settings


def signing_settings(environ: Mapping[str, str]) -> Settings:
    """Return settings of the ``JWT_*`` variables alone, with which tokens can be made; raise ``SettingsError``."""
    given = {name: value for name, value in environ.items() if name.startswith("JWT_") and value.strip()}
    if "JWT_SECRET" not in given:
        raise SettingsError("JWT_SECRET must be set, to the secret that the server verifies tokens with.")
    return Settings.from_env(given)


def mint(
    settings: Settings,
    user: int | str,
    *,
    username: str | None = None,
    rooms: Iterable[str] = ("*",),
    expires_in: float = 3600,
    claims: Mapping[str, Any] | None = None,
) -> str:
    """Return a token that a server with ``settings`` accepts for ``user``; raise ``RoomcastError`` if none would be.

    ``JWT_AUDIENCE`` and ``JWT_ISSUER`` become its ``aud`` and ``iss``, and now its ``iat``, without which it would
    count as older than any revocation; ``claims`` win over them.
    """
    assert settings.jwt_secret is not None
    own = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer, "iat": int(time.time())}
    extra = {name: value for name, value in own.items() if value is not None} | dict(claims or {})
    token = make_token(
        settings.jwt_secret,
        user_id=user,
        username=username,
        rooms=rooms,
        expires_in=expires_in,
        algorithm=settings.jwt_algorithms[0],
        **extra,
    )
    try:
        Authenticator(settings).verify(token)
    except AuthenticationFailed as failed:
        raise RoomcastError(f"A server would refuse this token. {failed}") from None
    return token
