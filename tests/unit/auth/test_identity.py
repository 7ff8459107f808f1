"""Tests of ``auth.identity``: which tokens are accepted, and their identities."""

from __future__ import annotations

import json
import logging
import re
import sys
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.utils import base64url_encode
from serving import SECRET
from signed_tokens import AUTHENTICATOR, LENIENT, later, sign, sign_raw

from roomcast.auth.identity import MAX_TOKEN, Authenticator, Identity, make_token
from roomcast.errors import AuthenticationFailed
from roomcast.protocol.user_id import MAX_NUMBER
from roomcast.settings import Settings


def verify(claims: dict, **settings) -> Identity:
    """Return the identity of a valid token with ``claims``."""
    return Authenticator(Settings(jwt_secret=SECRET, **settings)).verify(sign(claims))


def reason(token, authenticator: Authenticator = AUTHENTICATOR) -> str:
    """Return the reason why ``token`` is refused, which does not contain the token."""
    with pytest.raises(AuthenticationFailed) as caught:
        authenticator.verify(token)
    text = str(caught.value)
    assert text.endswith(".")
    if isinstance(token, str):
        assert all(part not in text for part in token.split(".") if len(part) > 8)
    return text


def test_a_valid_token() -> None:
    """The claims in docs/protocol.md become an identity, and no claim is left."""
    end = later()
    identity = AUTHENTICATOR.verify(
        sign({"user_id": 12345, "username": "alice", "rooms": ["channel:*"], "exp": end, "iat": end - 60})
    )
    assert identity == Identity(12345, "alice", float(end), ("channel:*",), issued=end - 60.0)
    assert identity.claims == {}


def test_the_repr_has_no_other_claims() -> None:
    """An identity in a log or a traceback does not show the claims of the application."""
    identity = AUTHENTICATOR.verify(sign({"user_id": 1, "username": "alice", "email": "alice@example.com"}))
    assert identity.claims == {"email": "alice@example.com"}
    assert "'alice'" in repr(identity)
    assert "example.com" not in repr(identity)


def test_every_secret_verifies_tokens() -> None:
    """During a rotation, tokens of the new and of the old secret are accepted, and no others."""
    new, old, other = "n" * 64, "o" * 64, "x" * 64
    authenticator = Authenticator(Settings(jwt_secret=f"{new}\n{old}"))
    for secret in (new, old):
        assert authenticator.verify(make_token(secret, user_id=1)).user_id == 1
    assert "made with another key" in reason(make_token(other, user_id=1), authenticator)
    assert "made with another key" in reason(make_token(f"{new}\n{old}", user_id=1), authenticator)
    assert "algorithm is not accepted" in reason(make_token(old, user_id=1, algorithm="HS512"), authenticator)
    assert "not a JWT" in reason("a.b.c", authenticator)


