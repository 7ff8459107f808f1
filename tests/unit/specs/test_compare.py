"""Tests of ``specs.compare``: which changes break clients."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from roomcast.registry import Registry
from roomcast.specs.asyncapi import asyncapi
from roomcast.specs.compare import breaking_changes


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of ``document`` with ``value`` at ``path``, or without it if ``value`` is None."""
    result = inner = copy.deepcopy(document)
    *parents, last = path.split("/")
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return result


_COMMAND = "components/schemas/command.animal.feed"
_ANYONE = "components/messages/command.animal.watch"
_MEMBER = "components/messages/command.animal.feed"
_EVENT = "components/schemas/event.animal.fed"


@pytest.mark.parametrize(
    ("path", "value", "change"),
    [
        ("components/messages/event.animal.fed", None, "event animal.fed: is gone"),
        (f"{_EVENT}/properties/kilos", None, "event animal.fed: data.kilos is gone"),
        (
            f"{_EVENT}/properties/kilos/type",
            "string",
            "event animal.fed: data.kilos was integer or number and is string",
        ),
        (f"{_EVENT}/required", ["animal"], "event animal.fed: data.keeper may be missing now"),
        (f"{_COMMAND}/required", ["animal", "food"], "command animal.feed: data.food is required now"),
        (
            f"{_COMMAND}/properties/food/enum",
            ["nut"],
            "command animal.feed: data.food may not be apple or hay any more",
        ),
        (
            f"{_COMMAND}/properties/amount/maximum",
            5,
            "command animal.feed: data.amount has a maximum of 5 now, it was 10",
        ),
        (f"{_COMMAND}/properties/food", None, "command animal.feed: data.food is gone"),
        (f"{_ANYONE}/x-access", "member", "command animal.watch: is only for members of the room now"),
    ],
)
def test_breaking_changes_are_found(zoo_registry: Registry, path: str, value: Any, change: str) -> None:
    """Each kind of breaking change has its line."""
    old = asyncapi(zoo_registry)
    assert change in breaking_changes(old, changed(old, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{_EVENT}/properties/more", {"type": "string"}),
        (f"{_COMMAND}/properties/more", {"type": "string"}),
        (f"{_COMMAND}/required", []),
        (f"{_COMMAND}/properties/amount/maximum", 50),
        (f"{_COMMAND}/properties/food/enum", ["nut", "apple", "hay", "cake"]),
        (f"{_MEMBER}/x-access", "anyone"),
        (f"{_ANYONE}/x-access", None),
        ("components/messages/event.more", {"name": "more", "payload": {"properties": {}}}),
    ],
)
def test_other_changes_break_nothing(zoo_registry: Registry, path: str, value: Any) -> None:
    """Changes that clients can ignore are not listed."""
    old = asyncapi(zoo_registry)
    assert breaking_changes(old, changed(old, path, value)) == []
