"""Patterns of rooms in tokens and API keys."""

from __future__ import annotations

import pytest

from roomcast.room_patterns import is_pattern, matches


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*", ["project:1", "project:12", "projects:1", "user:1"]),
        ("project:*", ["project:1", "project:12"]),
        ("project:1", ["project:1"]),
        ("user:*", ["user:1"]),
    ],
)
def test_matches(pattern: str, matched: list[str]) -> None:
    """A pattern matches one room, the rooms of a type, or all rooms."""
    rooms = ["project:1", "project:12", "projects:1", "user:1"]
    assert [room for room in rooms if matches([pattern], room)] == matched
    assert [room for room in rooms if matches(["nothing:1", pattern], room)] == matched
    assert is_pattern(pattern)
    assert not matches([], "project:1")


@pytest.mark.parametrize("text", ["", "project", "project:", "proj*", "project:1*", "*:1", "Project:1", "a: b", "**"])
def test_texts_that_match_no_room(text: str) -> None:
    """They are not patterns, although someone may expect them to be."""
    assert not is_pattern(text)
