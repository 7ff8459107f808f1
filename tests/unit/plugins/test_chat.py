"""Tests of ``plugins.chat``: messages as documented, and edits and deletions by their authors."""

from __future__ import annotations

import json
import re

import pytest

from roomcast import Refused
from roomcast.testing import Client, Connect, LiveGateway, running

pytest_plugins = ("roomcast.testing",)

ROOM = "channel:456"

#: The examples in docs/protocol.md.
SEND_MESSAGE = """
{
  "type": "send_message",
  "room": "channel:456",
  "data": {
    "content": "Hello everyone!",
    "metadata": {
      "reply_to": 789
    }
  }
}
"""
MESSAGE = """
{
  "type": "message",
  "room": "channel:456",
  "data": {
    "content": "Hello everyone!",
    "username": "alice",
    "user_id": 12345,
    "metadata": {
      "reply_to": 789
    }
  },
  "sender": "alice",
  "timestamp": "2025-11-13T12:00:00Z"
}
"""
TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
async def alice(connect: Connect) -> Client:
    """Connect the user of the examples, who joins the room."""
    user = await connect("alice", user_id=12345, rooms=["channel:*"])
    await user.join(ROOM)
    return user


@pytest.fixture
async def bob(connect: Connect, alice: Client) -> Client:
    """Connect another user, who joins the room and has received all joins."""
    user = await connect("bob", user_id=2, rooms=["*"])
    await user.join(ROOM)
    await user.next("user_joined")
    return user


async def say(user: Client, content: str = "Hello", room: str = ROOM, **data: object) -> str:
    """Send a message; return its id."""
    reply = await user.command("send_message", {"content": content, **data}, room=room)
    return reply["event_id"]


async def change(user: Client, id: str, content: str = "Changed", room: str = ROOM, **data: object) -> str:
    """Edit a message; return the id of the event."""
    reply = await user.command("edit_message", {"message_id": id, "content": content, **data}, room=room)
    return reply["event_id"]


async def delete(user: Client, id: str, room: str = ROOM) -> str:
    """Delete a message; return the id of the event."""
    reply = await user.command("delete_message", {"message_id": id}, room=room)
    return reply["event_id"]


# Sending.


async def test_the_example_of_send_message(alice, bob) -> None:
    """Everyone in the room gets the documented event, with a timestamp and an id, and nothing else."""
    await alice.send(json.loads(SEND_MESSAGE))
    expected = json.loads(MESSAGE)
    for user in (alice, bob):
        event = await user.next("message")
        assert re.fullmatch(TIMESTAMP, event["timestamp"])
        assert event == expected | {"timestamp": event["timestamp"], "id": event["id"]}
        await user.nothing("message")
        await user.nothing("sent")
        await user.nothing("error")


async def test_a_backend_may_publish_a_message(alice, gateway) -> None:
    """The documented event is delivered unchanged, with a timestamp and an id."""
    example = json.loads(MESSAGE)
    id = await gateway.service.publish("message", ROOM, example["data"], sender=example["sender"])
    event = await alice.next("message")
    assert event == example | {"timestamp": event["timestamp"], "id": id}


async def test_the_reply_to_a_request_with_an_id(alice, bob) -> None:
    """The reply has the ids of the request and of the event; others get no reply."""
    await alice.send({**json.loads(SEND_MESSAGE), "id": "mine"})
    sent = await alice.next("sent")
    event = await alice.next("message")
    assert re.fullmatch(TIMESTAMP, sent.pop("timestamp"))
    assert sent == {"type": "sent", "id": "mine", "room": ROOM, "data": {"event_id": event["id"]}}
    await bob.nothing("sent")


async def test_metadata_is_not_changed(alice) -> None:
    """Any object is delivered unchanged; the default is an empty object."""
    metadata = {"reply_to": None, "tags": ["ä", {"deep": [1, 2.5, True]}], "type": "message", "": 0}
    await say(alice, metadata=metadata)
    await say(alice)
    assert (await alice.next("message"))["data"]["metadata"] == metadata
    assert (await alice.next("message"))["data"]["metadata"] == {}


async def test_the_sender_cannot_be_set(alice) -> None:
    """Name and id are those of the token; data with other values is refused."""
    with pytest.raises(Refused) as refused:
        await say(alice, username="bob", user_id=2)
    assert refused.value.code == "invalid_data"
    assert refused.value.fields == {"username": ["Unknown field."], "user_id": ["Unknown field."]}
    await alice.nothing("message")


@pytest.mark.parametrize("content", ["x", "x" * 10_000, "😀" * 10_000, " ", "<b>&amp;\u2028"])
async def test_content_of_1_to_10000_characters(alice, content) -> None:
    """The limit counts characters, not bytes, and the content is not changed."""
    await say(alice, content)
    assert (await alice.next("message"))["data"]["content"] == content


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"content": ""}, "content"),
        ({"content": "x" * 10_001}, "content"),
        ({"content": None}, "content"),
        ({"content": 1}, "content"),
        ({"content": ["x"]}, "content"),
        ({}, "content"),
        ({"metadata": {}}, "content"),
        ({"content": "x", "metadata": []}, "metadata"),
        ({"content": "x", "metadata": "m"}, "metadata"),
        ({"content": "x", "more": 1}, "more"),
    ],
)
async def test_an_invalid_message_is_refused(alice, data, field) -> None:
    """The error names the field, nothing is published, and the connection stays open."""
    with pytest.raises(Refused) as refused:
        await alice.command("send_message", data, room=ROOM)
    assert refused.value.code == "invalid_data"
    assert list(refused.value.fields) == [field]
    assert f"data.{field}: " in refused.value.message
    await alice.nothing("message")


