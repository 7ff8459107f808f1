"""The options of room types as plugins declare them."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema

from roomcast import Plugin, registry
from roomcast.errors import PluginError
from roomcast.registry import LoadedPlugin, Registry
from roomcast.room_options import EffectiveOptions, RoomOptions, duration, in_words, shown


def test_options_are_stored_with_the_room_type() -> None:
    """The options are part of the declaration, with and without a rule."""
    polls = Plugin("polls")
    options: dict[str, Any] = {"history_size": 50, "history_ttl": 60, "commands": ("send_message",)}
    polls.room("poll", announce_max=0, **options)

    @polls.room("ballot", presence=False, **options)
    async def rule(ctx: Any, entity_id: str) -> bool:
        return True

    assert polls.rooms["poll"].options == RoomOptions(50, 60, None, 0, ("send_message",))
    assert polls.rooms["ballot"].options == RoomOptions(50, 60, False, None, ("send_message",))
    assert polls.rooms["ballot"].rule is not None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"history_size": -1}, "history_size is -1; it must be a whole number of at least 0"),
        ({"history_size": 2.5}, "history_size is 2.5; it must be a whole number"),
        ({"history_size": True}, "history_size is True; it must be a whole number"),
        ({"history_size": 10**10}, "at most 1000000000"),
        ({"history_ttl": 0}, "history_ttl is 0; it must be a number above 0"),
        ({"history_ttl": float("nan")}, "history_ttl is nan"),
        ({"history_ttl": float("inf")}, "history_ttl is inf"),
        ({"history_ttl": "60"}, "history_ttl is '60'"),
        ({"presence": 0}, "presence is 0; it must be true or false"),
        ({"announce_max": -1}, "announce_max is -1"),
        ({"commands": "send_message"}, "commands is 'send_message'; it must be a tuple like"),
        ({"commands": (1,)}, "it must be a tuple like"),
        ({"commands": ("Send",)}, "commands has 'Send', which is neither a command nor a pattern"),
        ({"commands": ("poll*",)}, "commands has 'poll*'"),
        ({"history_size": 0, "history_ttl": 60}, "history_ttl is 60, but history_size is 0"),
        ({"presence": False, "announce_max": 5}, "announce_max is 5, but presence is False"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], sentence: str) -> None:
    """The sentence names the plugin, the room type, the option and its value."""
    plugin = Plugin("polls")
    with pytest.raises(PluginError) as raised:
        plugin.room("poll", **options)
    assert str(raised.value).startswith("room type 'poll' of plugin 'polls': ")
    assert sentence in str(raised.value)
    assert not plugin.rooms


@pytest.mark.parametrize("options", [{"presence": True}, {"announce_max": 1}, {"commands": ()}])
def test_personal_rooms_have_only_options_of_the_history(options: dict[str, Any]) -> None:
    """Users do not join personal rooms, so they have no presence and no commands of members."""
    with pytest.raises(PluginError, match="personal rooms have no options but history_size and history_ttl"):
        Plugin("polls").room("user", **options)
    Plugin("polls").room("user", history_size=1, history_ttl=1.5)


def loaded(*plugins: Plugin) -> Registry:
    """Return a registry of the installed plugins and ``plugins``."""
    return Registry([*registry.installed(), *(LoadedPlugin(one, "roomcast-polls 1.0", one.name) for one in plugins)])


@pytest.mark.parametrize("pattern", ["send_mesage", "poll.*", "send_message.*"])
def test_a_command_that_no_plugin_declares_stops_the_start(pattern: str) -> None:
    """The sentence names the plugin, its package and the command."""
    plugin = Plugin("polls")
    plugin.room("poll", commands=("send_message", pattern))
    with pytest.raises(PluginError) as raised:
        loaded(plugin)
    sentence = str(raised.value)
    assert "room type 'poll' of plugin 'polls' (package 'roomcast-polls 1.0', entry point 'polls')" in sentence
    assert f"no plugin declares a command '{pattern}'; " in sentence
    assert ("did you mean send_message?" in sentence) is (pattern != "poll.*")


def test_commands_of_other_plugins_may_be_allowed() -> None:
    """A room type may allow commands of a plugin that is loaded later, and of all plugins."""
    first, second = Plugin("a"), Plugin("z")
    first.room("poll", commands=("poll.*", "edit_message"))
    first.room("any", commands=("*",))

    @second.command("poll.vote", Schema)
    async def vote(ctx: Any, data: Any) -> None:
        pass

    assert set(loaded(first, second).commands) > {"poll.vote"}


def test_the_shown_options() -> None:
    """Documents show the options that have an effect."""
    options = EffectiveOptions(5, 60.0, True, 9, frozenset({"b", "a"}))
    assert shown(options, "poll") == {
        **{"history_size": 5, "history_ttl": 60.0, "presence": True, "announce_max": 9, "commands": ["a", "b"]}
    }
    assert shown(EffectiveOptions(0, 60.0, False, 9), "poll") == {"history_size": 0, "presence": False}
    assert shown(EffectiveOptions(5, 60.0, False, 9), "user") == {"history_size": 5, "history_ttl": 60.0}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "0.5 s"),
        (59, "59 s"),
        (60, "1 min"),
        (5400, "90 min"),
        (3600.0, "1 h"),
        (86400, "1 day"),
        (604800, "7 days"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    """The unit is the largest one in which the time is a whole number."""
    assert duration(seconds).replace("\u00a0", " ") == words


def test_the_options_in_words() -> None:
    """Zero and one have words of their own."""
    words = in_words(EffectiveOptions(1, 60.0, True, 0, frozenset()), "poll")
    assert {name: text.replace("\u00a0", " ") for name, text in words.items()} == {
        **{"history": "1 event for 1 min", "presence": "joins are not announced", "commands": "none"}
    }
    assert in_words(EffectiveOptions(0, 60.0, False, 9), "poll") == {
        **{"history": "none", "presence": "none", "commands": "all"}
    }
