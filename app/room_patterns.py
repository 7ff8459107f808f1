"""Patterns of rooms, in the ``rooms`` claim of tokens and in the ``rooms`` of API keys.

A pattern is the name of a room, all rooms of a type as ``type:*``, or ``*`` for all rooms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_PATTERN: Final = re.compile(r"\*|[a-z][a-z0-9_]*:(\*|[!-)+-~]{1,1024})")


def matches(patterns: Iterable[str], room: str) -> bool:
    """Return True if one of ``patterns`` matches ``room``."""
    return any(
        pattern == room or pattern == "*" or (pattern.endswith(":*") and room.startswith(pattern[:-1]))
        for pattern in patterns
    )


def is_pattern(text: str) -> bool:
    """Return True if ``text`` can match a room."""
    return _PATTERN.fullmatch(text) is not None
