"""Who a user is: a token (a signed JWT, RFC 7519) in, an ``Identity`` out.

PyJWT checks the form and the signature; the claims are checked here, because their rules are roomcast's own and cost
1 µs on orjson instead of 7 in PyJWT. Its key preparation, 9 µs a token for a secret, is done once, at the start.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any

import jwt
import orjson
from jwt.algorithms import HMACAlgorithm, get_default_algorithms

from ..broker.base import UserId
from ..errors import AuthenticationFailed
from ..settings import Settings
from ..signing_keys import HMAC_ALGORITHMS
from .user_id import parse_user_id

logger = logging.getLogger("roomcast.identity")

#: The longest token that is looked at, in characters; proxies rarely carry a longer URL or header.
MAX_TOKEN = 8192

_NAME_CLAIMS = ("username", "preferred_username", "name")
_OWN_CLAIMS = frozenset(("exp", "nbf", "iat", "aud", "iss", "rooms"))


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, as their token says; one is kept per connection, so it holds little.

    ``expires`` is when the token ends, in Unix seconds with the leeway added, or None; ``issued`` is its ``iat``, or
    None if it has none that can be read. ``rooms`` are the rules of the token's ``rooms`` claim; equal ones are one
    object in memory.
    """

    user_id: int | str
    username: str
    expires: float | None = None
    rooms: tuple[str, ...] = ()
    more: bytes = field(default=b"", repr=False)
    issued: float | None = None

    @property
    def claims(self) -> dict[str, Any]:
        """The token's further claims: those that this identity was not made of. Parsed anew each time."""
        return dict(orjson.loads(self.more)) if self.more else {}

    @property
    def token_id(self) -> str | None:
        """The token's ``jti`` (RFC 7519, section 4.1.7), by which it can be revoked; None if it has none.

        It should be a text, but backends that number their tokens leave it a number: then it is that in digits, lest
        a revocation of ``42`` be answered with 200 and miss the token with 42.
        """
        given = self.claims.get("jti")
        if type(given) is int:
            return str(given)
        return given if isinstance(given, str) and given else None

    def allows(self, room: str) -> bool:
        """Whether the ``rooms`` claim lets the user into ``room``: by its name, ``type:*``, or ``*``.

        Nothing opens a ``user:`` room; every user is in their own from the start, and nobody in another's.
        """
        if room.startswith("user:"):
            return False
        return any(
            rule == room or rule == "*" or (rule.endswith(":*") and room.startswith(rule[:-1])) for rule in self.rooms
        )


class _Secret(HMACAlgorithm):
    """HMAC with a secret that the settings have checked: PyJWT would look for disguised public keys at every token."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.encode()


class _Jws(jwt.PyJWS):
    """PyJWT's reader of tokens, which looks at each character of one by itself: half of its 16 us."""

    @staticmethod
    def _decode_base64url_segment(segment: bytes, name: str) -> bytes:
        """Decode what encodes back to itself, which is all that PyJWT asks; it decides on everything else.

        Should a new PyJWT have no such method, this is never called, and the time is lost again.
        """
        try:
            decoded = base64.urlsafe_b64decode(segment + b"==")
        except binascii.Error:
            pass
        else:
            if base64.urlsafe_b64encode(decoded).rstrip(b"=") == segment:
                return decoded
        return jwt.PyJWS._decode_base64url_segment(segment, name)


