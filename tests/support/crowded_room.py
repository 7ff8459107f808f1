"""The test that joins and leaves take no place in the history, which holds on every broker.

A subclass has a fixture ``start`` (see ``brokers``).
"""

from __future__ import annotations

import asyncio

from brokers import Start
from gateway_tools import ROOM
from serving import connect

from roomcast.web.server import Server

#: Joins and leaves together, and by how many users at the same time.
CHANGES, USERS = 500, 10
HISTORY_SIZE, MESSAGES = 50, 40


async def come_and_go(server: Server, user_id: int) -> None:
    """Join and leave the room again and again."""
    async with connect(server, user_id, f"user {user_id}") as user:
        for _ in range(CHANGES // USERS // 2):
            await user.join(ROOM)
            await user.send("leave_room", ROOM)
            await user.recv_type("left_room")


class CrowdedRoom:
    """A room in which messages are followed by many joins and leaves."""

    async def test_messages_outlive_joins_and_leaves(self, start: Start) -> None:
        """No message is lost, a client that returns recovers all it missed, and authors can edit their messages."""
        server = await start(history_size=HISTORY_SIZE, ws_message_rate=0, presence_grace=0)
        other = await start(history_size=HISTORY_SIZE, ws_message_rate=0, presence_grace=0)
        async with connect(server, 1, "alice") as alice:
            since = (await alice.join(ROOM, last=1))["data"]["last_id"]
        async with connect(other, 2, "bob") as bob:
            await bob.join(ROOM)
            ids = []
            for n in range(MESSAGES):
                await bob.send("send_message", ROOM, {"content": f"message {n}"}, id=n)
                ids.append((await bob.recv_type("sent", id=n))["data"]["event_id"])
            await bob.settled()
            seen = len(bob.frames)
            await asyncio.gather(*(come_and_go(server, 10 + n) for n in range(USERS)))
            await bob.settled()
            changes = [frame for frame in bob.frames[seen:] if frame["type"] in ("user_joined", "user_left")]
            assert len(changes) == CHANGES  # each was announced
            assert not any("id" in frame for frame in changes)

            async with connect(server, 1, "alice") as alice:
                joined = await alice.join(ROOM, since=since)
                assert (joined["data"]["recovered"], joined["data"]["last_id"]) == (True, ids[-1])
                missed = [frame for frame in await alice.settled() if "id" in frame]
                assert [frame["id"] for frame in missed] == ids
                await alice.send("history", ROOM, {"limit": 200}, id=1)
                found = (await alice.recv_type("history"))["data"]
                assert (found["events"], found["more"]) == (missed, False)

                await bob.send("edit_message", ROOM, {"message_id": ids[0], "content": "edited"}, id="edit")
                await bob.recv_type("sent", id="edit")
                edited = await alice.recv_type("message.edited")
                assert (edited["data"]["message_id"], edited["data"]["content"]) == (ids[0], "edited")
