"""The tests of unread messages, which hold on every broker.

A subclass has a fixture ``start`` (see ``brokers``).
"""

from __future__ import annotations

import asyncio
from typing import Any

from broker_contract import not_ids
from brokers import Start
from gateway_tools import ROOM, publish_numbered
from join_history import publish_large
from serving import User, connect
from waiting import wait_until

from roomcast.web.server import Server

MESSAGE = {"content": "x", "username": "bot", "user_id": 99}


async def publish(server: Server, count: int = 1, room: str = ROOM) -> list[str]:
    """Publish messages without an author, as a backend does; return their ids."""
    return [await server.gateway.publishing.publish("message", room, MESSAGE, None, None) for _ in range(count)]


async def mark(user: User, event_id: Any, room: str = ROOM) -> dict[str, Any]:
    """Mark a room as read; return the data of the reply."""
    await user.send("mark_read", room, {"event_id": event_id}, id="mark")
    return (await user.recv_type("marked_read", id="mark"))["data"]  # type: ignore[no-any-return]


async def unread_of(user: User, **options: Any) -> int:
    """Join ROOM; return the number of unread messages."""
    return (await user.join(ROOM, **options))["data"]["unread"]  # type: ignore[no-any-return]


def marks_among(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the frames ``marked_read`` without their time."""
    return [
        {name: frame[name] for name in frame if name != "timestamp"}
        for frame in frames
        if frame["type"] == "marked_read"
    ]


class UnreadMessages:
    """``mark_read`` and ``joined_room.data.unread``."""

    async def test_a_room_is_read_up_to_a_mark(self, start: Start) -> None:
        """A join counts the messages after the mark of the user, on each node, and no other events."""
        a, b = await start(), await start()
        ids = await publish(a, 3)
        await publish_numbered(a, 1)
        async with connect(a) as alice, connect(b) as other, connect(b, 2, "bob") as bob:
            assert await unread_of(alice) == 3
            assert await mark(alice, ids[0]) == {"event_id": ids[0], "unread": 2}
            assert await unread_of(other) == 2
            assert await unread_of(bob) == 3
            assert await unread_of(alice) == 2

    async def test_a_mark_does_not_move_backward(self, start: Start) -> None:
        """The reply to an older event names the mark, and other connections are not told."""
        server = await start()
        ids = await publish(server, 3)
        async with connect(server) as alice, connect(server) as other:
            await alice.join(ROOM)
            await mark(alice, ids[1])
            await other.settled()
            assert await mark(alice, ids[0]) == {"event_id": ids[1], "unread": 1}
            assert marks_among(await other.settled()) == []

    async def test_the_other_connections_of_the_user_are_told(self, start: Start) -> None:
        """They receive ``marked_read`` without an id, on all nodes and in or out of the room; other users do not."""
        a, b = await start(), await start()
        ids = await publish(a, 2)
        async with (
            connect(a) as alice,
            connect(a) as same,
            connect(b) as other,
            connect(b) as outside,
            connect(b, 2, "bob") as bob,
        ):
            for user in (alice, same, other, bob):
                await user.join(ROOM)
            for user in (alice, same, other, bob):
                await user.settled()
            assert await mark(alice, ids[0]) == {"event_id": ids[0], "unread": 1}
            expected = {"type": "marked_read", "room": ROOM, "data": {"event_id": ids[0], "unread": 1}}
            for user in (same, other, outside):
                frame = await user.recv_type("marked_read")
                assert marks_among([frame]) == [expected]
            for user in (alice, same, other, outside, bob):
                assert marks_among(await user.settled()) == []

    async def test_marks_that_are_refused(self, start: Start) -> None:
        """Something that is not the id of an event of the room is refused with the reason, and marks nothing."""
        server = await start()
        ids = await publish(server, 2)
        other = await publish(server, 3, "channel:2")
        async with connect(server) as alice:
            await alice.join(ROOM)
            for wrong in (*(id for id in not_ids(ids[1]).values() if id.isprintable() and len(id) < 1000), other[2]):
                await alice.send("mark_read", ROOM, {"event_id": wrong}, id=1)
                error = (await alice.recv_type("error"))["data"]
                assert (error["code"], error["error"][:16]) == ("not_found", f"{ROOM} has no e"[:16]), wrong
            for data in (None, {}, {"event_id": 5}, {"event_id": None}, {"event_id": ids[0], "x": 1}):
                await alice.send("mark_read", ROOM, data, id=1)
                assert (await alice.recv_type("error"))["data"]["code"] == "invalid_data", data
            for room, code in (("channel:2", "not_joined"), ("user:1", "not_joined"), (None, "bad_room")):
                await alice.send("mark_read", room, {"event_id": ids[0]}, id=1)
                assert (await alice.recv_type("error"))["data"]["code"] == code
            assert await unread_of(alice) == 2

    async def test_own_messages_are_read(self, start: Start) -> None:
        """A message moves the mark of its author; an edit by the author counts for no user."""
        a, b = await start(), await start()
        await publish(a, 2)
        async with connect(a) as alice, connect(b) as other, connect(b, 2, "bob") as bob:
            await alice.join(ROOM)
            await alice.send("send_message", ROOM, {"content": "1"}, id=1)
            sent = (await alice.recv_type("sent"))["data"]["event_id"]
            await alice.send("edit_message", ROOM, {"message_id": sent, "content": "2"}, id=2)
            await alice.recv_type("sent", id=2)
            assert [await unread_of(user) for user in (other, bob)] == [0, 3]
            await publish(a)
            await other.recv_type("message")
            assert await unread_of(other) == 1

    async def test_the_count_fits_the_events_that_follow(self, start: Start) -> None:
        """Joins and marks while messages are published: ``unread`` and the later messages add up to all of them."""
        a, b = await start(), await start()
        (first,) = await publish(a)
        async with connect(b) as alice:
            assert await mark_when_joined(alice, first) == 0
            await alice.send("leave_room", ROOM)
        publishing = asyncio.create_task(publish(a, 300))
        users: list[tuple[User, int]] = []
        async with connect(a) as one, connect(b) as two, connect(b) as three, connect(b) as four:
            for user, options in ((one, {}), (two, {}), (three, {"last": 5}), (four, {"since": first})):
                joined = await user.join(ROOM, **options)
                await asyncio.sleep(0.01)
                last = joined["data"].get("last_id")
                users.append((user, joined["data"]["unread"] - (int(last.split("-")[1]) if last else 0)))
            again = await two.join(ROOM)
            marked = await mark(three, first)
            await publishing
            (end,) = await publish(a)
            for user, _ in users:
                await user.recv_type("message", id=end)
            total = 301
            for user, unread in users[:2]:
                assert unread + count_messages(user, after="joined_room") == total
            assert again["data"]["unread"] + count_messages(two, after="joined_room", nth=2) == total
            assert marked["unread"] + count_messages(three, after="marked_read") == total
            assert users[2][1] == users[3][1] == -1

    async def test_a_resume_and_the_newest_events(self, start: Start) -> None:
        """``unread`` includes the events that follow, up to ``last_id``."""
        server = await start(history_size=5)
        ids = await publish(server, 8)
        async with connect(server) as alice:
            assert await unread_of(alice, last=3) == 5
            assert await unread_of(alice, since=ids[5]) == 5
            assert await unread_of(alice, since=ids[0], last=2) == 5
            assert await mark(alice, ids[0]) in ({"event_id": ids[0], "unread": 5}, {"event_id": ids[0], "unread": 7})

    async def test_a_mark_while_the_client_resumes(self, start: Start) -> None:
        """A mark is sent after the missed events if they follow in pages, so that no message is counted twice."""
        options = {"history_size": 400, "history_bytes": 2**26, "ws_message_rate": 0}
        a, b = await start(**options), await start(**options)
        (first,) = await publish(a)
        missed = await publish_large(a, 300, 60_000)
        async with connect(a) as outside, connect(b) as other:
            await other.join(ROOM)
            known = set(a.gateway.keepalive.connections)
            async with connect(a) as alice:
                await alice.send("join_room", ROOM, {"since": first})
                joined = await alice.recv_type("joined_room")
                alice.socket.transport.pause_reading()
                (client,) = set(a.gateway.keepalive.connections) - known
                await wait_until(lambda: client.unread_bytes > 0)
                await publish(a, 2)
                await mark(other, first)
                await outside.recv_type("marked_read")
                alice.socket.transport.resume_reading()
                (end,) = await publish(a)
                await alice.recv_type("message", id=end)
                assert joined["data"] == {
                    "message": f"Joined room {ROOM}",
                    "unread": 1,
                    "recovered": True,
                    "last_id": missed[-1],
                }
                await alice.settled()
                unread = 1
                for frame in alice.frames:
                    if frame["type"] == "marked_read":
                        unread = frame["data"]["unread"]
                    unread += frame["type"] == "message"
                assert unread == 3
                assert len(marks_among(alice.frames)) == 1

    async def test_a_type_of_rooms_without_messages(self, start: Start) -> None:
        """A room that has had no messages has no number of unread ones."""
        server = await start()
        await publish_numbered(server, 1, "task:1")
        async with connect(server) as alice:
            assert (await alice.join("task:1"))["data"] == {"message": "Joined room task:1"}


async def mark_when_joined(user: User, event_id: str) -> int:
    """Join ROOM and mark it; return the number of unread messages."""
    await user.join(ROOM)
    return (await mark(user, event_id))["unread"]  # type: ignore[no-any-return]


def count_messages(user: User, *, after: str, nth: int = 1) -> int:
    """Return the number of messages that the user has received after the ``nth`` frame of a type."""
    positions = [number for number, frame in enumerate(user.frames) if frame["type"] == after]
    return sum(frame["type"] == "message" for frame in user.frames[positions[nth - 1] :])
