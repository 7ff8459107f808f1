"""Tests of ``specs.publishable``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from marshmallow import Schema, fields, post_dump, validate

from roomcast import Plugin
from roomcast.errors import PluginError
from roomcast.registry import LoadedPlugin, Registry
from roomcast.specs.publishable import check_schemas


class Priced(Schema):
    price = fields.Decimal(required=True)


class Tagged(Schema):
    tags = fields.List(fields.String(), required=True)

    @post_dump
    def unique(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return data | {"tags": set(data["tags"])}


class Broken(Schema):
    items = fields.Nested("NoSuchSchema")


class PricedItem(Schema):
    price = fields.Decimal()


class Cart(Schema):
    items = fields.List(fields.Nested(PricedItem))


class Totals(Schema):
    by_currency = fields.Dict(keys=fields.String(), values=fields.Decimal())


class Folder(Schema):
    name = fields.String(required=True)
    folders = fields.List(fields.Nested(lambda: Folder()), required=True)
    parent = fields.Nested(lambda: Folder())


class Fine(Schema):
    """A price as text, and a value with a rule of its own."""

    price = fields.Decimal(required=True, as_string=True)
    at = fields.DateTime()


class Picky(Schema):
    code = fields.String(required=True, validate=validate.Predicate("isdecimal"))


def registry_of(declare: Callable[[Plugin], object]) -> Registry:
    """Return the registry of one plugin."""
    plugin = Plugin("shop")
    declare(plugin)
    return Registry([LoadedPlugin(plugin, "shop 1.0", "shop")])


@pytest.mark.parametrize(
    ("schema", "reason"),
    [(Priced, "Decimal"), (Tagged, "set"), (Broken, "NoSuchSchema"), (Cart, "Decimal"), (Totals, "Decimal")],
)
def test_an_event_that_cannot_be_published_stops_the_start(schema: type[Schema], reason: str) -> None:
    """The sentence names the event, its plugin and the reason."""
    with pytest.raises(PluginError, match=r"schema of event 'shop\.sold' of plugin 'shop' cannot be used") as failed:
        check_schemas(registry_of(lambda plugin: plugin.event("shop.sold")(schema)))
    assert reason in str(failed.value)


def test_a_command_whose_schema_cannot_be_described_stops_the_start() -> None:
    """Otherwise ``/docs`` would fail for all plugins."""

    async def sell(ctx: object, data: dict[str, Any]) -> None:
        """Sell."""

    with pytest.raises(PluginError, match=r"schema of command 'shop\.sell' of plugin 'shop' cannot be used"):
        check_schemas(registry_of(lambda plugin: plugin.command("shop.sell", Broken)(sell)))


@pytest.mark.parametrize("schema", [Fine, Picky, Folder])
def test_other_events_are_accepted(schema: type[Schema]) -> None:
    """Also if the schema refuses the example, because no example can follow every rule, or contains itself."""
    check_schemas(registry_of(lambda plugin: plugin.event("shop.sold")(schema)))
