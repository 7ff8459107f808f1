"""The envelope of an event; ``test_hot`` holds the one in C against it."""

from __future__ import annotations

import json
import re

import pytest

from roomcast.fastpath import envelope


def test_what_is_not_there_is_left_out() -> None:
    """An event has its type, data and time, and a room and a sender if there are any; the data goes in as it is."""
    built = envelope.build_envelope("message", "channel:1", b'{"a": 1}', 'al"ice')
    document = json.loads(built)
    assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}Z", document.pop("timestamp"))
    assert document == {"type": "message", "room": "channel:1", "data": {"a": 1}, "sender": 'al"ice'}
    assert list(document) == ["type", "room", "data", "sender"]
    assert b'"data":{"a": 1}' in built
    assert list(json.loads(envelope.build_envelope("message", None, b"{}", None))) == ["type", "data", "timestamp"]


def test_the_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timestamp is made once a second, and anew in the next one, also when the clock is put back."""
    for now, shown in ((1763035200.9, "12:00:00"), (1763035201.0, "12:00:01"), (1763035200.5, "12:00:00")):
        monkeypatch.setattr(envelope.time, "time", lambda now=now: now)
        assert envelope.timestamp() == f"2025-11-13T{shown}Z"
