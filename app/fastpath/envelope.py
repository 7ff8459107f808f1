"""Build the JSON envelope of an event around data that is JSON already.

``native/envelope.c`` is the C twin of ``build_envelope``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

_second = 0
_timestamp = ""


def timestamp() -> str:
    """Return the current time as in ``2025-11-13T12:00:00Z``. The text is cached for the current second."""
    return _text_of(int(time.time()))


def precise_timestamp() -> str:
    """Return the current time with microseconds, as in ``2025-11-13T12:00:00.123456Z``."""
    second, microsecond = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_text_of(second)[:-1]}.{microsecond:06}Z"


def _text_of(second: int) -> str:
    """Return the Unix time ``second`` as text."""
    global _second, _timestamp
    if second != _second:
        _timestamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        _second = second
    return _timestamp


def build_envelope(type: str, room: str | None, data: bytes, sender: str | None, key: str | None = None) -> bytes:
    """Build an event with the current time and without an id. ``room``, ``sender`` and ``key`` are left out if None.

    The timestamp is always the last field, by which frames that are not stored are recognized. Raises ``TypeError`` if
    a text cannot be encoded as UTF-8. The result is a copy on purpose: the buffer that orjson returns keeps the 4 KiB
    it was built in, and the broker stores events in its history.
    """
    document: dict[str, Any] = {"type": type}
    if room is not None:
        document["room"] = room
    document["data"] = orjson.Fragment(data)
    if sender is not None:
        document["sender"] = sender
    if key is not None:
        document["key"] = key
    document["timestamp"] = timestamp()
    return b"%b" % orjson.dumps(document)
