"""Tests of ``plugins.chat``: messages as documented, and idempotency keys."""

from __future__ import annotations

import json
import re

import pytest
from chat_commands import ROOM, TIMESTAMP, say

from roomcast import Refused

pytest_plugins = ("roomcast.testing",)

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
