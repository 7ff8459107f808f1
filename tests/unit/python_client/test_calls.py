"""Tests of ``roomcast_client.calls``: what is sent."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest

from roomcast_client import Event, calls, personal_room


def data_of(call: calls.Call[Any]) -> Any:
    """Return the data of the event that ``call`` publishes."""
    assert call.body is not None
    return json.loads(call.body)["data"]


def test_every_publish_has_a_key_of_its_own() -> None:
    """Two calls have different keys, and a given key is used as it is."""
    one, two = (calls.publish("a", "b:1", None, None, None) for _ in range(2))
    assert one.key and two.key and one.key != two.key
    assert calls.publish("a", "b:1", None, None, "task-1").key == "task-1"
    assert calls.batch([], "task-1").key == "task-1"


@pytest.mark.parametrize("key", ["", "a" * 129, "ä", "a\nb", "a\r\nAuthorization: x", " a", "a "])
def test_a_bad_key_is_refused(key: str) -> None:
    """It does not become a header."""
    with pytest.raises(ValueError, match="is not an idempotency key"):
        calls.publish("a", "b:1", None, None, key)


def test_an_event_has_the_fields_of_the_api() -> None:
    """``sender`` is absent if it was not given, and ``data`` is an object even without any."""
    assert json.loads(calls.publish("a", "b:1", None, None, None).body or b"") == {
        "type": "a",
        "room": "b:1",
        "data": {},
    }
    batch = calls.batch([Event("a", "b:1", {"x": 1}, "alice")], None)
    assert json.loads(batch.body or b"") == [{"type": "a", "room": "b:1", "data": {"x": 1}, "sender": "alice"}]


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        (MappingProxyType({"a": (1, 2)}), {"a": [1, 2]}),
        ("ä\u2028😀", "ä\u2028😀"),
        (2**60, 2**60),
    ],
)
def test_values_of_models_become_json(value: Any, sent: Any) -> None:
    """Dates, UUIDs and decimals become texts."""
    assert data_of(calls.publish("a", "b:1", {"x": value}, None, None)) == {"x": sent}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud83d", {1}, object(), b"x"])
def test_values_that_json_lacks_are_refused(value: Any) -> None:
    """The mistake is found before anything is sent."""
    with pytest.raises((TypeError, ValueError)):
        calls.publish("a", "b:1", {"x": value}, None, None)


@pytest.mark.parametrize(
    "call",
    [
        lambda part: calls.members(part),
        lambda part: calls.history(part, None, None),
        lambda part: calls.kick("channel:1", part),
        lambda part: calls.disconnect(part),
        lambda part: calls.revoke(part, None),
        lambda part: calls.revoke_token(1, part),
        lambda part: calls.online(part),
    ],
)
def test_a_part_cannot_change_the_path(call: Callable[[str], calls.Call[Any]]) -> None:
    """Slashes are encoded, and names that would shorten the path are refused."""
    assert call("../../a?b#c%").path.count("..%2F..%2Fa%3Fb%23c%25") == 1
    for part in ("", ".", ".."):
        with pytest.raises(ValueError, match="is not the name of"):
            call(part)


@pytest.mark.parametrize(
    ("before", "query"), [(None, None), (1764500000, "1764500000"), (1764500000.25, "1764500000.25")]
)
def test_before_is_written_in_digits(before: float | None, query: str | None) -> None:
    """Not with an exponent, and without needless zeros."""
    assert calls.revoke(1, before).query == ({} if query is None else {"before": query})


def test_the_personal_room_is_encoded() -> None:
    """It is the name that the server uses."""
    assert personal_room(7) == "user:7"
    assert personal_room("auth0|5f/7") == "user:auth0%7C5f%2F7"


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "ä"])
def test_a_token_that_is_no_header_is_refused(token: str) -> None:
    """The sentence does not contain it."""
    with pytest.raises(ValueError, match=r"^The token is empty, or has a space") as refused:
        calls.ticket(token)
    assert not token or token not in str(refused.value).replace("a space", "")
