"""Tests of ``auth.jws``: it accepts exactly the tokens that PyJWT accepts, and checks known headers only once."""

from __future__ import annotations

import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st
from jwt.utils import base64url_encode
from serving import SECRET
from signed_tokens import sign, sign_raw

from roomcast.auth.jws import MAX_HEADERS, SignatureVerifier

OLD_SECRET = "o" * 64


class CountedJws(jwt.PyJWS):
    """PyJWT that counts its checks."""

    checks = 0

    def decode_complete(self, *args, **options) -> dict:
        """Check a token."""
        self.checks += 1
        return super().decode_complete(*args, **options)


@pytest.fixture
def verifier(monkeypatch) -> SignatureVerifier:
    """Return a verifier with two secrets. ``verifier._jws.checks`` is the number of complete checks."""
    monkeypatch.setattr("jwt.PyJWS", CountedJws)
    return SignatureVerifier((SECRET, OLD_SECRET), ("HS256",))


def signed_by_hand(header: bytes, payload: bytes, secret: str = SECRET) -> str:
    """Return a token with encoded parts, and a correct signature."""
    signed = header + b"." + payload
    return (signed + b"." + base64url_encode(hmac.digest(secret.encode(), signed, "sha256"))).decode()


def outcome(check, *args) -> object:
    """Return the result of ``check``, or the class of its exception."""
    try:
        return check(*args)
    except jwt.PyJWTError as error:
        return error.__class__


HEADER = base64url_encode(b'{"alg":"HS256"}')
SEGMENTS = st.binary(max_size=9).map(base64url_encode)
PARTS = SEGMENTS | st.text("AQgwxz09-_+/= .\n!é", max_size=9).map(str.encode)


@pytest.mark.parametrize("is_known", [True, False])
@given(part=PARTS, good=SEGMENTS, padding=st.sampled_from([b"", b"=", b"=="]))
@example(b"e31", b"", b"")  # its last two bits are not 0
@example(b"", b"", b"=")
@example(b"e30.e30", b"", b"")
def test_any_payload_has_the_result_of_pyjwt(is_known, part, good, padding) -> None:
    """Any base64, padded or not, gives the payload or the exception of PyJWT, if the header is known and if not."""
    for payload in (part, good + padding):
        verifier = SignatureVerifier((SECRET,), ("HS256",))
        if is_known:
            verifier.payload(signed_by_hand(HEADER, b"e30"))
        token = signed_by_hand(HEADER, payload)
        assert outcome(verifier.payload, token) == outcome(jwt.PyJWS().decode, token, SECRET, ["HS256"])


@given(data=st.data())
def test_a_changed_token_has_the_result_of_pyjwt(data) -> None:
    """A token with a known header, of which some characters are changed, added or left out, is refused as by PyJWT."""
    token = signed_by_hand(HEADER, base64url_encode(b'{"user_id":1}'))
    verifier = SignatureVerifier((SECRET,), ("HS256",))
    verifier.payload(token)
    begin, end = sorted(data.draw(st.tuples(*2 * [st.integers(0, len(token))])))
    changed = token[:begin] + data.draw(st.text("Ae-_.=+", max_size=4)) + token[end:]
    assert outcome(verifier.payload, changed) == outcome(jwt.PyJWS().decode, changed, SECRET, ["HS256"])


def test_only_the_first_token_with_a_header_is_checked_completely(verifier) -> None:
    """PyJWT checks one token for each header that it has accepted, whichever secret signed it."""
    payloads = [b"{}", b'{"user_id":1}', b"[]"]
    for secret in (SECRET, OLD_SECRET, SECRET):
        assert [verifier.payload(jwt.PyJWS().encode(one, secret)) for one in payloads] == payloads
    assert verifier._jws.checks == 1
    assert verifier.payload(sign_raw(b"{}", {"kid": "2"})) == b"{}"
    assert verifier._jws.checks == 2


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_a_known_header_does_not_replace_the_signature(verifier, secret) -> None:
    """A token with a known header is refused without its signature, with a wrong one, and with that of another."""
    token = signed_by_hand(HEADER, b"e30", secret)
    assert verifier.payload(token) == b"{}"
    signed, _, signature = token.rpartition(".")
    other = signed_by_hand(HEADER, base64url_encode(b"[]"), secret)
    for wrong in (f"{signed}.", f"{signed}.AAAA", f"{signed}.{other.rpartition('.')[2]}"):
        with pytest.raises(jwt.InvalidSignatureError):
            verifier.payload(wrong)
    with pytest.raises(jwt.InvalidSignatureError):
        verifier.payload(signed_by_hand(HEADER, b"e30", "x" * 64))
    with pytest.raises(jwt.DecodeError):
        verifier.payload(f"{signed}{signature}")


def test_a_known_header_without_a_payload(verifier) -> None:
    """A signed header without a payload is not a token."""
    verifier.payload(signed_by_hand(HEADER, b"e30"))
    with pytest.raises(jwt.DecodeError):
        verifier.payload(
            f"{HEADER.decode()}.{base64url_encode(hmac.digest(SECRET.encode(), HEADER, 'sha256')).decode()}"
        )


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS512"},
        {"alg": "HS256", "crit": ["x"], "x": 1},
        {"alg": "HS256", "kid": 1},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        {},
    ],
)
def test_a_header_that_pyjwt_refuses_is_never_known(verifier, header) -> None:
    """A refused header stays refused, with a correct signature, also after tokens with other headers."""
    encoded = base64url_encode(json.dumps(header).encode())
    for _ in range(2):
        verifier.payload(sign({"user_id": 1}))
        with pytest.raises(jwt.PyJWTError):
            verifier.payload(signed_by_hand(encoded, b"e30"))
    assert len(verifier._known_headers) == 1


def test_a_header_is_not_known_before_its_token_is_valid(verifier) -> None:
    """A token with a wrong signature does not make its header known."""
    with pytest.raises(jwt.InvalidSignatureError):
        verifier.payload(signed_by_hand(HEADER, b"e30", "x" * 64))
    assert not verifier._known_headers


def test_the_number_of_known_headers_is_bounded(verifier) -> None:
    """If an issuer writes a new header into each token, all are accepted, and few headers are kept."""
    for number in range(3 * MAX_HEADERS):
        token = sign_raw(b"{}", {"kid": str(number)})
        assert verifier.payload(token) == b"{}"
        assert verifier.payload(token) == b"{}"
        assert len(verifier._known_headers) <= MAX_HEADERS


def test_public_keys() -> None:
    """A known header of ES256 accepts the tokens of each key, and no others."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    public = [key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in keys]
    verifier = SignatureVerifier(public[:2], ("ES256",))
    for _ in range(2):
        for key in keys[:2]:
            assert verifier.payload(jwt.PyJWS().encode(b"{}", key, "ES256")) == b"{}"
        with pytest.raises(jwt.InvalidSignatureError):
            verifier.payload(jwt.PyJWS().encode(b"{}", keys[2], "ES256"))
