"""``roomcast token``, and the tokens that other commands make with the server's own secret."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click
import jwt

from ..auth.identity import Authenticator
from ..errors import AuthenticationFailed, SettingsError
from ..protocol.user_id import FORM, parse_user_id
from ..secret_files import read_secret
from ..settings import Settings
from .options import json_option
from .printing import print_json

#: Claims that have an option of their own.
_OPTION_CLAIMS: Final = ("user_id", "username", "rooms", "exp")


@click.command()
@click.option("--user-id", required=True, help="Id of the user. A decimal id becomes a number.")
@click.option("--username", help="Name that other users see.  [default: the id]")
@click.option(
    "--room",
    "rooms",
    multiple=True,
    help="Room that the user may join: channel:1, channel:* or *; may be repeated.  [default: none]",
)
@click.option("--expires-in", type=click.FloatRange(1), default=3600, show_default=True, help="Lifetime in seconds.")
@click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another claim; VALUE is JSON or text; may be repeated.",
)
@json_option("Print JSON with the token and its claims.")
def token(
    user_id: str,
    username: str | None,
    rooms: tuple[str, ...],
    expires_in: float,
    claims: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print a token for a user, signed with JWT_SECRET.

    Of several secrets, the first one signs. The command is for tests and scripts: in production, your application makes
    the tokens of its users.

    \b
    roomcast token --user-id 12345 --username alice --room 'channel:*'
    """
    settings = signing_settings(os.environ)
    extra = dict(map(_parse_claim, claims))
    try:
        user = parse_user_id(user_id)
    except ValueError:
        raise click.BadParameter(f"it must be {FORM}.", param_hint="--user-id") from None
    signed = mint(settings, user, username=username, rooms=rooms, expires_in=expires_in, claims=extra)
    if as_json:
        print_json({"token": signed, "claims": jwt.decode(signed, options={"verify_signature": False})})
    else:
        click.echo(signed)


def _parse_claim(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE.", param_hint="--claim")
    if name in _OPTION_CLAIMS:
        raise click.BadParameter(f"{name} has an option of its own; see --help.", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def signing_settings(environ: Mapping[str, str]) -> Settings:
    """Return settings from the ``JWT_*`` variables alone. Raises ``SettingsError`` if JWT_SECRET is not set."""
    given = {name: value for name, value in environ.items() if name.startswith("JWT_") and value.strip()}
    if read_secret("JWT_SECRET", given) is None:
        raise SettingsError("JWT_SECRET must be set to the secret with which the server verifies tokens.")
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
    """Return a token for ``user`` that a server with ``settings`` accepts.

    ``expires_in`` is in seconds. ``JWT_AUDIENCE`` and ``JWT_ISSUER`` become the claims ``aud`` and ``iss``, and the
    current time becomes ``iat``: without it the token would count as older than any revocation. ``claims`` take
    precedence. Raises ``SettingsError`` if the server would refuse the token.
    """
    assert settings.jwt_secret is not None
    own = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer, "iat": int(time.time()), "username": username}
    payload = {
        "user_id": user,
        "rooms": list(rooms),
        "exp": round(time.time() + expires_in, 3),
        **{name: value for name, value in own.items() if value is not None},
        **(claims or {}),
    }
    try:
        signed = jwt.encode(payload, settings.jwt_keys[0], settings.jwt_algorithms[0])
    except TypeError as error:  # such as an issuer that is not text
        raise SettingsError(f"This token cannot be signed. {error}") from None
    try:
        Authenticator(settings).verify(signed)
    except AuthenticationFailed as failed:
        raise SettingsError(f"A server would refuse this token. {failed}") from None
    return signed