@pytest.mark.parametrize("room", ["project:123", "task:789"])
async def test_messages_in_other_rooms(connect, room) -> None:
    """Rooms of projects and tasks have messages too."""
    bob = await connect("bob", rooms=["*"])
    await bob.join(room)
    id = await say(bob, room=room)
    event = await bob.next("message")
    assert (event["room"], event["id"]) == (room, id)


# Permissions, edits and deletions.


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("send_message", {"content": "Hello"}),
        ("edit_message", {"message_id": "1-1", "content": "Hello"}),
        ("delete_message", {"message_id": "1-1"}),
    ],
)
async def test_only_members_may_send(alice, connect, type, data) -> None:
    """Access to the room and an earlier membership are not enough, and the request must name a room."""
    carol = await connect("carol", user_id=3, rooms=["*"])
    await carol.join("channel:1")
    await carol.leave("channel:1")
    for room in (ROOM, "channel:1", "user:3", "user:12345"):
        with pytest.raises(Refused) as refused:
            await carol.command(type, data, room=room)
        assert refused.value.code == "not_joined"
    with pytest.raises(Refused) as refused:
        await carol.command(type, data)
    assert refused.value.code == "bad_room"
    await alice.nothing("message")


async def test_an_edit(alice, bob) -> None:
    """Everyone gets the id and the new content; the metadata stays."""
    id = await say(alice, "Helo", metadata={"reply_to": 789})
    event_id = await change(alice, id, "Hello")
    for user in (alice, bob):
        event = await user.next("message.edited")
        assert re.fullmatch(TIMESTAMP, event["timestamp"])
        assert event == {
            "type": "message.edited",
            "room": ROOM,
            "data": {
                "message_id": id,
                "content": "Hello",
                "username": "alice",
                "user_id": 12345,
                "metadata": {"reply_to": 789},
            },
            "sender": "alice",
            "timestamp": event["timestamp"],
            "id": event_id,
        }
        await user.nothing("message.edited")


async def test_a_deletion(alice, bob) -> None:
    """Everyone gets the id and the user."""
    id = await say(alice)
    event_id = await delete(alice, id)
    for user in (alice, bob):
        event = await user.next("message.deleted")
        assert event == {
            "type": "message.deleted",
            "room": ROOM,
            "data": {"message_id": id, "username": "alice", "user_id": 12345},
            "sender": "alice",
            "timestamp": event["timestamp"],
            "id": event_id,
        }
        await user.nothing("message.deleted")


async def test_only_the_author_may_change_a_message(alice, bob) -> None:
    """Other members are refused, and nothing is published."""
    id = await say(alice)
    for attempt in (change(bob, id), delete(bob, id)):
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.code == "not_author"
    for user in (alice, bob):
        await user.nothing("message.edited")
        await user.nothing("message.deleted")
    await change(alice, id)


async def test_a_user_with_the_same_name_is_not_the_author(alice, connect) -> None:
    """Users are identified by their ids."""
    id = await say(alice)
    double = await connect("alice", user_id=3, rooms=["*"])
    await double.join(ROOM)
    with pytest.raises(Refused) as refused:
        await delete(double, id)
    assert refused.value.code == "not_author"


async def test_the_author_may_use_another_connection(alice, connect) -> None:
    """A message from one tab can be edited and deleted in another."""
    id = await say(alice)
    tab = await connect("alice", user_id=12345, rooms=["channel:*"])
    await tab.join(ROOM)
    await change(tab, id)
    await delete(tab, id)
    assert (await alice.next("message.deleted"))["data"]["message_id"] == id


async def test_repeated_edits(alice) -> None:
    """Each edit uses the message's id; the metadata stays until an edit replaces it."""
    id = await say(alice, "one", metadata={"n": 1})
    await change(alice, id, "two", metadata={"n": 2})
    await change(alice, id, "three")
    await change(alice, id, "four", metadata={})
    events = [(await alice.next("message.edited"))["data"] for _ in range(3)]
    assert [event["message_id"] for event in events] == [id] * 3
    assert [(event["content"], event["metadata"]) for event in events] == [
        ("two", {"n": 2}),
        ("three", {"n": 2}),
        ("four", {}),
    ]


async def test_a_deleted_message_cannot_be_changed(alice) -> None:
    """It can be neither edited nor deleted again; other messages are not affected."""
    other, id = await say(alice), await say(alice)
    await change(alice, id)
    await delete(alice, id)
    await alice.next("message.edited")
    await alice.next("message.deleted")
    for attempt in (change(alice, id), delete(alice, id)):
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.code == "not_found"
    await alice.nothing("message.edited")
    await alice.nothing("message.deleted")
    await change(alice, other)


