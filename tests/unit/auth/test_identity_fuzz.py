"""Tests of ``auth.identity`` with generated tokens: each is accepted or refused, without another exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jwt.utils import base64url_encode
from serving import SECRET
from signed_tokens import AUTHENTICATOR, LENIENT, sign, sign_raw

from roomcast.auth.identity import make_token
from roomcast.errors import AuthenticationFailed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


CLAIM = st.sampled_from(["user_id", "sub", "username", "name", "exp", "nbf", "iat", "aud", "iss", "rooms", "x"])


def accepted_or_refused(token: str) -> None:
    """Verify ``token``: the result is a valid identity or AuthenticationFailed."""
    for authenticator in (AUTHENTICATOR, LENIENT):
        try:
            identity = authenticator.verify(token)
        except AuthenticationFailed:
            continue
        assert isinstance(identity.user_id, int | str)
        assert isinstance(identity.username, str)
        assert isinstance(identity.claims, dict)


@given(st.text())
@example("eyJhbGciOiJIUzI1NiJ9..")
@example("eyJhbGciOltdfQ.e30.AAAA")
def test_any_text_is_refused(token) -> None:
    """Any text that is not a token raises AuthenticationFailed."""
    with pytest.raises(AuthenticationFailed):
        AUTHENTICATOR.verify(token)


@given(st.dictionaries(CLAIM, JSON, max_size=6))
def test_any_signed_claims_are_accepted_or_refused(claims) -> None:
    """A token with any claims is accepted or refused, without another exception."""
    accepted_or_refused(sign_raw(json.dumps(claims).encode()))


@given(st.binary(max_size=60), JSON)
def test_any_header_and_signature_are_refused(raw, header) -> None:
    """A token whose parts are not JSON, or JSON of another type, is refused."""
    body = sign({"user_id": 1}).split(".")[1]
    for head in (raw, json.dumps(header).encode(), json.dumps({"alg": header}).encode()):
        with pytest.raises(AuthenticationFailed):
            AUTHENTICATOR.verify(f"{base64url_encode(head).decode()}.{body}.{base64url_encode(raw).decode()}")


@given(st.data())
def test_a_changed_token_is_refused(data) -> None:
    """A token with one changed character is refused."""
    token = make_token(SECRET, user_id=1, expires_in=None, exp=4102444800)
    position = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(exclude_characters=token[position]))
    with pytest.raises(AuthenticationFailed):
        AUTHENTICATOR.verify(token[:position] + other + token[position + 1 :])
