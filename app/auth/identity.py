"""Verify tokens (signed JWTs, RFC 7519) and turn their claims into an ``Identity``.

``jws`` checks the form and the signature with PyJWT. The claims are checked here, because roomcast has rules of its own
for them, and because orjson takes 1 us and PyJWT 7 us.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, Final

import jwt
import msgspec
import orjson

from .. import room_patterns
from ..broker.base import UserId
from ..errors import AuthenticationFailed
from ..failure_log import FailureLog
from ..protocol.user_id import FORM, MAX_NUMBER, parse_user_id
from ..settings import Settings
from .jws import SignatureVerifier

logger = logging.getLogger("roomcast.identity")

#: The greatest length of a token, in characters. Most proxies do not accept longer URLs or headers.
MAX_TOKEN: Final = 8192

#: How far the clock of an issuer may be ahead of this one, in seconds, as ``iat`` shows. JWT_LEEWAY can extend it.
MAX_CLOCK_SKEW: Final = 60.0
#: A greater difference is logged, in seconds: a revocation of all tokens misses those that are not in use.
_REPORTED_CLOCK_SKEW: Final = 5.0

#: The claims that can contain the user's name; the first that is a name counts.
_NAME_CLAIMS: Final = ("username", "preferred_username", "name")
#: The claims that are evaluated here, so that plugins do not need them.
_EVALUATED_CLAIMS: Final = frozenset(("exp", "nbf", "iat", "aud", "iss", "rooms"))


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The user of a token. Each connection keeps one, so it is small: a struct takes 16 bytes less than a dataclass.

    ``expires`` is the end of the token in Unix seconds, including the leeway, or None. ``rooms`` are the patterns of
    the ``rooms`` claim; equal tuples are one object. ``extra_claims`` is the JSON of the claims that are not evaluated
    here. ``issued`` is the ``iat`` claim, or None if it is not a number.
    """

    user_id: int | str
    username: str
    expires: float | None = None
    rooms: tuple[str, ...] = ()
    extra_claims: bytes = b""
    issued: float | None = None

    def __repr__(self) -> str:
        """Return a text without ``extra_claims``, which may be private."""
        return f"Identity({self.user_id!r}, {self.username!r}, expires={self.expires!r}, rooms={self.rooms!r})"

    @property
    def claims(self) -> dict[str, Any]:
        """The claims that are not evaluated here, as a new dict."""
        return dict(orjson.loads(self.extra_claims)) if self.extra_claims else {}

    @property
    def token_id(self) -> str | None:
        """The token's ``jti`` (RFC 7519, section 4.1.7), by which it can be revoked, or None.

        It should be a string, but backends that number their tokens write a number. That becomes a string here, so that
        the revocation of ``42``, which is a string in the path of the HTTP API, finds the token.
        """
        jti = self.claims.get("jti")
        if type(jti) is int:
            return str(jti)
        return jti if isinstance(jti, str) and jti else None

    def allows(self, room: str) -> bool:
        """Return True if the ``rooms`` claim contains ``room``, its type as ``type:*``, or ``*``.

        No pattern allows a ``user:`` room. Users are in their own personal room without joining it.
        """
        if room.startswith("user:"):
            return False
        return room_patterns.matches(self.rooms, room)