async def test_only_messages_can_be_edited(alice, bob) -> None:
    """The id of another event, even of the user's own, is refused."""
    id = await say(alice)
    joined = await alice.next("user_joined")
    for other in (await change(alice, id), joined["id"]):
        for attempt in (change(alice, other), delete(alice, other)):
            with pytest.raises(Refused) as refused:
                await attempt
            assert refused.value.code == "not_found"


async def test_an_unknown_id_is_not_found(alice) -> None:
    """Future ids, malformed ids and other texts are refused."""
    id = await say(alice)
    epoch, _, offset = id.rpartition("-")
    await alice.next("message")
    for unknown in (
        f"{epoch}-{int(offset) + 1}",
        f"{epoch}-0{offset}",
        f"{epoch}-",
        f"x-{offset}",
        "",
        "*",
        "x" * 5000,
    ):
        for attempt in (change(alice, unknown), delete(alice, unknown)):
            with pytest.raises(Refused) as refused:
                await attempt
            assert refused.value.code == "not_found"
            assert len(refused.value.message) < 200
    await alice.nothing("message.edited")
    await alice.nothing("message.deleted")


async def test_the_id_of_another_room_is_not_found(alice) -> None:
    """A message can be changed only in its room, even if the other room has an event with the same offset."""
    await alice.join("channel:1")
    id = await say(alice, room="channel:1")
    await say(alice)
    for attempt in (change(alice, id), delete(alice, id)):
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.code == "not_found"
    await alice.nothing("message.edited")


@pytest.mark.parametrize("id", [None, 789, ["1-1"], {}])
async def test_an_id_must_be_a_string(alice, id) -> None:
    """Other types are refused with the name of the field."""
    for type, data in (("edit_message", {"message_id": id, "content": "x"}), ("delete_message", {"message_id": id})):
        with pytest.raises(Refused) as refused:
            await alice.command(type, data, room=ROOM)
        assert (refused.value.code, list(refused.value.fields)) == ("invalid_data", ["message_id"])


async def test_an_edit_has_the_same_limits(alice) -> None:
    """The content of an edit has the limits of a message."""
    id = await say(alice)
    for content in ("", "x" * 10_001):
        with pytest.raises(Refused) as refused:
            await change(alice, id, content)
        assert list(refused.value.fields) == ["content"]
    await alice.nothing("message.edited")


async def test_a_message_that_is_no_longer_stored_cannot_be_changed() -> None:
    """With a history of three events, the fourth event removes the message."""
    async with running(history_size=3) as gateway:
        alice = await in_room(gateway)
        id = await say(alice, "one")
        await say(alice, "two")
        await change(alice, id)
        await say(alice, "three")
        for attempt in (change(alice, id), delete(alice, id)):
            with pytest.raises(Refused) as refused:
                await attempt
            assert refused.value.code == "not_found"
        assert id in refused.value.message


async def in_room(gateway: LiveGateway) -> Client:
    """Connect a user, who joins the room."""
    user = await gateway.connect("alice", rooms=["*"])
    await user.join(ROOM)
    return user


# Idempotency keys.


async def test_a_repeated_key_sends_once(alice, bob, connect) -> None:
    """A repeat gets the same reply, also on another connection of the user, and publishes nothing."""
    data = {"content": "Once"}
    first = await alice.command("send_message", data, room=ROOM, key="k1")
    assert await alice.command("send_message", data, room=ROOM, key="k1") == first
    tab = await connect("alice", user_id=12345, rooms=["channel:*"])
    await tab.join(ROOM)
    assert await tab.command("send_message", data, room=ROOM, key="k1") == first
    assert (await bob.next("message"))["id"] == first["event_id"]
    await bob.nothing("message")


async def test_another_key_or_user_sends_again(alice, bob) -> None:
    """A key belongs to one user."""
    ids = {
        (await user.command("send_message", {"content": "Hi"}, room=ROOM, key=key))["event_id"]
        for user, key in ((alice, "k1"), (alice, "k2"), (bob, "k1"))
    }
    assert len(ids) == 3


async def test_the_key_of_a_refused_command_can_be_used_again(alice) -> None:
    """A refused command can be repeated with the same key."""
    for attempt in range(2):
        with pytest.raises(Refused):
            await alice.command("delete_message", {"message_id": "1-1"}, room=ROOM, key=f"k{attempt // 2}")
    id = await say(alice)
    await alice.command("delete_message", {"message_id": id}, room=ROOM, key="k0")
    await alice.next("message.deleted")


async def test_a_repeated_deletion(alice, bob) -> None:
    """With the same key, a second deletion gets the first reply."""
    id = await say(alice)
    first = await alice.command("delete_message", {"message_id": id}, room=ROOM, key="k1")
    assert await alice.command("delete_message", {"message_id": id}, room=ROOM, key="k1") == first
    await bob.next("message.deleted")
    await bob.nothing("message.deleted")
