"""The core's own events: notifications as the document shows them, comings and goings as nobody else may tell them."""

from __future__ import annotations

import json

import pytest

from roomcast import Refused

pytest_plugins = ("roomcast.testing",)

#: From the document, word for word.
NOTIFICATION = """
{
  "type": "notification.new",
  "data": {
    "title": "You were mentioned",
    "message": "Alice mentioned you in channel #general",
    "link": "/project/123/channel/456",
    "priority": "normal"
  },
  "timestamp": "2025-11-13T12:00:00Z"
}
"""
USER_JOINED = """
{
  "type": "user_joined",
  "room": "channel:456",
  "data": {
    "username": "alice",
    "user_id": 12345
  },
  "sender": "alice",
  "timestamp": "2025-11-13T12:00:00Z"
}
"""


async def test_the_documents_notification_reaches_its_user_alone(gateway, connect):
    """All connections of the user get it, without having joined anything and without a room; nobody else does."""
    example = json.loads(NOTIFICATION)
    tabs = [await connect("bob", user_id=12345) for _ in range(2)]
    carol = await connect("carol", user_id=1234, rooms=["*"])
    id = await gateway.service.publish("notification.new", "user:12345", example["data"])
    for tab in tabs:
        event = await tab.next("notification.new")
        assert event == example | {"timestamp": event["timestamp"], "id": id}
        await tab.nothing()
    await carol.nothing()


async def test_a_notification_may_name_its_sender(gateway, connect):
    """Given one, it is there; the room is not."""
    bob = await connect("bob")
    await gateway.service.publish("notification.new", "user:bob", {"title": "T", "message": "M"}, sender="alice")
    event = await bob.next("notification.new")
    assert event.keys() == {"type", "data", "sender", "timestamp", "id"}
    assert event["sender"] == "alice"


async def test_a_notification_is_of_normal_priority_unless_said(gateway, connect):
    """The link may be left out."""
    bob = await connect("bob")
    await gateway.service.publish("notification.new", "user:bob", {"title": "T", "message": "M"})
    assert (await bob.next("notification.new"))["data"] == {"title": "T", "message": "M", "priority": "normal"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": None}, "title"),
        ({"message": 1}, "message"),
        ({"message": "x" * 4001}, "message"),
        ({"link": "x" * 2001}, "link"),
        ({"priority": "highest"}, "priority"),
        ({"urgent": True}, "urgent"),
    ],
)
async def test_a_notification_that_does_not_fit_is_refused_by_field(gateway, connect, change, field):
    """Nothing reaches the user."""
    bob = await connect("bob")
    with pytest.raises(Refused) as refused:
        await gateway.service.publish("notification.new", "user:bob", {"title": "T", "message": "M"} | change)
    assert (refused.value.code, list(refused.value.fields)) == ("invalid_data", [field])
    await bob.nothing()


async def test_a_notification_goes_to_users_only(gateway):
    """A room of many is no place for one."""
    with pytest.raises(Refused, match="user:…") as refused:
        await gateway.service.publish("notification.new", "channel:456", {"title": "T", "message": "M"})
    assert refused.value.code == "bad_room"


async def test_a_coming_is_told_as_the_document_shows_it(connect):
    """Everyone in the room, the one who joins included, gets the example with a time and an id of its own."""
    bob = await connect("bob", rooms=["*"])
    await bob.join("channel:456")
    await bob.next("user_joined")
    alice = await connect("alice", user_id=12345, rooms=["*"])
    await alice.join("channel:456")
    for user in (alice, bob):
        event = await user.next("user_joined")
        assert event == json.loads(USER_JOINED) | {"timestamp": event["timestamp"], "id": event["id"]}
        await user.nothing("user_joined")


async def test_a_going_is_told_to_those_who_stay(connect):
    """With the fields of the coming; the one who left gets ``left_room`` alone."""
    alice, bob = await connect("alice", user_id=12345, rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join("channel:456")
    assert await alice.leave("channel:456") == {"message": "Left room channel:456"}
    event = await bob.next("user_left")
    expected = json.loads(USER_JOINED) | {"type": "user_left"}
    assert event == expected | {"timestamp": event["timestamp"], "id": event["id"]}
    await alice.nothing("user_left")


@pytest.mark.parametrize("type", ["user_joined", "user_left"])
async def test_nobody_else_tells_of_comings_and_goings(gateway, connect, type):
    """No plugin or backend publishes them, nor any client."""
    alice = await connect("alice", rooms=["*"])
    await alice.join("channel:1")
    await alice.next("user_joined")
    data = {"username": "ghost", "user_id": 0}
    with pytest.raises(Refused, match="announced by roomcast itself"):
        await gateway.service.publish(type, "channel:1", data)
    with pytest.raises(Refused) as refused:
        await alice.command(type, data, room="channel:1")
    assert refused.value.code == "unknown_type"
    await alice.nothing()
