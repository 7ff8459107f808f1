"""Tests of ``auth.user_id``: valid ids, and one representation for each user."""

from __future__ import annotations

import pytest

from roomcast.auth.user_id import MAX_NUMBER, normalize_user_id, parse_user_id


@pytest.mark.parametrize(
    ("value", "user_id"),
    [
        (0, 0),
        ("0", 0),
        (42, 42),
        ("42", 42),
        ("042", "042"),
        (MAX_NUMBER, MAX_NUMBER),
        (str(MAX_NUMBER), MAX_NUMBER),
        (MAX_NUMBER + 1, str(MAX_NUMBER + 1)),
        ("9" * 128, "9" * 128),
        ("-1", "-1"),
        ("bob.the-builder_2", "bob.the-builder_2"),
    ],
)
def test_each_user_has_one_id(value: object, user_id: int | str) -> None:
    """A decimal number up to MAX_NUMBER is an int, any other id a string."""
    assert parse_user_id(value) == user_id
    assert type(parse_user_id(value)) is type(user_id)
    assert normalize_user_id(str(value)) == user_id


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.0, "", "a b", "é", "\u0661", "x" * 129, 10**128, "1\n", ["1"], b"1"]
)
def test_other_values_are_refused(value: object) -> None:
    """Other types, negative numbers, other characters and more than 128 characters raise ValueError."""
    with pytest.raises(ValueError, match="not a user id"):
        parse_user_id(value)
