"""``roomcast token``: the printed token has the claims that were asked for."""

import shlex
import time

import pytest
from shell import SECRET, refusal, roomcast

from roomcast.auth.identity import Authenticator
from roomcast.settings import Settings


def identity_of(*args: str, **variables: str):
    """Run ``roomcast token``; return the identity that a server reads from the printed token."""
    done = roomcast("token", *args, JWT_SECRET=SECRET, **variables)
    assert done.returncode == 0, done.stderr
    return Authenticator(Settings.from_env({"JWT_SECRET": SECRET, **variables})).verify(done.stdout.strip())


def test_a_token_has_the_claims_that_were_asked_for():
    """The id, the name, the rooms and further claims have the types that a server expects."""
    identity = identity_of(
        *shlex.split("--user-id 1 --username alice --room channel:* --room task:7 --claim team=red --claim n=2")
    )
    assert (identity.user_id, identity.username) == (1, "alice")
    assert identity.rooms == ("channel:*", "task:7")
    assert identity.claims == {"team": "red", "n": 2}


def test_a_token_has_the_time_of_its_creation():
    """Without ``iat`` a token would count as older than any revocation of its user. A given claim takes precedence."""
    begun = int(time.time())
    issued = identity_of("--user-id", "1").issued
    assert issued is not None
    assert begun <= issued <= time.time()
    assert identity_of("--user-id", "1", "--claim", "iat=5").issued == 5


def test_an_id_that_is_not_a_plain_number_stays_text():
    """Ids with letters or with leading zeros are not changed."""
    assert identity_of("--user-id", "alice-1").user_id == "alice-1"
    assert identity_of("--user-id", "007").user_id == "007"
    assert identity_of("--user-id", "auth0|Ünï ann@example.com").user_id == "auth0|Ünï ann@example.com"


def test_the_first_of_several_secrets_signs(tmp_path):
    """The secrets may be in a file."""
    new = SECRET[::-1]
    (tmp_path / "secrets").write_text(f"{new}\n{SECRET}\n")
    for variables in ({"JWT_SECRET": f"{new}\n{SECRET}"}, {"JWT_SECRET_FILE": str(tmp_path / "secrets")}):
        done = roomcast("token", "--user-id", "1", **variables)
        assert Authenticator(Settings(jwt_secret=new)).verify(done.stdout.strip()).user_id == 1


def test_a_token_is_for_the_audience_and_issuer_of_the_settings():
    """JWT_AUDIENCE and JWT_ISSUER become claims of the token."""
    assert identity_of("--user-id", "1", JWT_AUDIENCE="chat", JWT_ISSUER="me").user_id == 1


@pytest.mark.parametrize(
    ("args", "variables", "words"),
    [
        ([], {}, "JWT_SECRET must be set"),
        ([], {"JWT_SECRET": "short"}, "JWT_SECRET is 5 bytes long"),
    ],
)
def test_no_token_without_a_good_secret(args, variables, words):
    """The error sentence contains the name of the variable."""
    assert words in refusal("token", "--user-id", "1", *args, **variables)


def test_a_token_that_no_server_would_accept_is_not_printed():
    """A user id that no token may have is refused."""
    for bad in ("", "..", "a\nb", "x" * 256):
        done = roomcast("token", "--user-id", bad, JWT_SECRET=SECRET)
        assert done.returncode == 2
        assert "--user-id: it must be a text of 1 to 255 characters" in done.stderr


@pytest.mark.parametrize("name", ["secret", "algorithm", "expires_in", "settings", "claims", "self"])
def test_a_claim_may_have_any_other_name(name):
    """Names of parameters are claims like others."""
    assert identity_of("--user-id", "1", "--claim", f"{name}=x").claims == {name: "x"}


@pytest.mark.parametrize("claim", ["nbf=9999999999", "iat=9999999999", "iss=5", "aud=x", "n=NaN"])
def test_claims_that_a_server_would_refuse(claim):
    """The sentence has the reason, and the status is that of wrong options."""
    assert "oken" in refusal("token", "--user-id", "1", "--claim", claim, JWT_SECRET=SECRET)


@pytest.mark.parametrize("claim", ["exp=1", "rooms=[]", "novalue", "=x"])
def test_claims_with_an_option_of_their_own_are_refused(claim):
    """--claim refuses the claims of other options, such as the user id and the rooms."""
    done = roomcast("token", "--user-id", "1", "--claim", claim, JWT_SECRET=SECRET)
    assert done.returncode == 2
    assert "--claim" in done.stderr
    assert done.stdout == ""
