"""Tests of ``builtin_events``: the events and room type of roomcast itself are reserved."""

from __future__ import annotations

import pytest
from serving import Serve, connect

from roomcast import Context, Plugin, Refused
from roomcast.builtin_events import COMMANDS, FRAMES, builtin
from roomcast.errors import PluginError
from roomcast.registry import LoadedPlugin, Registry
from roomcast.schemas.validator import Validator

NOTICE = {"title": "You were mentioned", "message": "Alice mentioned you in channel #general"}


@pytest.fixture(scope="module")
def notification() -> Validator:
    """Return the validator of notifications."""
    return builtin.events["notification.new"].validator


def test_a_notification(notification: Validator) -> None:
    """The default priority is normal; a missing link is omitted."""
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
def test_an_invalid_notification_is_refused(notification: Validator, change: dict, field: str) -> None:
    """Texts have limits, the priority is one of four, other fields are refused; the field is named."""
    with pytest.raises(Refused) as caught:
        notification.event({**NOTICE, **change})
    assert list(caught.value.fields or ()) == [field]


@pytest.mark.parametrize("field", list(NOTICE))
def test_title_and_message_are_required(notification: Validator, field: str) -> None:
    """A notification without a title or a message is refused."""
    with pytest.raises(Refused) as caught:
        notification.event({name: value for name, value in NOTICE.items() if name != field})
    assert list(caught.value.fields or ()) == [field]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_builtin_commands_cannot_be_declared(command: str) -> None:
    """A plugin that declares a built-in command stops the start."""
    plugin = Plugin("thief")

    async def handler(ctx: Context, data: dict) -> None:
        """Do nothing."""

    plugin.command(command, builtin.events["notification.new"].validator.schema.__class__)(handler)
    with pytest.raises(PluginError, match="thief"):
        Registry([LoadedPlugin(plugin, "thief 1.0", "thief")])


@pytest.mark.parametrize("frame", [*FRAMES, *builtin.events])
def test_builtin_frames_cannot_be_declared(frame: str) -> None:
    """A plugin that declares an event with the type of a built-in frame stops the start."""
    plugin = Plugin("thief")
    plugin.event(frame)(builtin.events["notification.new"].validator.schema.__class__)
    with pytest.raises(PluginError, match="thief"):
        Registry([LoadedPlugin(plugin, "thief 1.0", "thief")])


def test_the_room_type_user_cannot_be_declared() -> None:
    """A plugin that declares the room type user stops the start."""
    plugin = Plugin("thief")
    plugin.room("user")
    with pytest.raises(PluginError, match="thief"):
        Registry([LoadedPlugin(plugin, "thief 1.0", "thief")])


@pytest.mark.parametrize("type", ["user_joined", "user_left"])
async def test_only_roomcast_publishes_joins_and_leaves(serve: Serve, type: str) -> None:
    """Neither a backend nor a client can publish user_joined and user_left."""
    server = await serve()
    user = {"username": "mallory", "user_id": 6}
    with pytest.raises(Refused, match="announced by roomcast itself"):
        server.gateway.publishing.publish(type, "channel:1", user, None, None)
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.settled()
        await alice.send(type, "channel:1", user)
        assert [frame["type"] for frame in await alice.settled()] == ["error"]


async def test_notifications_go_only_to_personal_rooms(serve: Serve) -> None:
    """notification.new in another room is refused with a sentence that names the room type."""
    server = await serve()
    with pytest.raises(Refused, match=r"notification\.new goes to user:…, not to channel:1\."):
        server.gateway.publishing.publish("notification.new", "channel:1", NOTICE, None, None)
    async with connect(server, "a.b-c", "alice") as alice:
        await server.gateway.publishing.publish("notification.new", "user:a.b-c", NOTICE, "system", None)
        event = await alice.recv()
        assert set(event) == {"type", "data", "sender", "timestamp", "id"}
