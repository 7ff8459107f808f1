"""Tests of ``plugin_hooks`` and ``hook_targets``: hooks are declared, and those that cannot be called are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from marshmallow import Schema
from serving import registry_with

from roomcast import Context, MemberContext, Plugin, Service
from roomcast.errors import PluginError, SettingsError
from roomcast.registry import Registry
from roomcast.settings import Settings

SETTINGS = {"jwt_secret": "x" * 32}


class Data(Schema):
    """Nothing."""


def test_decorators_return_their_argument() -> None:
    """Hooks can be used without the plugin too, and may be coroutine functions or plain functions."""
    plugin = Plugin("polls")

    async def with_context(ctx: Context) -> None: ...

    def with_member(ctx: MemberContext) -> None: ...

    async def with_user(service: Service, user_id: int | str) -> None: ...

    def with_data(ctx: Context, data: dict[str, Any]) -> None: ...

    async def with_event(service: Service, event: dict[str, Any]) -> None: ...

    assert plugin.on_connect(with_context) is with_context
    assert plugin.on_disconnect(with_context) is with_context
    assert plugin.on_join("channel")(with_member) is with_member
    assert plugin.on_leave("channel")(with_member) is with_member
    assert plugin.on_online(with_user) is with_user
    assert plugin.on_offline(with_user) is with_user
    assert plugin.before_command("send_message", order=3)(with_data) is with_data
    assert plugin.before_publish("message")(with_event) is with_event
    assert plugin.after_publish("message")(with_event) is with_event
    assert [(hook.kind, hook.target, hook.name, hook.order) for hook in plugin.hooks] == [
        ("on_connect", "", "with_context", 0),
        ("on_disconnect", "", "with_context", 0),
        ("on_join", "channel", "with_member", 0),
        ("on_leave", "channel", "with_member", 0),
        ("on_online", "", "with_user", 0),
        ("on_offline", "", "with_user", 0),
        ("before_command", "send_message", "with_data", 3),
        ("before_publish", "message", "with_event", 0),
        ("after_publish", "message", "with_event", 0),
    ]
    assert all(hook.plugin == "polls" for hook in registry_with(plugin).hooks)


class Greeter:
    """An object that can be called."""

    async def __call__(self, ctx: Context) -> None: ...


def test_names_of_functions() -> None:
    """The name of a hook is that of its function, also behind a ``partial`` or an object."""
    plugin = Plugin("polls")

    async def welcome(greeting: str, ctx: Context) -> None: ...

    plugin.on_connect(partial(welcome, "hi"))
    plugin.on_connect(Greeter())
    assert [hook.name for hook in plugin.hooks] == ["welcome", "Greeter"]


async def generator(ctx: Context):  # type: ignore[no-untyped-def]
    """A hook with yield."""
    yield


WRONG: dict[str, tuple[Callable[[Plugin], Any], str]] = {
    "no function": (lambda plugin: plugin.on_connect("channel"), "must be an `async def` or a plain `def` function"),
    "a generator": (lambda plugin: plugin.on_disconnect(generator), "without yield"),
    "a class": (lambda plugin: plugin.on_online(Data), "must be an `async def` or a plain `def` function"),
    "no argument": (lambda plugin: plugin.on_join("channel")(lambda: None), r"is called as <lambda>\(ctx\)"),
    "one argument": (
        lambda plugin: plugin.before_publish("message")(lambda event: None),
        r"the before_publish hook of event 'message' of plugin 'polls' is called as <lambda>\(service, event\)",
    ),
    "no target": (lambda plugin: plugin.on_leave(lambda ctx: None), r"needs the name of a room type; write @polls.on_"),
    "an event's schema": (lambda plugin: plugin.after_publish(Data), "needs the name of an event"),
    "parentheses": (lambda plugin: plugin.on_online(), "write @polls.on_online without parentheses"),
    "no order": (lambda plugin: plugin.before_command("send_message", order="first"), "must be an integer"),
    "a bool": (lambda plugin: plugin.before_publish("message", order=True), "must be an integer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_declarations(case: str) -> None:
    """A hook that cannot be called as roomcast calls it is refused at once, with a sentence."""
    declare, sentence = WRONG[case]
    with pytest.raises(PluginError, match=sentence):
        declare(Plugin("polls"))


UNKNOWN: dict[str, tuple[Callable[[Plugin], Any], str]] = {
    "command": (
        lambda plugin: plugin.before_command("send_mesage")(lambda ctx, data: None),
        "hook <lambda> (before_command of command send_mesage) of plugin 'polls' cannot be called: no plugin declares "
        "the command 'send_mesage'; did you mean 'send_message'?",
    ),
    "core command": (lambda plugin: plugin.before_command("join_room")(lambda ctx, data: None), "of roomcast itself"),
    "event": (lambda plugin: plugin.before_publish("zzz")(lambda s, e: None), "no plugin declares the event 'zzz'."),
    "core event": (lambda plugin: plugin.after_publish("user_joined")(lambda s, e: None), "use on_join or on_leave"),
    "live event": (lambda plugin: plugin.before_publish("typing")(lambda s, e: None), "declared with stored=False"),
    "room type": (lambda plugin: plugin.on_join("poll")(lambda ctx: None), "no plugin declares the room type 'poll'"),
    "personal": (lambda plugin: plugin.on_join("user")(lambda ctx: None), "use on_online and on_offline"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_targets(case: str) -> None:
    """A hook for something that no plugin declares, or that has no hooks, stops the start."""
    plugin = Plugin("polls")
    declare, sentence = UNKNOWN[case]
    declare(plugin)
    with pytest.raises(PluginError, match=re.escape(sentence)) as caught:
        registry_with(plugin)
    assert "?." not in str(caught.value)


def test_rooms_without_presence() -> None:
    """Joins are not known in rooms without presence, so hooks for them are refused, also if a variable turns it off."""
    plugin = Plugin("polls")
    plugin.room("poll", presence=False)
    plugin.on_join("poll")(lambda ctx: None)
    with pytest.raises(PluginError, match="presence=False, so their members are not known"):
        registry_with(plugin)
    other = Plugin("others")
    other.on_leave("channel")(lambda ctx: None)
    registry = registry_with(other)
    registry.room_options(Settings(**SETTINGS))
    with pytest.raises(SettingsError, match="ROOM_CHANNEL_PRESENCE must not be false"):
        registry.room_options(Settings(**SETTINGS, room_variables={"ROOM_CHANNEL_PRESENCE": "false"}))


def test_order() -> None:
    """Hooks of one target are sorted by their order, then by the plugins, then by the place in the plugin."""
    first, second = Plugin("first"), Plugin("second")
    for plugin, name, order in ((first, "c", 1), (first, "b", 0), (second, "d", 1), (second, "a", -5)):

        async def hook(service: Service, event: dict[str, Any]) -> None: ...

        hook.__name__ = name
        plugin.before_publish("message", order=order)(hook)
    registry = registry_with(first, second)
    assert [hook.name for hook in registry.hooks_of("before_publish", "message")] == ["a", "b", "c", "d"]
    assert registry.hooks_of("before_publish", "task.created") == ()
    assert registry.event("message").has_hooks
    assert registry.stored_event("message").has_hooks
    assert not registry.event("task.created").has_hooks


def test_an_event_that_shares_its_schema() -> None:
    """Hooks of one event do not apply to another event with the same schema."""
    plugin = Plugin("polls")
    plugin.event("polls.first")(Data)
    plugin.event("polls.second")(Data)
    plugin.after_publish("polls.first")(lambda service, event: None)
    registry = registry_with(plugin)
    assert registry.event("polls.first").has_hooks
    assert not registry.event("polls.second").has_hooks
    assert registry.event(Data).type == "polls.second"


def test_without_hooks() -> None:
    """Without hooks, no event is marked."""
    registry = Registry()
    assert registry.hooks == []
    assert not any(event.has_hooks for event in registry.events.values())
