"""Tests of ``plugins.chat``: only members may send, only authors may edit and delete."""

from __future__ import annotations

import re

import pytest
from chat_commands import ROOM, TIMESTAMP, change, delete, say

from roomcast import Refused
from roomcast.testing import Client, LiveGateway, running

pytest_plugins = ("roomcast.testing",)


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
    other = await change(alice, id)
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
