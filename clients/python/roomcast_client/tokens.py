"""Tokens for users: JWTs (RFC 7519) that a roomcast server accepts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterable
from math import ceil
from typing import Any, Final

from .results import UserId

_DIGESTS: Final = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
#: The shortest secret, in bytes (RFC 7518, section 3.2: at least the size of the digest).
_SHORTEST: Final = {"HS256": 32, "HS384": 48, "HS512": 64}


def mint_token(
    secret: str,
    user_id: UserId,
    *,
    username: str | None = None,
    rooms: Iterable[str] = (),
    expires_in: float = 3600,
    not_before: float | None = None,
    algorithm: str = "HS256",
    **claims: Any,
) -> str:
    """Return a token for ``user_id``, which lets the user join ``rooms``: ``project:123``, ``channel:*`` or ``*``.

    Args:
        secret: The first secret in ``JWT_SECRET`` of the server, or a private key in PEM for algorithms with key pairs.
        user_id: The user.
        username: The name that others see; by default the id.
        rooms: The rooms that the user may join.
        expires_in: The lifetime in seconds.
        not_before: What ``revoke`` returned for this user: the token is then issued at this time or later.
        algorithm: HS256, HS384 or HS512. Others, such as RS256 and EdDSA, need PyJWT with cryptography.
        **claims: Further claims, such as ``aud``, ``iss`` and ``jti``.

    Raises ``ValueError`` if the server would refuse the token.
    """
    if isinstance(rooms, str):
        raise ValueError(f"rooms must be a list; give [{rooms!r}].")
    if isinstance(user_id, bool) or not isinstance(user_id, int | str) or user_id == "":
        raise ValueError(f"{user_id!r} is not the id of a user, which is a whole number or a text.")
    issued = max(time.time(), not_before or 0.0)
    payload: dict[str, Any] = {"user_id": user_id, "rooms": list(rooms), "iat": ceil(issued * 1000) / 1000}
    payload["exp"] = round(issued + expires_in, 3)
    if username is not None:
        payload["username"] = username
    payload |= claims
    if algorithm not in _DIGESTS:
        return _sign_with_key_pair(payload, secret, algorithm)
    if len(secret.encode()) < _SHORTEST[algorithm]:
        raise ValueError(f"The secret is shorter than {_SHORTEST[algorithm]} bytes, which {algorithm} needs.")
    signed = f"{_base64({'alg': algorithm, 'typ': 'JWT'})}.{_base64(payload)}"
    signature = hmac.new(secret.encode(), signed.encode(), _DIGESTS[algorithm]).digest()
    return f"{signed}.{_base64_of(signature)}"


def expiry(token: str) -> float | None:
    """Return the ``exp`` of ``token`` without verifying it, or None if it has none."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (LookupError, ValueError, TypeError):
        return None


def _base64(document: dict[str, Any]) -> str:
    return _base64_of(json.dumps(document, separators=(",", ":"), allow_nan=False).encode())


def _base64_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _sign_with_key_pair(payload: dict[str, Any], private_key: str, algorithm: str) -> str:
    try:
        import jwt
    except ImportError:
        raise ValueError(
            f"{algorithm} needs PyJWT with cryptography: pip install 'roomcast-client[asymmetric]'. Without them, "
            f"tokens can be signed with {', '.join(_DIGESTS)}."
        ) from None
    try:
        return jwt.encode(payload, private_key, algorithm)
    except (jwt.PyJWTError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"The key cannot sign with {algorithm} ({type(error).__name__}): {error}") from None
