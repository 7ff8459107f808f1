"""Tests of ``protocol.user_id``: valid ids, one representation for each user, and the names of personal rooms."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from user_ids import USER_IDS, user_ids

from roomcast.protocol import user_id
from roomcast.protocol.user_id import (
    MAX_NUMBER,
    decode_percent,
    normalize_personal_room,
    normalize_user_id,
    parse_user_id,
    personal_room,
)


@pytest.mark.parametrize(
    ("value", "user_id"),
    [
        (0, 0),
        ("0", 0),
        (42, 42),
        ("42", 42),
        ("042", "042"),
        ("+42", "+42"),
        (" 42", " 42"),
        ("42.0", "42.0"),
        ("\u0661", "\u0661"),
        ("\uff11", "\uff11"),
        (MAX_NUMBER, MAX_NUMBER),
        (str(MAX_NUMBER), MAX_NUMBER),
        (MAX_NUMBER + 1, str(MAX_NUMBER + 1)),
        ("9" * 255, "9" * 255),
        ("-1", "-1"),
        ("bob.the-builder_2", "bob.the-builder_2"),
        *((text, text) for text in USER_IDS),
    ],
)
def test_each_user_has_one_id(value: object, user_id: int | str) -> None:
    """A decimal number up to MAX_NUMBER is an int, any other id an unchanged string."""
    assert parse_user_id(value) == user_id
    assert type(parse_user_id(value)) is type(user_id)
    assert normalize_user_id(str(value)) == user_id


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, -1, 1.0, ["1"], b"1", 10**255),
        *("", ".", "..", "x" * 256, "1\n", "a\x00", "\x1f", "\x7f", "\x9f", "\ud800", "a\udfff"),
    ],
)
def test_other_values_are_refused(value: object) -> None:
    """Other types, negative numbers, control characters, half a surrogate pair and other lengths raise ValueError."""
    with pytest.raises(ValueError, match="not a user id"):
        parse_user_id(value)


@given(st.text(max_size=300) | user_ids)
def test_only_control_characters_and_dots_are_refused(text: str) -> None:
    """Any other text of 1 to 255 characters is an id, whatever its script, case, spaces or normalization."""
    is_valid = 0 < len(text) < 256 and text not in (".", "..")
    is_valid = is_valid and not any(unicodedata.category(one) in ("Cc", "Cs") for one in text)
    try:
        assert str(parse_user_id(text)) == text
    except ValueError:
        assert not is_valid
    else:
        assert is_valid


@given(user_ids, user_ids)
@example("a/b", "a%2Fb")
@example("é", "e\u0301")
@example("1", "01")
def test_each_user_has_a_room_of_its_own(first: str, second: str) -> None:
    """The name is ASCII without separators, and the names of two users differ."""
    room = personal_room(parse_user_id(first))
    assert re.fullmatch(r"user:[A-Za-z0-9._~%-]+", room)
    assert unquote(room.removeprefix("user:")) == first
    assert (personal_room(second) == room) is (first == second)


@given(user_ids)
def test_a_personal_room_has_one_normal_name(user_id: str) -> None:
    """All percent-encodings of an id are accepted, and the id itself if it has no percent sign."""
    expected = personal_room(user_id)
    assert normalize_personal_room(expected) == expected
    assert normalize_personal_room(f"user:{quote(user_id, safe='')}") == expected
    assert normalize_personal_room("user:" + quote(user_id, safe="!'()*~/:@ ")) == expected
    assert normalize_personal_room("user:" + "".join(f"%{byte:02x}" for byte in user_id.encode())) == expected
    if "%" not in user_id:
        assert normalize_personal_room(f"user:{user_id}") == expected


@pytest.mark.parametrize(
    "name",
    ["user:", "user:.", "user:%2E%2e", "user:100%", "user:%zz", "user:%FF", "user:%ED%A0%80", "user:%0a", "user:\n"],
)
def test_other_personal_rooms_are_refused(name: str) -> None:
    """What is not a user id, or not percent-encoded UTF-8, raises ValueError."""
    with pytest.raises(ValueError):
        normalize_personal_room(name)


def test_a_long_name_is_refused_without_decoding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest valid name is accepted, and a longer one costs nothing."""
    longest = "user:" + quote("😀" * 255)
    assert normalize_personal_room(longest) == longest
    monkeypatch.setattr(user_id, "decode_percent", None)
    with pytest.raises(ValueError, match="too long"):
        normalize_personal_room(longest + "a")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_decoding_is_the_inverse_of_quote(text: str) -> None:
    """Every text survives."""
    assert decode_percent(quote(text, safe="")) == text
