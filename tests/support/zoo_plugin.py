"""A plugin with every kind of schema field, for the tests of ``roomcast.specs``."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema, fields, validate
from serving import registry_with

from roomcast import Context, Plugin
from roomcast.registry import Registry

zoo = Plugin("zoo")
zoo.room("cage", description="A cage")


class Keeper(Schema):
    """The zookeeper who feeds the animal."""

    name = fields.String(required=True, validate=validate.Length(3, 40))
    boss = fields.Nested(lambda: Keeper(exclude=("boss",)))


@zoo.event("animal.fed", rooms=("cage",))
class Fed(Schema):
    """An animal was fed."""

    animal = fields.String(required=True)
    kilos = fields.Float(required=True, validate=validate.Range(min=0, min_inclusive=False, max=500))
    keeper = fields.Nested(Keeper, required=True)
    treats = fields.List(fields.String(validate=validate.OneOf(["nut", "apple"])), validate=validate.Length(min=2))
    at = fields.AwareDateTime()
    once_a_day = fields.Boolean(load_default=True)
    notes = fields.Dict(keys=fields.String(), values=fields.Integer())


class Feed(Schema):
    """The animal to feed, and its food."""

    animal = fields.String(required=True, validate=validate.Length(min=1))
    food = fields.String(validate=validate.OneOf(["nut", "apple", "hay"]))
    amount = fields.Integer(validate=validate.Range(1, 10))


@zoo.command("animal.feed", Feed, reply="fed")
async def feed(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Feed an animal."""
    return {}


class Watch(Schema):
    """The animal to watch."""

    animal = fields.String(required=True)


@zoo.command("animal.watch", Watch, access="anyone")
async def watch(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Watch an animal from outside its cage."""
    return {}


@pytest.fixture(scope="module")
def zoo_registry() -> Registry:
    """Return a registry of the built-in plugins and the zoo."""
    return registry_with(zoo)
