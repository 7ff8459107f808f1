"""Tests of ``typing`` in ``plugins.chat``: who sees it, when it ends, and that nothing of it is stored."""

from __future__ import annotations

import re

import pytest
from chat_commands import ROOM, TIMESTAMP, say

from roomcast import Refused

pytest_plugins = ("roomcast.testing",)


def is_typing(frame: dict) -> bool:
    """Return ``typing`` of an event."""
    return frame["data"]["typing"]


async def test_others_see_it(alice, bob) -> None:
    """The event has the user and no id; ``typing`` is true by default; the reply has no data; the user sees nothing."""
    assert await alice.command("typing", room=ROOM) == {}
    event = await bob.next("typing")
    assert re.fullmatch(TIMESTAMP, event["timestamp"])
    assert event == {
        "type": "typing",
        "room": ROOM,
        "data": {"user_id": 12345, "username": "alice", "typing": True},
        "sender": "alice",
        "timestamp": event["timestamp"],
    }
    await alice.nothing("typing")


async def test_the_key_of_the_request(alice, bob) -> None:
    """The event carries the key of the request; a repeat sends nothing, and the end does not carry it."""
    for _ in range(2):
        assert await alice.command("typing", room=ROOM, key="k1") == {}
    assert (await bob.next("typing"))["key"] == "k1"
    await alice.leave(ROOM)
    assert "key" not in await bob.next("typing")
    await bob.nothing("typing")


async def test_other_connections_of_the_user_do_not_see_it(alice, bob, connect) -> None:
    """A user's other tabs and devices do not receive it."""
    phone = await connect("alice", user_id=12345, rooms=["channel:*"])
    await phone.join(ROOM)
    await alice.command("typing", room=ROOM)
    await bob.next("typing")
    await phone.nothing("typing")


@pytest.mark.parametrize("data", [{"typing": "often"}, {"typing": None}, {"content": "Hello"}])
async def test_invalid_data(alice, bob, data) -> None:
    """Data that the schema refuses is not sent to the members."""
    with pytest.raises(Refused) as refused:
        await alice.command("typing", data, room=ROOM)
    assert refused.value.code == "invalid_data"
    await bob.nothing("typing")


async def test_only_members(connect, bob) -> None:
    """Users who are not in the room cannot type there."""
    carol = await connect("carol", user_id=3, rooms=["*"])
    for room, code in ((ROOM, "not_joined"), ("user:2", "not_joined"), (None, "bad_room")):
        with pytest.raises(Refused) as refused:
            await carol.command("typing", room=room)
        assert refused.value.code == code
    await bob.nothing("typing")


async def test_it_is_not_stored(alice, bob, gateway) -> None:
    """It has no place in the history, and a client that resumes does not receive it."""
    last_id = await say(bob)
    await alice.command("typing", room=ROOM)
    await bob.next("typing")
    assert [event["type"] for event in await gateway.service.history(ROOM)] == ["message"]
    joined = await bob.join(ROOM, since=last_id)
    assert (joined["recovered"], joined["last_id"]) == (True, last_id)
    await bob.nothing("typing")


async def test_at_most_one_in_a_second(alice, bob) -> None:
    """Of many within a second, others see the first and then the last one."""
    for typing in (True, False, True, False, True, False):
        await alice.command("typing", {"typing": typing}, room=ROOM)
    assert [is_typing(await bob.next("typing")) for _ in range(2)] == [True, False]
    await bob.nothing("typing")


async def test_a_message_ends_it(alice, bob) -> None:
    """After a message nothing that was typed before it is sent, also when the user leaves."""
    await alice.command("typing", room=ROOM)
    await alice.command("typing", room=ROOM)
    await say(alice)
    assert is_typing(await bob.next("typing"))
    await bob.next("message")
    await alice.command("typing", {"typing": False}, room=ROOM)  # is sent when the second is over
    assert not is_typing(await bob.next("typing"))
    await alice.leave(ROOM)
    await bob.next("user_left")
    await bob.nothing("typing")


@pytest.mark.parametrize("how", ["leave", "close", "kick"])
async def test_leaving_ends_it(alice, bob, gateway, how) -> None:
    """If the user leaves, is disconnected or is kicked while typing, others see that it ended."""
    await alice.command("typing", room=ROOM)
    assert is_typing(await bob.next("typing"))
    if how == "leave":
        await alice.leave(ROOM)
    elif how == "close":
        await alice.close()
    else:
        key = {"Authorization": f"Bearer {gateway.settings.api_key}"}
        async with gateway.session.delete(f"/api/v1/rooms/{ROOM}/members/12345", headers=key) as response:
            assert response.status < 300
    event = await bob.next("typing")
    assert event["data"] == {"user_id": 12345, "username": "alice", "typing": False}
    await bob.nothing("typing")


async def test_another_tab_stays(alice, bob, connect) -> None:
    """If another connection of the user stays in the room, nothing is sent."""
    phone = await connect("alice", user_id=12345, rooms=["channel:*"])
    await phone.join(ROOM)
    await alice.command("typing", room=ROOM)
    await bob.next("typing")
    await alice.leave(ROOM)
    await bob.nothing("typing")
    await phone.leave(ROOM)
    assert not is_typing(await bob.next("typing"))


async def test_it_works_in_a_room_of_another_type(connect) -> None:
    """Messages can be sent in rooms of any type, and so can ``typing``."""
    alice = await connect("alice", rooms=["*"])
    bob = await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join("project:1")
    await alice.command("typing", room="project:1")
    assert is_typing(await bob.next("typing", room="project:1"))