def test_every_public_key_verifies_tokens() -> None:
    """A PEM file with several keys accepts tokens of each."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    pem = "".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in keys[:2]
    )
    authenticator = Authenticator(Settings(jwt_public_key=pem))
    tokens = [jwt.encode({"user_id": 1, "exp": later()}, key, "ES256") for key in keys]
    assert [authenticator.verify(token).user_id for token in tokens[:2]] == [1, 1]
    assert "made with another key" in reason(tokens[2], authenticator)


def test_keys_can_be_replaced() -> None:
    """After ``use_keys`` only the new keys count, of whatever kind."""
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    authenticator = Authenticator(Settings(jwt_secret=SECRET, jwt_issuer="app"))
    old = sign({"user_id": 1, "iss": "app"})
    assert authenticator.verify(old)
    authenticator.use_keys(Settings(jwt_public_key=pem))
    assert "algorithm is not accepted" in reason(old, authenticator)
    assert authenticator.verify(jwt.encode({"user_id": 2, "iss": "app", "exp": later()}, key, "EdDSA")).user_id == 2


@pytest.mark.parametrize(
    ("claims", "user_id"),
    [
        ({"user_id": 7, "sub": "8"}, 7),
        ({"user_id": "7"}, 7),
        ({"sub": "8"}, 8),
        ({"sub": 8}, 8),
        ({"user_id": None, "sub": "8"}, 8),
        ({"user_id": 0}, 0),
        ({"sub": "alice"}, "alice"),
        ({"sub": "5f7c.a-b_C"}, "5f7c.a-b_C"),
        ({"sub": "007"}, "007"),
        ({"sub": "-7"}, "-7"),
        ({"sub": "auth0|5f7c1"}, "auth0|5f7c1"),
        ({"sub": "CORP\\Ünï"}, "CORP\\Ünï"),
        ({"sub": " 7"}, " 7"),
        ({"sub": "x" * 255}, "x" * 255),
        ({"sub": "9" * 255}, "9" * 255),
        ({"user_id": MAX_NUMBER}, MAX_NUMBER),
        ({"user_id": str(MAX_NUMBER)}, MAX_NUMBER),
        ({"user_id": MAX_NUMBER + 1}, str(MAX_NUMBER + 1)),
        ({"sub": str(MAX_NUMBER + 1)}, str(MAX_NUMBER + 1)),
    ],
)
def test_the_user_is_user_id_or_sub(claims, user_id) -> None:
    """user_id precedes sub; a decimal string is a number if browsers can represent it exactly."""
    identity = verify(claims)
    assert identity.user_id == user_id
    assert type(identity.user_id) is type(user_id)


@pytest.mark.parametrize(
    "value",
    [True, False, 1.0, 1.5, -1, 1e300, 2**70, "", ".", "..", "a\u0000", "1\n", "\u0085", "x" * 256, [1], {"a": 1}],
)
@pytest.mark.parametrize("claim", ["user_id", "sub"])
def test_an_id_that_cannot_be_used_everywhere_is_refused(claim, value) -> None:
    """Control characters disturb logs and terminals, and clients remove . and .. from paths."""
    assert "not of a form that can be used" in reason(sign_raw(json.dumps({claim: value, "exp": later()}).encode()))


@pytest.mark.parametrize("claims", [{}, {"user_id": None}, {"username": "alice"}])
def test_a_token_without_a_user_is_refused(claims) -> None:
    """A token without user_id and sub is refused."""
    assert "names no user" in reason(sign(claims))


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"username": "a", "preferred_username": "b", "name": "c"}, "a"),
        ({"preferred_username": "b", "name": "c"}, "b"),
        ({"name": "c"}, "c"),
        ({}, "7"),
        ({"username": "", "name": "  "}, "7"),
        ({"username": 5, "preferred_username": None, "name": ["c"]}, "7"),
        ({"username": "Zoë 🐙"}, "Zoë 🐙"),
    ],
)
def test_the_name_is_the_first_valid_name_claim(claims, name) -> None:
    """The name is username, preferred_username or name, or the id if none of them is a text."""
    assert verify({"user_id": 7} | claims).username == name


def test_further_claims_are_kept_for_plugins() -> None:
    """Plugins can read the claims that are not evaluated; the others are not stored twice."""
    identity = verify({"user_id": 7, "sub": "x|7", "username": "a", "name": "A. B.", "team": {"id": 3}, "jti": "1"})
    assert identity.claims == {"sub": "x|7", "name": "A. B.", "team": {"id": 3}, "jti": "1"}


def test_claims_are_a_copy() -> None:
    """Changing the returned claims does not change the identity."""
    identity = verify({"user_id": 7, "team": [1]})
    identity.claims["team"].append(2)
    assert identity.claims == {"team": [1]}


def test_an_identity_is_small() -> None:
    """Identities with equal rooms share one object, and an identity has no dict."""
    first, second = (verify({"user_id": user, "rooms": ["channel:1", "task:*"]}) for user in (1, 2))
    assert first.rooms is second.rooms
    assert not hasattr(first, "__dict__")
    assert sys.getsizeof(first) <= 80


def test_exp_is_required_unless_disabled() -> None:
    """JWT_REQUIRE_EXP=false allows tokens without exp, but not an exp that is not a number."""
    endless = make_token(SECRET, user_id=1, expires_in=None)
    assert "no exp" in reason(endless)
    assert LENIENT.verify(endless).expires is None
    assert "exp" in reason(sign_raw(b'{"user_id":1,"exp":null}'), LENIENT)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"4000000000"', "true", "[]", "{}"])
@pytest.mark.parametrize("claim", ["exp", "nbf"])
def test_a_time_that_is_not_a_finite_number_is_refused(claim, value) -> None:
    """exp and nbf must be finite numbers."""
    rest = "" if claim == "exp" else f',"exp":{later()}'
    assert reason(sign_raw(f'{{"user_id":1,"{claim}":{value}{rest}}}'.encode()), LENIENT)


@pytest.mark.parametrize("value", ["1e300", "9" * 300, "4102444800.5"])
def test_exp_may_be_far_in_the_future(value) -> None:
    """An exp beyond any calendar is valid."""
    assert AUTHENTICATOR.verify(sign_raw(f'{{"user_id":1,"exp":{value}}}'.encode())).expires == float(value)


def test_a_number_of_5000_digits_is_refused() -> None:
    """A number that is too long for Python's int is refused with a reason."""
    assert reason(sign_raw(b'{"user_id":' + b"9" * 5000 + b',"exp":4102444800}'))


