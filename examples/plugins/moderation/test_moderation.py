"""Tests of the moderation, on the embedded broker, on Redis and on two nodes."""

import pytest
from roomcast import Refused

pytestmark = pytest.mark.all_brokers


@pytest.fixture
def roomcast_settings():
    return {"room_variables": {"ROOM_USER_HISTORY_SIZE": "0"}, "plugin_variables": {"MODERATION_WORDS": "darn,heck"}}


@pytest.fixture
async def users(connect):
    users = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"], role="moderator")
    [await user.join("channel:1") for user in users]
    return users


async def test_words_are_hidden(users):
    sent = await users[0].command("send_message", {"content": "Darn, a heckler"}, room="channel:1")
    await users[0].command("edit_message", {"message_id": sent["event_id"], "content": "Heck!"}, room="channel:1")
    contents = [(await users[1].next(type))["data"]["content"] for type in ("message", "message.edited")]
    assert contents == ["***, a heckler", "***!"]


async def test_a_muted_user(users):
    alice, bob = users
    await bob.command("moderation.mute", {"user_id": "alice", "seconds": 60}, room="channel:1")
    assert (await alice.next("moderation.muted"))["data"]["channel"] == "channel:1"
    for type, data in (("send_message", {}), ("edit_message", {"message_id": "1-1"})):
        with pytest.raises(Refused, match="You are muted"):
            await alice.command(type, {"content": "Hi", **data}, room="channel:1")
    await bob.nothing("message")
    await bob.command("moderation.mute", {"user_id": "alice", "seconds": 0}, room="channel:1")
    await alice.command("send_message", {"content": "Hi"}, room="channel:1")
    with pytest.raises(Refused, match="Only moderators"):
        await alice.command("moderation.mute", {"user_id": "bob", "seconds": 1}, room="channel:1")
