"""Deployments, on a real gateway."""

import pytest

from roomcast import Refused

ROOM = "environment:prod"


async def test_the_room_sees_a_rollback(connect):
    """Everyone in the room hears of it, its sender included, and once."""
    alice = await connect("alice", rooms=["environment:*"])
    bob = await connect("bob", rooms=[ROOM])
    await alice.join(ROOM)
    await bob.join(ROOM)
    assert await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM) == {"version": "1.1"}
    for user in (alice, bob):
        event = await user.next("deploy.finished")
        assert (event["room"], event["data"], event["sender"]) == (ROOM, {"version": "1.1"}, "alice")
        await user.nothing("deploy.finished")


async def test_others_stay_out(connect):
    """Who is not on the team gets no access."""
    mallory = await connect("mallory", rooms=["environment:test"])
    with pytest.raises(Refused) as refused:
        await mallory.join(ROOM)
    assert refused.value.code == "forbidden"
    assert await mallory.closed() == (4403, "Forbidden")


async def test_who_has_not_joined_rolls_nothing_back(connect):
    """To be allowed into the room is not to be in it."""
    alice = await connect("alice", rooms=["environment:*"])
    bob = await connect("bob", rooms=["environment:*"])
    await bob.join(ROOM)
    with pytest.raises(Refused) as refused:
        await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM)
    assert refused.value.code == "not_joined"
    await bob.nothing("deploy.finished")


async def test_a_build_server_publishes(connect, gateway):
    """What a backend publishes arrives too; nowhere but in an environment."""
    alice = await connect("alice", rooms=["environment:*"])
    await alice.join(ROOM)
    id = await gateway.service.publish("deploy.finished", ROOM, {"version": "2.0"}, sender="ci")
    assert (await alice.next("deploy.finished"))["id"] == id
    with pytest.raises(Refused, match=r"environment:…"):
        await gateway.service.publish("deploy.finished", "channel:1", {"version": "2.0"})


async def test_the_status_page_shows_what_is_live(connect, gateway):
    """The route knows the version that the room was told of."""
    alice = await connect("alice", rooms=["environment:*"])
    await alice.join(ROOM)
    await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM)
    async with gateway.session.get("/plugins/deploy/live/prod") as response:
        assert await response.json() == {"environment": "prod", "version": "1.1"}
