"""Tests of the away status, on the embedded broker, on Redis and on two nodes."""

import pytest
from roomcast_away import find_idle_users


@pytest.fixture
def roomcast_settings():
    return {"presence_grace": 0.1, "plugin_variables": {"AWAY_AFTER": "60"}}


@pytest.fixture
async def users(connect):  # alice writes on the first node, and after bob on the last one
    users = [await connect(name, rooms=["*"], node=node) for name, node in (("alice", 0), ("bob", 0), ("alice", -1))]
    for user in users:
        await user.join("channel:1")
        await user.command("send_message", {"content": "Hi"}, room="channel:1")
    return users


@pytest.mark.all_brokers
@pytest.mark.parametrize("end", ["leave", "lose"])
async def test_users_who_go_and_return(users, gateway, end):
    [await find_idle_users(node.services["away"], after=0) for node in gateway.nodes]
    await users[0].command("send_message", {"content": "I am back"}, room="channel:1")
    for away in (True, False):
        await users[2].command("away.set", {"away": away}, room="channel:1")
    for device in users[::2]:
        await (device.lose() if end == "lose" else device.leave("channel:1"))
    for user_id, away in (("bob", True), *(("alice", away) for away in (True, False, True, False, True))):
        await users[1].next("away.changed", data={"user_id": user_id, "away": away})
    await users[1].nothing("away.changed")


async def test_users_who_write_nothing(users, clock):
    await clock.advance(59)
    await users[1].nothing("away.changed")
    await clock.advance(2)
    await users[1].next("away.changed", data={"user_id": "bob", "away": True})
