"""Named keys in ``API_KEYS``: what they allow, and the sentences about mistakes in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from docs_pages import snippet
from serving import KEY, SECRET
from settings_environment import read, refusal

from roomcast.api_keys import SCOPES, UNNAMED, read_api_keys

BILLING = "billing-key-of-thirty-characters"
OPS = "the-key-of-the-operators-console"


def named(**entries: Any) -> str:
    """Return the value of ``API_KEYS`` with ``entries``."""
    return json.dumps(entries)


def test_a_key_has_its_scopes_and_rooms() -> None:
    """The scopes are in a fixed order. Without rooms, and with `*`, a key is for all rooms."""
    text = named(
        billing={"key": BILLING, "scopes": ["publish"], "rooms": ["project:*", "user:*", "task:7"]},
        ops={"key": [OPS, OPS + "2"], "scopes": ["moderate", "read"]},
        all={"key": OPS + "3", "scopes": ["read"], "rooms": ["*"]},
    )
    keys = read_api_keys(f"{KEY},{KEY}2", text)
    billing, ops, everything = keys.find(BILLING), keys.find(OPS), keys.find(OPS + "3")
    assert billing and ops and everything
    assert (billing.name, billing.scopes) == ("billing", ("publish",))
    rooms = ["project:1", "project:2", "user:1", "task:7", "task:8", "projects:1"]
    assert [room for room in rooms if billing.allows(room)] == rooms[:4]
    assert (ops.scopes, ops.rooms, everything.rooms) == (("read", "moderate"), None, None)
    assert keys.find(OPS + "2") is ops
    full = keys.find(KEY)
    assert full is keys.find(KEY + "2") is not None
    assert (full.name, full.scopes, full.rooms) == (UNNAMED, SCOPES, None)
    assert [key.sees_details for key in (billing, ops, everything, full)] == [False, True, True, True]
    for wrong in ("", BILLING[:-1], BILLING + "x", BILLING.upper(), "ключ", "\udcff", f"{OPS},{OPS}2"):
        assert keys.find(wrong) is None


def test_without_keys() -> None:
    """The API is off."""
    assert not read_api_keys(None, None)
    assert not read().http_keys
    assert read(API_KEYS=named(a={"key": OPS, "scopes": ["read"]})).http_keys


def test_keys_are_not_shown() -> None:
    """Neither the settings nor the keys contain a value in their representation."""
    settings = read(API_KEYS=named(a={"key": OPS, "scopes": ["read"]}))
    assert OPS not in f"{settings!r} {settings} {list(settings.http_keys)!r} {next(iter(settings.http_keys))}"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "API_KEYS is not JSON (line 1, column 2)"),
        ("billing:key", "API_KEYS is not JSON"),
        ("[]", "must be a JSON object with names"),
        ("{}", "must be a JSON object with names"),
        ('"key"', "must be a JSON object with names"),
        (named(a=OPS), "a must be an object"),
        (named(**{"a b": {}}), "has the name 'a b'"),
        (named(API_KEY={}), "is not API_KEY"),
        (named(**{"x" * 65: {}}), "a name has 1 to 64"),
        (named(a={"scopes": ["read"]}), "the key of a must be a text of at least 20"),
        (named(a={"key": "short", "scopes": ["read"]}), "the key of a must be a text of at least 20"),
        (named(a={"key": OPS + " x", "scopes": ["read"]}), "visible ASCII"),
        (named(a={"key": [OPS, 7], "scopes": ["read"]}), "the key of a must be a text"),
        (named(a={"key": [], "scopes": ["read"]}), "the key of a must be a text"),
        (named(a={"key": OPS}), "the scopes of a must be a list of publish, read, moderate"),
        (named(a={"key": OPS, "scopes": []}), "the scopes of a must be a list"),
        (named(a={"key": OPS, "scopes": "read"}), "the scopes of a must be a list"),
        (named(a={"key": OPS, "scopes": ["write"]}), "the scopes of a must be a list"),
        (named(a={"key": OPS, "scopes": [{}]}), "the scopes of a must be a list"),
        (named(a={"key": OPS, "scopes": ["read"], "rooms": []}), "leave it out for all rooms"),
        (named(a={"key": OPS, "scopes": ["read"], "rooms": "project:*"}), "must be a list of patterns"),
        (named(a={"key": OPS, "scopes": ["read"], "rooms": ["proj*"]}), "contain 'proj*'; a pattern is"),
        (named(a={"key": OPS, "scopes": ["read"], "room": ["a:*"]}), "has the field 'room'; it may have key, scopes"),
        (named(a={"key": OPS, "scopes": ["read"]}, b={"key": OPS, "scopes": ["read"]}), "b has the same key as a"),
        (named(a={"key": KEY, "scopes": ["read"]}), "a has the same key as API_KEY"),
        (f'{{"a": {{"key": "{OPS}", "key": "x", "scopes": ["read"]}}}}', "has 'key' twice"),
        ('{"a": {}, "a": {}}', "has 'a' twice"),
    ],
)
def test_a_mistake_stops_the_start_with_a_sentence(text: str, part: str) -> None:
    """The sentence names the entry and what is expected. It never has the value of a key."""
    sentence = refusal(JWT_SECRET=SECRET, API_KEY=KEY, API_KEYS=text)
    assert part in sentence
    assert sentence.startswith("API_KEYS")
    assert not [secret for secret in (OPS, KEY, "short") if secret in sentence]


def test_keys_in_a_file(tmp_path) -> None:
    """``API_KEYS_FILE`` names a file with the JSON."""
    (tmp_path / "keys.json").write_text(named(a={"key": OPS, "scopes": ["read"]}) + "\n")
    key = read(API_KEYS_FILE=str(tmp_path / "keys.json")).http_keys.find(OPS)
    assert key is not None and key.name == "a"
    (tmp_path / "keys.json").write_text("{")
    assert "API_KEYS is not JSON" in refusal(JWT_SECRET=SECRET, API_KEYS_FILE=str(tmp_path / "keys.json"))


def test_the_example_of_the_documentation() -> None:
    """The server accepts it."""
    billing, support = read_api_keys(None, snippet("named keys"))
    assert (billing.name, billing.scopes, billing.rooms) == ("billing", ("publish",), ("project:*",))
    assert (support.name, support.scopes, support.rooms) == ("support", ("read", "moderate"), None)