def test_leeway() -> None:
    """JWT_LEEWAY applies to exp and nbf, and moves the end of the connection."""
    now = int(time.time())
    assert "expired" in reason(sign({"user_id": 1, "exp": now - 5}))
    assert "not valid yet" in reason(sign({"user_id": 1, "nbf": now + 50}))
    assert verify({"user_id": 1, "exp": now - 5, "nbf": now + 50}, jwt_leeway=60).expires == now + 55


def test_a_clock_that_is_ahead_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute, because a revocation of all tokens can miss such tokens. A few seconds are normal."""
    authenticator, now = Authenticator(Settings(jwt_secret=SECRET)), int(time.time())
    for ahead, lines in ((2, 0), (30, 1), (30, 1)):
        authenticator.verify(make_token(SECRET, user_id=1, iat=now + ahead))
        assert len(re.findall(r"A token's iat is \d+ s in the future", caplog.text)) == lines


def test_the_clock_of_the_issuer_may_be_a_minute_ahead() -> None:
    """A token from the more distant future is refused: a revocation of all tokens until now would not apply to it."""
    now = time.time()
    assert verify({"user_id": 1, "iat": now + 55}).issued == now + 55
    for ahead in (70, 3600, 999 * now):
        assert re.match(
            r"The token's iat is \d+ s in the future\. It must be in seconds",
            reason(sign({"user_id": 1, "iat": now + ahead})),
        )
    assert verify({"user_id": 1, "iat": now + 600}, jwt_leeway=700).issued == now + 600
    assert verify({"user_id": 1, "iat": now + 55}, jwt_leeway=5).issued == now + 55
    for odd in ("tomorrow", str(now + 3600), True, None, [now]):
        assert verify({"user_id": 1, "iat": odd}).issued is None


def test_audience_and_issuer_must_match() -> None:
    """With JWT_AUDIENCE and JWT_ISSUER, a token must contain them; a list of audiences may have others too."""
    ours = Authenticator(Settings(jwt_secret=SECRET, jwt_audience="chat", jwt_issuer="https://id.example.com"))
    good = {"user_id": 1, "aud": "chat", "iss": "https://id.example.com"}
    assert ours.verify(sign(good)).user_id == 1
    assert ours.verify(sign(good | {"aud": ["mail", "chat"]})).user_id == 1
    for aud in ("mail", "chatter", ["mail"], [], "", None, 5, {"chat": 1}):
        assert "audience" in reason(sign(good | {"aud": aud}), ours)
    for iss in ("https://id.example.org", "https://id.example.com/", ""):
        assert "issuer" in reason(sign(good | {"iss": iss}), ours)
    assert "issuer" in reason(sign({"user_id": 1, "aud": "chat"}), ours)
    assert "audience" in reason(sign({"user_id": 1, "iss": good["iss"]}), ours)


def test_a_token_with_an_audience_is_refused_without_jwt_audience() -> None:
    """A server without JWT_AUDIENCE refuses a token that has an audience (RFC 7519, section 4.1.3)."""
    assert "JWT_AUDIENCE" in reason(sign({"user_id": 1, "aud": "mail"}))


def test_a_wrong_signature_is_refused() -> None:
    """The signature of another secret, a truncated one and none are refused."""
    token = sign({"user_id": 1})
    assert "signature" in reason(sign({"user_id": 1}, key="another secret of thirty-two bytes"))
    assert reason(token[:-4])
    assert reason(token[: token.rindex(".") + 1])
    assert "signature" in reason(token.replace(token.split(".")[1], base64url_encode(b'{"user_id":2}').decode()))


def test_other_algorithms_are_refused() -> None:
    """alg none, another length of HMAC, and other families are refused."""
    for token in (
        jwt.encode({"user_id": 1, "exp": later()}, None, "none"),
        sign({"user_id": 1}, key=SECRET * 2, algorithm="HS512"),
        sign({"user_id": 1}, key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
    ):
        assert "algorithm" in reason(token)


def test_public_keys() -> None:
    """RSA, EC and Ed25519 tokens are verified with the public key, and tokens of another key are refused."""
    keys = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }
    for algorithm, make in keys.items():
        key = make()
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        authenticator = Authenticator(Settings(jwt_public_key=pem.decode()))
        assert authenticator.verify(sign({"user_id": 1}, key=key, algorithm=algorithm)).user_id == 1
        assert "signature" in reason(sign({"user_id": 1}, key=make(), algorithm=algorithm), authenticator)
        assert "algorithm" in reason(sign({"user_id": 1}), authenticator)
        assert "algorithm" in reason(forged_with(pem), authenticator)


def forged_with(pem: bytes) -> str:
    """Return a token whose HMAC secret is the server's public key, which is no secret."""
    hmac = jwt.get_algorithm_by_name("HS256")
    head, body = (base64url_encode(part) for part in (b'{"alg":"HS256"}', b'{"user_id":1,"exp":4102444800}'))
    return b".".join((head, body, base64url_encode(hmac.sign(head + b"." + body, pem)))).decode()


