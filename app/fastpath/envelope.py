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
    global _second, _timestamp
    now = int(time.time())
    if now != _second:
        _timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        _second = now
    return _timestamp


def build_envelope(type: str, room: str | None, data: bytes, sender: str | None) -> bytes:
    """Build an event with the current time and without an id. ``room`` and ``sender`` are left out if they are None.

    Raises ``TypeError`` if a text cannot be encoded as UTF-8. The result is a copy on purpose: the buffer that orjson
    returns keeps the 4 KiB it was built in, and the broker stores events in its history.
    """
    document: dict[str, Any] = {"type": type}
    if room is not None:
        document["room"] = room
    document["data"] = orjson.Fragment(data)
    if sender is not None:
        document["sender"] = sender
    document["timestamp"] = timestamp()
    return b"%b" % orjson.dumps(document)
