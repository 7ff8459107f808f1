"""Tokens with any claims or payload, and authenticators that verify them."""

from __future__ import annotations

import time

import jwt
from serving import SECRET

from roomcast.auth.identity import Authenticator
from roomcast.settings import Settings

AUTHENTICATOR = Authenticator(Settings(jwt_secret=SECRET))
#: Accepts tokens without exp.
LENIENT = Authenticator(Settings(jwt_secret=SECRET, jwt_require_exp=False))


def later() -> int:
    """Return the time in a minute."""
    return int(time.time()) + 60


def sign(claims: dict, **changes) -> str:
    """Return a valid token that expires in a minute, unless ``claims`` change that."""
    return jwt.encode({"exp": later()} | claims, **{"key": SECRET, "algorithm": "HS256"} | changes)


def sign_raw(payload: bytes, header: dict | None = None) -> str:
    """Return a correctly signed token with any payload."""
    return jwt.PyJWS().encode(payload, SECRET, "HS256", headers=header)
