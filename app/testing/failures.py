"""The texts of failures: which events arrived instead, and how data differs from the expected data."""

from __future__ import annotations

import difflib
import pprint
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

#: How many events a failure lists, and how many characters of the data of each.
MAX_EVENTS: Final = 20
MAX_DATA: Final = 120

Frame = Mapping[str, Any]


def name_of(type: str | None, room: str | None) -> str:
    """Return the name of the events that a call is about: ``poll.closed in poll:1``, or ``event``."""
    return f"{type or 'event'}{f' in {room}' if room else ''}"


def list_events(events: Sequence[Frame]) -> str:
    """Return a line for each event, in the order of arrival: its type, room, sender and shortened data."""
    lines = [_line(event) for event in events[:MAX_EVENTS]]
    if len(events) > MAX_EVENTS:
        lines.append(f"… and {len(events) - MAX_EVENTS} more")
    return "\n".join(f"  {line}" for line in lines)


def missing(type: str | None, room: str | None, timeout: float, events: Sequence[Frame]) -> str:
    """Return why ``next`` failed, with the ``events`` that arrived instead."""
    instead = f"These arrived instead:\n{list_events(events)}" if events else "Nothing else arrived."
    return f"no {name_of(type, room)} arrived within {timeout:g} s. {instead}"


def unexpected(type: str | None, room: str | None, events: Sequence[Frame]) -> str:
    """Return why ``nothing`` failed, with the ``events`` that arrived."""
    return f"no {name_of(type, room)} was expected, but there is:\n{list_events(events)}"


def differs(event: Frame, expected: Mapping[str, Any]) -> str:
    """Return how the data of ``event`` differs from the ``expected`` data: lines with ``-`` are missing in it."""
    wanted, found = (pprint.pformat(data, width=100).splitlines() for data in (expected, event["data"]))
    diff = "\n".join(line.rstrip("\n") for line in difflib.ndiff(wanted, found))
    name = name_of(event["type"], event.get("room"))
    return f"the data of {name} is not the expected data (- expected, + arrived):\n{diff}"


def _line(event: Frame) -> str:
    sender = f" from {event['sender']}" if event.get("sender") else ""
    data = orjson.dumps(event.get("data"), option=orjson.OPT_NON_STR_KEYS).decode()
    shown = data if len(data) <= MAX_DATA else f"{data[:MAX_DATA]}…"
    return f"{name_of(event.get('type'), event.get('room'))}{sender}: {shown}"
