"""Tests of the typing plugin, on the embedded broker, on Redis and on two nodes."""

import pytest

pytestmark = pytest.mark.all_brokers
ROOM = "channel:1"


@pytest.fixture
async def users(connect):
    users = [await connect(name, rooms=["channel:*"]) for name in ("alice", "bob")]
    for user in users:
        await user.join(ROOM)
    return users


async def test_others_see_it(users):
    alice, bob = users
    await alice.command("typists.set", {}, room=ROOM)
    await bob.next("typists.changed", data={"user_id": "alice", "username": "alice", "typing": True})
    await alice.nothing("typists.changed")


async def test_a_message_ends_it(users):
    alice, bob = users
    for typing in (True, False, True):
        await alice.command("typists.set", {"typing": typing}, room=ROOM)
    await alice.command("send_message", {"content": "Hi"}, room=ROOM)
    assert (await bob.next("typists.changed"))["data"]["typing"] is True
    await alice.lose()
    await bob.nothing("typists.changed")


async def test_a_lost_connection_ends_it(users):
    alice, bob = users
    await alice.command("typists.set", {}, room=ROOM)
    assert (await bob.next("typists.changed"))["data"]["typing"] is True
    await alice.lose()
    assert (await bob.next("typists.changed"))["data"]["typing"] is False
