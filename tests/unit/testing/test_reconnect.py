"""Tests of ``lose`` and ``reconnect``, on all brokers."""

from __future__ import annotations

from typing import Any

import pytest

from roomcast import Refused

pytest_plugins = ("roomcast.testing",)
pytestmark = [pytest.mark.all_brokers, pytest.mark.slow]

ROOM = "channel:1"


@pytest.fixture
def roomcast_settings() -> dict[str, Any]:
    """Return a short grace period and a short history."""
    return {"presence_grace": 0.2, "history_size": 5}


async def say(user: Any, content: str, room: str = ROOM) -> None:
    """Send a message."""
    await user.command("send_message", {"content": content}, room=room)


async def contents(user: Any, count: int) -> list[str]:
    """Return the texts of the next messages."""
    return [(await user.next("message"))["data"]["content"] for _ in range(count)]


async def test_missed_events_arrive_after_a_reconnect(connect) -> None:
    """The client joins its rooms again, and receives what it missed, once and in order."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for room in (ROOM, "channel:2"):
        for user in (alice, bob):
            await user.join(room)
    await say(bob, "seen")
    assert await contents(alice, 1) == ["seen"]
    await alice.lose()
    for content in ("one", "two"):
        await say(bob, content)
    await say(bob, "elsewhere", "channel:2")
    joined = await alice.reconnect()
    assert joined.keys() == {ROOM, "channel:2"}
    assert all(data["recovered"] for data in joined.values())
    found = [await alice.next("message") for _ in range(3)]
    by_room = {room: [one["data"]["content"] for one in found if one["room"] == room] for room in joined}
    assert by_room == {ROOM: ["one", "two"], "channel:2": ["elsewhere"]}
    await say(bob, "live")
    assert await contents(alice, 1) == ["live"]
    await alice.nothing("message")


async def test_a_resume_begins_at_the_join_in_a_quiet_room(connect) -> None:
    """Without an event before the loss, everything after the join is missed, and nothing before it."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    await bob.join(ROOM)
    await say(bob, "before")
    await alice.join(ROOM)
    await alice.lose()
    await say(bob, "missed")
    await alice.reconnect()
    assert await contents(alice, 1) == ["missed"]
    await alice.lose()
    await alice.reconnect()
    await alice.nothing("message")


async def test_events_of_the_user_are_resumed(connect, gateway) -> None:
    """Notifications that were sent to the user meanwhile arrive too."""
    alice = await connect("alice")
    await gateway.service.notify("alice", "task.created", {"task_id": 1, "title": "Seen"})
    seen = await alice.next("task.created")
    await alice.lose()
    await gateway.service.notify("alice", "task.created", {"task_id": 2, "title": "Missed"})
    assert await alice.reconnect() == {}
    assert alice.welcome["recovered"] is True
    missed = await alice.next("task.created", data={"task_id": 2, "title": "Missed"})
    assert missed["id"] != seen["id"]
    await alice.nothing("task.created")


async def test_lost_events_are_reported(connect) -> None:
    """A history that does not reach back far enough is ``recovered: False``."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join(ROOM)
    await say(bob, "seen")
    await alice.next("message")
    await alice.lose()
    for number in range(8):
        await say(bob, str(number))
    assert (await alice.reconnect())[ROOM]["recovered"] is False
    await alice.nothing("message")


async def test_others_see_a_loss_after_the_grace_period(connect) -> None:
    """A lost connection is announced as any other; one that returns in time is not."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (bob, alice):
        await user.join(ROOM)
    assert (await bob.next("user_joined", room=ROOM))["data"]["user_id"] == "bob"
    assert (await bob.next("user_joined", room=ROOM))["data"]["user_id"] == "alice"
    await alice.lose()
    assert (await bob.next("user_left"))["data"]["user_id"] == "alice"
    assert await alice.closed() == (1006, "")
    await alice.reconnect()
    assert (await bob.next("user_joined"))["data"]["user_id"] == "alice"


async def test_rooms_that_were_left_are_not_joined_again(connect) -> None:
    """Only rooms in which the client was at the time of the loss are joined."""
    alice = await connect("alice", rooms=["*"])
    for room in (ROOM, "channel:2"):
        await alice.join(room)
    await alice.leave(ROOM)
    assert (await alice.reconnect()).keys() == {"channel:2"}
    with pytest.raises(Refused, match="Join"):
        await say(alice, "x")


async def test_a_reconnect_without_a_loss(connect) -> None:
    """A connection that is open is lost first."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    await alice.reconnect()
    await say(alice, "x")
    assert await contents(alice, 1) == ["x"]
