"""The envelope of an event, around data that is JSON already. ``hot`` has it in C, too."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

_second = 0
_timestamp = ""


def timestamp() -> str:
    """Return the time now as in ``2025-11-13T12:00:00Z``; made once a second."""
    global _second, _timestamp
    now = int(time.time())
    if now != _second:
        _timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        _second = now
    return _timestamp


def envelope(type: str, room: str | None, data: bytes, sender: str | None) -> bytes:
    """Build an event, as yet without its id, of now: ``room`` and ``sender`` are left out where they are None.

    Raises ``TypeError`` for what UTF-8 cannot carry. The copy is not idle: what orjson returns keeps the 4 KiB that it
    was built in, and events are kept in histories.
    """
    document: dict[str, Any] = {"type": type}
    if room is not None:
        document["room"] = room
    document["data"] = orjson.Fragment(data)
    if sender is not None:
        document["sender"] = sender
    document["timestamp"] = timestamp()
    return b"%b" % orjson.dumps(document)
