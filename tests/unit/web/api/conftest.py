"""A plugin whose schema fails, for tests of the API."""

from __future__ import annotations

import pytest
from marshmallow import Schema, fields

from roomcast import Plugin


def fail(value: object) -> None:
    """Fail as a validator with a bug does."""
    raise RuntimeError(f"no thought was given to {value!r}")


class Broken(Schema):
    x = fields.String(validate=fail)


@pytest.fixture
def broken_plugin() -> Plugin:
    """Return a plugin whose event ``broken.event`` cannot be validated."""
    plugin = Plugin("broken")
    plugin.event("broken.event")(Broken)
    return plugin