class Authenticator:
    """Verifies tokens by the ``jwt_*`` settings."""

    def __init__(self, settings: Settings) -> None:
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._leeway = settings.jwt_leeway
        self._require_exp = settings.jwt_require_exp
        self._algorithms = settings.jwt_algorithms
        self._jws = _Jws(algorithms=())
        for name in self._algorithms:
            self._jws.register_algorithm(name, _algorithm(name))
        key = settings.jwt_secret or settings.jwt_public_key or ""
        self._key = self._jws.get_algorithm_by_name(self._algorithms[0]).prepare_key(key)

    def verify(self, token: str) -> Identity:
        """Return who ``token`` is for; raise ``AuthenticationFailed``, which says why and never shows the token."""
        claims = self._claims(token)
        now = time.time()
        expires = self._check_time(claims, now)
        self._check_parties(claims)
        id_claim = "sub" if claims.get("user_id") is None else "user_id"
        user_id = _user_id(claims.get(id_claim))
        name_claim = next((name for name in _NAME_CLAIMS if _is_name(claims.get(name))), None)
        used = {id_claim, name_claim}
        if claims.get("sub") == str(user_id):
            used.add("sub")
        more = {key: value for key, value in claims.items() if key not in _OWN_CLAIMS and key not in used}
        return Identity(
            user_id,
            claims[name_claim] if name_claim else str(user_id),
            expires,
            _rooms(claims.get("rooms"), user_id),
            b"%b" % orjson.dumps(more) if more else b"",  # a copy: what orjson returns keeps the 4 KiB it was built in
            _issued(claims.get("iat")),
        )

    def _claims(self, token: str) -> dict[str, Any]:
        """The claims of a token of good form and signature."""
        if not isinstance(token, str) or not token:
            raise AuthenticationFailed("There is no token.")
        if len(token) > MAX_TOKEN:
            raise AuthenticationFailed(f"The token is longer than {MAX_TOKEN} characters.")
        if not token.isascii():
            raise AuthenticationFailed("The token is not a JWT: it has characters that none has.")
        try:
            claims = orjson.loads(self._jws.decode(token, self._key, self._algorithms))
        except jwt.InvalidSignatureError as error:
            raise AuthenticationFailed("The token's signature is wrong: it was made with another key.") from error
        except jwt.InvalidAlgorithmError as error:
            accepted = " or ".join(self._algorithms)
            raise AuthenticationFailed(f"The token's algorithm is not accepted; it must be {accepted}.") from error
        except (jwt.PyJWTError, orjson.JSONDecodeError) as error:
            raise AuthenticationFailed("The token is not a JWT.") from error
        if not isinstance(claims, dict):
            raise AuthenticationFailed("The token's claims are not a JSON object.")
        return claims

    def _check_time(self, claims: Mapping[str, Any], now: float) -> float | None:
        """When the token ends, leeway included; raises when it has, or has not begun (RFC 7519, 4.1.4 and 4.1.5)."""
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
        """A token for an audience is for nobody else, whether we know our name or not (RFC 7519, section 4.1.3)."""
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
    """Return a token for ``user_id``, signed with ``secret`` (or a private key in PEM, where ``algorithm`` wants one).

    It ends in ``expires_in`` seconds (negative: it has already ended; None: never). ``claims`` are added as they are.
    """
    payload: dict[str, Any] = {"user_id": user_id, "rooms": list(rooms), **claims}
    if username is not None:
        payload["username"] = username
    if expires_in is not None:
        payload["exp"] = round(time.time() + expires_in, 3)
    return jwt.encode(payload, secret, algorithm)


def _algorithm(name: str) -> jwt.algorithms.Algorithm:
    standard = get_default_algorithms()[name]
    if name in HMAC_ALGORITHMS and isinstance(standard, HMACAlgorithm):
        return _Secret(standard.hash_alg)
    return standard


def _seconds(claim: str, value: Any) -> float:
    """A NumericDate (RFC 7519, section 2): a number, and a finite one."""
    if not _is_number(value):
        raise AuthenticationFailed(f"The token's {claim} is not a number of seconds.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _issued(value: Any) -> float | None:
    """When the token was issued. No token is refused for an ``iat`` that cannot be read, but then it counts as old."""
    return float(value) if _is_number(value) else None


def _user_id(value: Any) -> UserId:
    """Return the user id in a claim; raise ``AuthenticationFailed``."""
    if value is None:
        raise AuthenticationFailed("The token names no user: it needs a user_id or a sub.")
    try:
        return parse_user_id(value)
    except ValueError:
        raise AuthenticationFailed(
            "The token's user is not of a form that can be used: user_id (or sub) must be a whole number from 0 on, "
            "or up to 128 letters, digits, dots, hyphens and underscores."
        ) from None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and not value.isspace() and value != ""


def _rooms(value: Any, user_id: int | str) -> tuple[str, ...]:
    """The rules of a ``rooms`` claim. A malformed one opens nothing, but keeps nobody out of their own user room."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(rule, str) for rule in value):
        logger.warning("The rooms claim of user %s is not a list of strings; it opens no room", user_id)
        return ()
    return _shared(tuple(value))


@lru_cache(maxsize=1024)
def _shared(rooms: tuple[str, ...]) -> tuple[str, ...]:
    return rooms
