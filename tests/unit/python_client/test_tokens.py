"""Tests of ``roomcast_client.tokens``: a server accepts the tokens, and PyJWT reads them."""

from __future__ import annotations

import builtins
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from serving import SECRET

from roomcast.auth.identity import Authenticator
from roomcast.settings import Settings
from roomcast_client import mint_token
from roomcast_client.tokens import expiry

LONG = SECRET * 2


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_server_accepts_the_token(algorithm: str) -> None:
    """It reads the user, the name, the rooms and further claims."""
    token = mint_token(LONG, 7, username="älice", rooms=["channel:*"], expires_in=60, algorithm=algorithm, team="a")
    identity = Authenticator(Settings(jwt_secret=LONG, jwt_algorithms=(algorithm,))).verify(token)
    assert (identity.user_id, identity.username, identity.rooms) == (7, "älice", ("channel:*",))
    assert identity.claims == {"team": "a"}
    assert identity.expires == pytest.approx(time.time() + 60, abs=30)
    assert jwt.decode(token, LONG, [algorithm])["user_id"] == 7


def test_audience_and_issuer_are_claims() -> None:
    """A server that checks both accepts the token."""
    token = mint_token(SECRET, "auth0|1", aud="roomcast", iss="app", jti="1")
    settings = Settings(jwt_secret=SECRET, jwt_audience="roomcast", jwt_issuer="app")
    assert Authenticator(settings).verify(token).token_id == "1"


def private_key(key: Any) -> tuple[str, str]:
    """Return the private and the public key in PEM."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", rsa.generate_private_key(65537, 2048)), ("EdDSA", ed25519.Ed25519PrivateKey.generate())],
    ids=["RS256", "EdDSA"],
)
def test_key_pairs_sign_with_pyjwt(algorithm: str, key: Any) -> None:
    """A server with the public key accepts the token."""
    private, public = private_key(key)
    token = mint_token(private, 7, algorithm=algorithm)
    settings = Settings(jwt_public_key=public, jwt_algorithms=(algorithm,))
    assert Authenticator(settings).verify(token).user_id == 7


def test_without_pyjwt_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """HS256 works without it."""
    real = builtins.__import__

    def without_jwt(name: str, *args: Any, **options: Any) -> Any:
        if name == "jwt":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_jwt)
    with pytest.raises(ValueError, match=r"RS256 needs PyJWT .* pip install 'roomcast-client\[asymmetric\]'"):
        mint_token("key", 7, algorithm="RS256")
    assert mint_token(SECRET, 7).count(".") == 2


@pytest.mark.parametrize(
    ("secret", "options", "sentence"),
    [
        ("short-and-secret", {}, "shorter than 32 bytes"),
        (SECRET, {"rooms": "channel:1"}, "must be a list"),
        (SECRET, {"user_id": ""}, "is not the id of a user"),
        (SECRET, {"user_id": True}, "is not the id of a user"),
        (SECRET, {"algorithm": "none"}, "cannot sign|not supported"),
        ("short-and-secret", {"algorithm": "RS256"}, "cannot sign with RS256"),
    ],
)
def test_mistakes_are_refused(secret: str, options: dict[str, Any], sentence: str) -> None:
    """The sentence says what is wrong, without the secret."""
    with pytest.raises(ValueError, match=sentence) as refused:
        mint_token(secret, **{"user_id": 1, **options})
    assert secret not in str(refused.value)


def test_a_token_after_a_revocation_is_new_enough() -> None:
    """With ``not_before``, ``iat`` is not earlier than the time of the revocation."""
    before = time.time() + 0.7
    claims = jwt.decode(mint_token(SECRET, 1, not_before=before), options={"verify_signature": False})
    assert claims["iat"] == pytest.approx(before, abs=0.001) and claims["iat"] >= before


def test_the_expiry_is_read_without_the_secret() -> None:
    """Texts that are not tokens have none."""
    assert expiry(mint_token(SECRET, 1, expires_in=60)) == pytest.approx(time.time() + 60, abs=30)
    for token in ("", "a.b", "a.e30.c", "a.W10.c", "a.!.c"):
        assert expiry(token) is None
