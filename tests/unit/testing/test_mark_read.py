"""Tests of ``mark_read`` of the clients, which shows how many messages of a room a user has not read."""

from __future__ import annotations

import pytest

from roomcast import Refused, testing

pytest_plugins = ("roomcast.testing",)

ROOM = "channel:1"


@pytest.mark.slow
@pytest.mark.all_brokers
async def test_messages_are_unread_until_they_are_marked(connect) -> None:
    """``join`` and ``mark_read`` return the number of unread messages, and the user's other client receives it."""
    alice, bob, phone = [await connect(name, rooms=["channel:*"]) for name in ("alice", "bob", "bob")]
    for client in (alice, bob, phone):
        await client.join(ROOM)
    ids = [(await alice.command("send_message", {"content": "Hi"}, room=ROOM))["event_id"] for _ in range(3)]
    assert (await bob.mark_read(ROOM, ids[0])) == {"event_id": ids[0], "unread": 2}
    await phone.next("marked_read", data={"event_id": ids[0], "unread": 2})
    await bob.nothing("marked_read")
    await bob.leave(ROOM)
    assert (await bob.join(ROOM))["unread"] == 2


async def test_everything_that_has_arrived_is_marked(connect) -> None:
    """Without an id, the last event that the client has received is marked."""
    alice, bob = [await connect(name, rooms=["channel:*"]) for name in ("alice", "bob")]
    for client in (alice, bob):
        await client.join(ROOM)
    for _ in range(3):
        await alice.command("send_message", {"content": "Hi"}, room=ROOM)
    await bob.nothing("no.such")  # all have arrived
    last = bob.events[-1]["id"]
    assert await bob.mark_read(ROOM) == {"event_id": last, "unread": 0}


async def test_a_mark_is_refused(connect) -> None:
    """A client that is not in the room, and an event that the room does not have, are refused."""
    alice = await connect("alice", rooms=["channel:*"])
    with pytest.raises(Refused) as refused:
        await alice.mark_read(ROOM, "a-1")
    assert refused.value.code == "not_joined"
    await alice.join(ROOM)
    with pytest.raises(Refused) as refused:
        await alice.mark_read(ROOM, "a-1")
    assert refused.value.code == "not_found"


def test_without_async() -> None:
    """The clients without ``async`` have the method too."""
    with testing.server() as server:
        alice, bob = [server.connect(name, rooms=["channel:*"]) for name in ("alice", "bob")]
        for client in (alice, bob):
            client.join(ROOM)
        event_id = alice.command("send_message", {"content": "Hi"}, room=ROOM)["event_id"]
        bob.next("message")
        assert bob.mark_read(ROOM) == {"event_id": event_id, "unread": 0}
