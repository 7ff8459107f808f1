"""The commands of the plugin ``chat``, and two users in a room, for its tests."""

from __future__ import annotations

import pytest

from roomcast.testing import Client, Connect

ROOM = "channel:456"
TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
async def alice(connect: Connect) -> Client:
    """Connect the user of the examples, who joins the room."""
    user = await connect("alice", user_id=12345, rooms=["channel:*"])
    await user.join(ROOM)
    return user


@pytest.fixture
async def bob(connect: Connect, alice: Client) -> Client:
    """Connect another user, who joins the room and has received all joins."""
    user = await connect("bob", user_id=2, rooms=["*"])
    await user.join(ROOM)
    await user.next("user_joined")
    return user


async def say(user: Client, content: str = "Hello", room: str = ROOM, **data: object) -> str:
    """Send a message; return its id."""
    reply = await user.command("send_message", {"content": content, **data}, room=room)
    return reply["event_id"]


async def change(user: Client, id: str, content: str = "Changed", room: str = ROOM, **data: object) -> str:
    """Edit a message; return the id of the event."""
    reply = await user.command("edit_message", {"message_id": id, "content": content, **data}, room=room)
    return reply["event_id"]


async def delete(user: Client, id: str, room: str = ROOM) -> str:
    """Delete a message; return the id of the event."""
    reply = await user.command("delete_message", {"message_id": id}, room=room)
    return reply["event_id"]