def test_several_algorithms() -> None:
    """Several algorithms of one family can be accepted at the same time."""
    authenticator = Authenticator(Settings(jwt_secret=SECRET * 2, jwt_algorithms=("HS512", "HS256")))
    for algorithm in ("HS256", "HS512"):
        assert authenticator.verify(sign({"user_id": 1}, key=SECRET * 2, algorithm=algorithm)).user_id == 1


@pytest.mark.parametrize(
    "token",
    [None, 5, b"a.b.c", "", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "\ud800", "x" * (MAX_TOKEN + 1), "\0" * 9],
    ids=repr,
)
def test_a_value_that_is_not_a_token_is_refused(token) -> None:
    """Any value that is not a JWT of at most MAX_TOKEN characters is refused with a reason."""
    assert reason(token)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"1", b'"x"', b"null", b"{", b"\xff", b"[" * 4000, b'{"user_id":' * 300, b'{"a":"\\ud800"}']
)
def test_a_payload_that_is_not_an_object_is_refused(payload) -> None:
    """Correctly signed claims that are not a JSON object are refused."""
    assert reason(sign_raw(payload))


def test_unknown_critical_headers_are_refused() -> None:
    """A token with an unknown critical extension is refused (RFC 7515, section 4.1.11)."""
    body = json.dumps({"user_id": 1, "exp": later()}).encode()
    assert reason(sign_raw(body, {"crit": ["secret-sauce"], "secret-sauce": 1}))
    assert reason(sign_raw(body, {"b64": False}))


def test_the_longest_token_is_accepted() -> None:
    """A token of the maximum length is accepted; a longer one is refused."""
    token = sign({"user_id": 1, "pad": "x" * 5900})
    while len(token) < MAX_TOKEN - 2:
        token = sign({"user_id": 1, "pad": "x" * (len(AUTHENTICATOR.verify(token).claims["pad"]) + 1)})
    assert AUTHENTICATOR.verify(token).user_id == 1
    assert "longer" in reason(token + "AAAA")


def test_patterns_of_the_rooms_claim() -> None:
    """A pattern is a room, all rooms of a type, or all rooms; other wildcards have no meaning."""
    identity = Identity(1, "a", rooms=("project:123", "channel:*", "ta*", "x:1*"))
    assert [room for room in ("project:123", "channel:1", "channel:x.y") if not identity.allows(room)] == []
    for room in ("project:12", "project:1234", "channels:1", "channel", "task:1", "x:12", "project:*"):
        assert not identity.allows(room)
    assert Identity(1, "a", rooms=("*",)).allows("task:1")
    assert not Identity(1, "a").allows("task:1")


def test_no_pattern_allows_a_personal_room() -> None:
    """No pattern allows a personal room, the user's own included."""
    identity = Identity(1, "a", rooms=("*", "user:*", "user:2", "user:1"))
    assert not identity.allows("user:1")
    assert not identity.allows("user:2")


@pytest.mark.parametrize("rooms", ["channel:1", {"channel:1": True}, 5, True, ["channel:1", 5], [["channel:1"]]])
def test_a_malformed_rooms_claim_allows_no_room(rooms, caplog) -> None:
    """The token is valid, so that the user gets notifications, but allows no room; the reason is logged."""
    with caplog.at_level(logging.WARNING, "roomcast.identity"):
        identity = verify({"user_id": 7, "rooms": rooms})
    assert identity.rooms == ()
    assert "rooms claim of user 7" in caplog.text


@pytest.mark.parametrize("claims", [{}, {"rooms": None}, {"rooms": []}])
def test_no_rooms_claim_allows_no_room(claims, caplog) -> None:
    """A token without rooms allows no room, and nothing is logged."""
    assert verify({"user_id": 7} | claims).rooms == ()
    assert caplog.records == []


def test_make_token() -> None:
    """A token from make_token is valid and has the claims that were given."""
    token = make_token(SECRET, user_id=5, username="eve", rooms=["task:1"], expires_in=10, team="x")
    identity = AUTHENTICATOR.verify(token)
    assert (identity.user_id, identity.username, identity.rooms) == (5, "eve", ("task:1",))
    assert identity.claims == {"team": "x"}
    assert 0 < identity.expires - time.time() <= 10.001
    assert "expired" in reason(make_token(SECRET, user_id=5, expires_in=-1))
