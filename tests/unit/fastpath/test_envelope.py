"""Tests of ``fastpath.envelope`` and its C twin."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roomcast import fastpath
from roomcast.fastpath import envelope

OPTIONAL = st.none() | st.text(max_size=30)
#: The end of an envelope.
TIMESTAMP = rb"[-0-9]{10}T[:0-9]{8}Z\"}\Z"


def test_absent_fields_are_omitted() -> None:
    """An event has a type, data and a time, and a room and sender if there are any. The data is copied as it is."""
    built = envelope.build_envelope("message", "channel:1", b'{"a": 1}', 'al"ice')
    document = json.loads(built)
    assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}Z", document.pop("timestamp"))
    assert document == {"type": "message", "room": "channel:1", "data": {"a": 1}, "sender": 'al"ice'}
    assert list(document) == ["type", "room", "data", "sender"]
    assert b'"data":{"a": 1}' in built
    assert list(json.loads(envelope.build_envelope("message", None, b"{}", None))) == ["type", "data", "timestamp"]
    keyed = json.loads(envelope.build_envelope("message", None, b"{}", "alice", 'k"1'))
    assert list(keyed) == ["type", "data", "sender", "key", "timestamp"]
    assert keyed["key"] == 'k"1'


def test_the_timestamp_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text changes with the second, also if the clock is set back."""
    for now, shown in ((1763035200.9, "12:00:00"), (1763035201.0, "12:00:01"), (1763035200.5, "12:00:00")):
        monkeypatch.setattr(envelope.time, "time", lambda now=now: now)
        assert envelope.timestamp() == f"2025-11-13T{shown}Z"


@settings(max_examples=200)
@given(st.text(max_size=30), OPTIONAL, OPTIONAL, OPTIONAL, st.text(max_size=300))
@example("message", "channel:1", "".join(map(chr, range(0x180))), None, "")
@example("message", None, '"', "".join(map(chr, range(0x180))), "")
@example("message", "\\", "\ud800", None, "")
@example("message", "a", "b", "\ud800", "")
@example("\udfff", None, None, None, "")
def test_c_builds_envelopes_as_python_does(
    type: str, room: str | None, sender: str | None, key: str | None, content: str
) -> None:
    """The envelopes are equal except for the time. Text that UTF-8 cannot encode raises the same error."""
    data = orjson.dumps({"content": content.encode(errors="replace").decode()})
    try:
        expected = envelope.build_envelope(type, room, data, sender, key)
    except TypeError as error:
        with pytest.raises(TypeError, match=f"^{re.escape(str(error))}$"):
            fastpath.build_envelope(type, room, data, sender, key)
    else:
        built = fastpath.build_envelope(type, room, data, sender, key)
        assert re.sub(TIMESTAMP, b"", built) == re.sub(TIMESTAMP, b"", expected)
        assert orjson.loads(built)["data"] == orjson.loads(data)


def test_both_use_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timestamp is in UTC in any time zone, and follows the clock."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        seen = set()
        while len(seen) < 2:
            before = envelope.timestamp()
            shown = json.loads(fastpath.build_envelope("message", None, b"{}", None))["timestamp"]
            assert before <= shown <= envelope.timestamp()
            seen.add(shown)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastpath.build_envelope("x", "y", "{}", "z"),
        lambda: fastpath.build_envelope(1, "y", b"{}", "z"),
        lambda: fastpath.build_envelope("x", 1, b"{}", "z"),
        lambda: fastpath.build_envelope("x", "y", b"{}", 1),
        lambda: fastpath.build_envelope("x", "y", b"{}", "z", 1),
        lambda: fastpath.build_envelope("x", "y", b"{}"),
        lambda: fastpath.build_envelope("x", "y", b"{}", "z", "k", "l"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(call: Callable[[], Any]) -> None:
    """C raises ``TypeError`` for arguments of the wrong type."""
    if fastpath.IS_NATIVE:
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1763035201, "2025-11-13T12:00:01.000000Z"),
        (1.5, "1970-01-01T00:00:01.500000Z"),
    ],
)
def test_a_precise_timestamp(monkeypatch: pytest.MonkeyPatch, now: float, shown: str) -> None:
    """It has six digits after the second, also zeros."""
    monkeypatch.setattr(time, "time_ns", lambda: int(now * 10**9) + 999)
    assert envelope.precise_timestamp() == shown
