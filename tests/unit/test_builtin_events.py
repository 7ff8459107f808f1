"""What belongs to roomcast itself: its events and its room type, and that no plugin takes their names."""

from __future__ import annotations

import pytest
from serving import Serve, connect

from roomcast import Plugin, Refused
from roomcast.builtin_events import COMMANDS, FRAMES, builtin
from roomcast.errors import PluginError
from roomcast.registry import LoadedPlugin, Registry
from roomcast.schemas.validator import Validator

NOTICE = {"title": "You were mentioned", "message": "Alice mentioned you in channel #general"}


@pytest.fixture(scope="module")
def notification() -> Validator:
    """The checks of a notification's data."""
    return builtin.events["notification.new"].validator


def test_a_notification_has_a_priority_and_maybe_a_link(notification: Validator):
    """Priority is normal unless another is given; a link is left out where there is none."""
    assert notification.event(NOTICE) == {**NOTICE, "priority": "normal"}
    whole = {**NOTICE, "link": "/project/123/channel/456", "priority": "urgent"}
    assert notification.event(whole) == whole


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": None}, "title"),
        ({"title": ""}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"message": None}, "message"),
        ({"message": 7}, "message"),
        ({"message": "x" * 4001}, "message"),
        ({"link": 7}, "link"),
        ({"link": "x" * 2001}, "link"),
        ({"priority": "extreme"}, "priority"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_no_notification_is_refused_by_field(notification: Validator, change: dict, field: str):
    """Title and message are texts of bounded length, the priority one of four, and nothing else is known."""
    with pytest.raises(Refused) as caught:
        notification.event({**NOTICE, **change})
    assert list(caught.value.fields or ()) == [field]


@pytest.mark.parametrize("field", list(NOTICE))
def test_title_and_message_must_be_there(notification: Validator, field: str):
    """A notification without a title or a message is none."""
    with pytest.raises(Refused) as caught:
        notification.event({name: value for name, value in NOTICE.items() if name != field})
    assert list(caught.value.fields or ()) == [field]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_no_plugin_takes_a_core_command(command: str):
    """A plugin that declares a command of the core stops the start."""
    plugin = Plugin("thief")

    async def handler(ctx, data):
        """Steal."""

    plugin.command(command, builtin.events["notification.new"].validator.schema.__class__)(handler)
    with pytest.raises(PluginError, match="thief"):
        Registry([LoadedPlugin(plugin, "thief 1.0", "thief")])


@pytest.mark.parametrize("frame", [*FRAMES, *builtin.events])
def test_no_plugin_takes_a_frame_of_the_core(frame: str):
    """A plugin that declares an event of the name of a frame that only the server sends stops the start."""
    plugin = Plugin("thief")
    plugin.event(frame)(builtin.events["notification.new"].validator.schema.__class__)
    with pytest.raises(PluginError, match="thief"):
        Registry([LoadedPlugin(plugin, "thief 1.0", "thief")])


def test_no_plugin_takes_the_users_rooms():
    """A plugin that declares the room type user stops the start."""
    plugin = Plugin("thief")
    plugin.room("user")
    with pytest.raises(PluginError, match="thief"):
        Registry([LoadedPlugin(plugin, "thief 1.0", "thief")])


@pytest.mark.parametrize("type", ["user_joined", "user_left"])
async def test_only_roomcast_announces_who_comes_and_goes(serve: Serve, type: str):
    """Neither a backend nor a client can say that somebody came or went."""
    server = await serve()
    who = {"username": "mallory", "user_id": 6}
    with pytest.raises(Refused, match="announced by roomcast itself"):
        server.gateway.publishing.publish(type, "channel:1", who, None, None)
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.settled()
        await alice.send(type, "channel:1", who)
        assert [frame["type"] for frame in await alice.settled()] == ["error"]


async def test_a_notification_goes_only_to_users(serve: Serve):
    """notification.new in any other room is refused with a sentence that says where it goes."""
    server = await serve()
    with pytest.raises(Refused, match=r"notification\.new goes to user:…, not to channel:1\."):
        server.gateway.publishing.publish("notification.new", "channel:1", NOTICE, None, None)
    async with connect(server, "a.b-c", "alice") as alice:
        await server.gateway.publishing.publish("notification.new", "user:a.b-c", NOTICE, "system", None)
        event = await alice.recv()
        assert set(event) == {"type", "data", "sender", "timestamp", "id"}
