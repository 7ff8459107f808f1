"""Tests of the plugin on a real gateway."""

import pytest

from roomcast import Refused

ROOM = "environment:prod"


async def test_a_rollback(connect) -> None:
    """Everyone in the room, the sender included, gets the event once."""
    alice = await connect("alice", rooms=["environment:*"])
    bob = await connect("bob", rooms=[ROOM])
    await alice.join(ROOM)
    await bob.join(ROOM)
    assert await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM) == {"version": "1.1"}
    for user in (alice, bob):
        event = await user.next("deploy.finished")
        assert (event["room"], event["data"], event["sender"]) == (ROOM, {"version": "1.1"}, "alice")
        await user.nothing("deploy.finished")


async def test_others_cannot_join(connect) -> None:
    """Users outside the team are refused."""
    mallory = await connect("mallory", rooms=["environment:test"])
    with pytest.raises(Refused) as refused:
        await mallory.join(ROOM)
    assert refused.value.code == "forbidden"
    assert await mallory.closed() == (4403, "Forbidden")


async def test_a_rollback_requires_membership(connect) -> None:
    """Access to the room is not enough for a rollback."""
    alice = await connect("alice", rooms=["environment:*"])
    bob = await connect("bob", rooms=["environment:*"])
    await bob.join(ROOM)
    with pytest.raises(Refused) as refused:
        await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM)
    assert refused.value.code == "not_joined"
    await bob.nothing("deploy.finished")


async def test_a_backend_publishes(connect, gateway) -> None:
    """An event of a backend is delivered; it is refused in other types of rooms."""
    alice = await connect("alice", rooms=["environment:*"])
    await alice.join(ROOM)
    id = await gateway.service.publish("deploy.finished", ROOM, {"version": "2.0"}, sender="ci")
    assert (await alice.next("deploy.finished"))["id"] == id
    with pytest.raises(Refused, match=r"environment:…"):
        await gateway.service.publish("deploy.finished", "channel:1", {"version": "2.0"})


async def test_the_route_shows_the_live_version(connect, gateway) -> None:
    """The route returns the version of the last rollback."""
    alice = await connect("alice", rooms=["environment:*"])
    await alice.join(ROOM)
    await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM)
    async with gateway.session.get("/plugins/deploy/live/prod") as response:
        assert await response.json() == {"environment": "prod", "version": "1.1"}


async def test_the_route_for_users(gateway) -> None:
    """The route returns the environments that the user's token covers, and 401 without a token."""
    headers = {"Authorization": f"Bearer {gateway.token('alice', rooms=['environment:build'])}"}
    async with gateway.session.get("/plugins/deploy/mine", headers=headers) as response:
        assert await response.json() == {"user_id": "alice", "environments": ["build"]}
    async with gateway.session.get("/plugins/deploy/mine") as response:
        assert response.status == 401
