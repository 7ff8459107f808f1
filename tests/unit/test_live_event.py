"""Tests of ``live_event``: the options of events that are not stored, and what contradicts them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from marshmallow import Schema, fields, validate

from roomcast import Plugin
from roomcast.errors import PluginError


class Cursor(Schema):
    """A position."""

    x = fields.Integer(required=True, data_key="left")
    color = fields.String(validate=validate.OneOf(["red", "blue"]))
    active = fields.Boolean(load_default=True)


def declare(**options: Any) -> Plugin:
    """Declare an event with ``options``."""
    plugin = Plugin("demo")
    plugin.event("demo.cursor", **options)(Cursor)
    return plugin


def test_the_defaults() -> None:
    """An event is stored unless it is declared otherwise; a live event has no further options by default."""
    assert declare().events["demo.cursor"].live is None
    assert declare().events["demo.cursor"].is_stored
    event = declare(stored=False).events["demo.cursor"]
    assert not event.is_stored
    assert event.live == (False, 0.0, None, False)


def test_all_options() -> None:
    """All options can be combined."""
    leave = {"active": False, "left": 0, "color": "red"}
    event = declare(stored=False, conflate=True, throttle=60, leave=leave, others_only=True).events["demo.cursor"]
    assert event.live == (True, 60, leave, True)
    assert event.live.keeps_state
    assert event.live.ends({"active": False, "left": 0, "color": "red", "more": 1})
    assert not event.live.ends({"active": True, "left": 0, "color": "red"})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"conflate": True}, "is stored, and conflate works only with stored=False"),
        ({"throttle": 1}, "is stored, and throttle works only with stored=False"),
        ({"leave": {"active": False}}, "is stored, and leave works only"),
        ({"others_only": True, "conflate": True}, "is stored, and conflate and others_only works only"),
        ({"stored": 0}, "stored=0; it must be True or False"),
        ({"stored": False, "throttle": -1}, "throttle=-1; it must be a number of seconds up to 60"),
        ({"stored": False, "throttle": 61}, "up to 60"),
        ({"stored": False, "throttle": True}, "throttle=True; it must be a number"),
        ({"stored": False, "throttle": float("nan")}, "throttle=nan"),
        ({"stored": False, "throttle": "1s"}, "throttle='1s'"),
        ({"stored": False, "leave": {}}, "it must be a dict with at least one field"),
        ({"stored": False, "leave": "active"}, "it must be a dict"),
        ({"stored": False, "leave": {"x": 1}}, "leave with 'x', but the fields of its schema are: left, color, active"),
        ({"stored": False, "leave": {"color": "green"}}, "color='green', which its schema refuses"),
        ({"stored": False, "leave": {"left": Decimal(1)}}, "left=Decimal('1'), which is no JSON value"),
        ({"stored": False, "leave": {"active": None}}, "active=None, which its schema refuses"),
    ],
)
def test_contradictions(options: dict[str, Any], sentence: str) -> None:
    """Options that cannot work are refused at the declaration, with the event, the plugin and the reason."""
    with pytest.raises(PluginError) as error:
        declare(**options)
    assert str(error.value).startswith("event 'demo.cursor' of plugin 'demo' ")
    assert sentence in str(error.value)