class Authenticator:
    """Verifies tokens with the keys and the rules in the ``jwt_*`` settings."""

    def __init__(self, settings: Settings) -> None:
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._leeway = settings.jwt_leeway
        self._require_exp = settings.jwt_require_exp
        self._skews: Final = FailureLog(logger)
        self.use_keys(settings)

    def use_keys(self, settings: Settings) -> None:
        """Verify tokens with the keys in ``settings`` from now on, and with no others."""
        self._signatures = SignatureVerifier(settings.jwt_keys, settings.jwt_algorithms)

    def verify(self, token: str) -> Identity:
        """Return the user of ``token``.

        Raises ``AuthenticationFailed`` with a sentence that gives the reason and does not contain the token.
        """
        claims = self._claims(token)
        now = time.time()
        issued = _issued(claims.get("iat"))
        expires = self._check_time(claims, issued, now)
        self._check_parties(claims)
        id_claim = "sub" if claims.get("user_id") is None else "user_id"
        user_id = _user_id(claims.get(id_claim))
        username = _take_name(claims) or str(user_id)
        rooms = _rooms(claims.get("rooms"), user_id)
        for name in _EVALUATED_CLAIMS:
            claims.pop(name, None)
        claims.pop(id_claim, None)
        if claims and claims.get("sub") == str(user_id):
            del claims["sub"]
        # The JSON is copied, because orjson's result keeps a buffer of 4 KiB.
        extra = b"%b" % orjson.dumps(claims) if claims else b""
        return Identity(user_id, username, expires, rooms, extra, issued)

    def _claims(self, token: str) -> dict[str, Any]:
        """Return the claims of ``token``; raise ``AuthenticationFailed`` if its form or signature is wrong."""
        if not isinstance(token, str) or not token:
            raise AuthenticationFailed("There is no token.")
        if len(token) > MAX_TOKEN:
            raise AuthenticationFailed(f"The token is longer than {MAX_TOKEN} characters.")
        if not token.isascii():
            raise AuthenticationFailed("The token is not a JWT: it has characters that a JWT cannot have.")
        try:
            claims = orjson.loads(self._signatures.payload(token))
        except jwt.InvalidSignatureError as error:
            raise AuthenticationFailed("The token's signature is wrong: it was made with another key.") from error
        except jwt.InvalidAlgorithmError as error:
            accepted = " or ".join(self._signatures.algorithms)
            raise AuthenticationFailed(f"The token's algorithm is not accepted; it must be {accepted}.") from error
        except (jwt.PyJWTError, orjson.JSONDecodeError) as error:
            raise AuthenticationFailed("The token is not a JWT.") from error
        if not isinstance(claims, dict):
            raise AuthenticationFailed("The token's claims are not a JSON object.")
        return claims

    def _check_time(self, claims: Mapping[str, Any], issued: float | None, now: float) -> float | None:
        """Return the end of the token, including the leeway.

        Raises ``AuthenticationFailed`` if it has expired or is not valid yet (RFC 7519, sections 4.1.4 and 4.1.5), or
        was ``issued`` in the future. A revocation of all tokens until now would not apply to such a token.
        """
        if issued is not None and issued > now + max(self._leeway, MAX_CLOCK_SKEW):
            raise AuthenticationFailed(
                f"The token's iat is {issued - now:.0f} s in the future. It must be in seconds, and the clocks of its "
                "issuer and of this server must agree."
            )
        if issued is not None and issued > now + _REPORTED_CLOCK_SKEW:
            self._skews.add(
                "iat",
                f"A token's iat is {issued - now:.0f} s in the future. Correct the clock of its issuer, or this one: "
                "until then, revoking all tokens of a user can miss some",
            )
        if "nbf" in claims and _seconds("nbf", claims["nbf"]) > now + self._leeway:
            raise AuthenticationFailed("The token is not valid yet: its nbf is in the future.")
        if claims.get("exp") is None:
            if self._require_exp or "exp" in claims:
                raise AuthenticationFailed("The token has no exp; it must end some time.")
            return None
        expires = _seconds("exp", claims["exp"]) + self._leeway
        if expires <= now:
            raise AuthenticationFailed("The token has expired.")
        return expires

    def _check_parties(self, claims: Mapping[str, Any]) -> None:
        """Raise ``AuthenticationFailed`` if the audience or the issuer is not the one in the settings.

        A token with an audience is refused by a server without ``JWT_AUDIENCE`` (RFC 7519, section 4.1.3).
        """
        audience = claims.get("aud") or []
        if self._audience is None and audience:
            raise AuthenticationFailed("The token is for an audience (aud), and JWT_AUDIENCE is not set.")
        names = [audience] if isinstance(audience, str) else audience
        if self._audience is not None and not (isinstance(names, list) and self._audience in names):
            raise AuthenticationFailed("The token is for another audience (aud) than JWT_AUDIENCE.")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise AuthenticationFailed("The token is from another issuer (iss) than JWT_ISSUER.")


def make_token(
    secret: str,
    *,
    user_id: int | str,
    username: str | None = None,
    rooms: Iterable[str] = (),
    expires_in: float | None = 3600,
    algorithm: str = "HS256",
    **claims: Any,
) -> str:
    """Return a token for ``user_id``, signed with ``secret``: a secret, or a private key in PEM for other algorithms.

    ``expires_in`` is in seconds. A negative number makes a token that has expired, None one that never expires.
    ``claims`` are further claims.
    """
    payload: dict[str, Any] = {"user_id": user_id, "rooms": list(rooms), **claims}
    if username is not None:
        payload["username"] = username
    if expires_in is not None:
        payload["exp"] = round(time.time() + expires_in, 3)
    return jwt.encode(payload, secret, algorithm)


def _seconds(claim: str, value: Any) -> float:
    """Return a NumericDate (RFC 7519, section 2); raise ``AuthenticationFailed`` if it is not a finite number."""
    if not _is_number(value):
        raise AuthenticationFailed(f"The token's {claim} is not a number of seconds.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _issued(value: Any) -> float | None:
    """Return the ``iat`` claim, or None if it is not a number. Such a token is valid, but counts as old."""
    return float(value) if _is_number(value) else None


def _user_id(value: Any) -> UserId:
    """Return the user id in a claim; raise ``AuthenticationFailed``."""
    if type(value) is int and 0 <= value <= MAX_NUMBER:
        return value
    if value is None:
        raise AuthenticationFailed("The token names no user: it needs a user_id or a sub.")
    try:
        return parse_user_id(value)
    except ValueError:
        raise AuthenticationFailed(
            "The token's user is not of a form that can be used: user_id (or sub) must be a whole number from 0 on, or "
            f"{FORM}."
        ) from None


def _take_name(claims: dict[str, Any]) -> str | None:
    """Remove the first claim that is a name from ``claims``; return it, or None if there is none."""
    for claim in _NAME_CLAIMS:
        value = claims.get(claim)
        if isinstance(value, str) and value != "" and not value.isspace():
            del claims[claim]
            return value
    return None


def _rooms(value: Any, user_id: UserId) -> tuple[str, ...]:
    """Return the patterns of a ``rooms`` claim. A malformed claim allows no room, and the token stays valid."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
        logger.warning("The rooms claim of user %s is not a list of strings; it allows no room", user_id)
        return ()
    return _intern(tuple(value))


@lru_cache(maxsize=1024)
def _intern(rooms: tuple[str, ...]) -> tuple[str, ...]:
    """Return one object for all equal tuples."""
    return rooms
