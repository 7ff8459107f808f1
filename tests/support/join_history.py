"""The tests of ``join_room`` with ``last``, which hold on every broker.

A subclass has a fixture ``start`` (see ``brokers``).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from brokers import Start
from gateway_tools import ROOM, frame_types, numbers, offset, publish_numbered
from serving import User, connect
from waiting import wait_until

from roomcast.broker.base import MAX_PAGE_BYTES
from roomcast.web.server import Server


async def publish_large(server: Server, count: int, size: int) -> list[str]:
    """Publish ``count`` events with ``size`` bytes of text; return their ids."""
    data = {"task_id": 1, "changes": {"text": "x" * size}}
    return [await server.gateway.publishing.publish("task.updated", ROOM, data, None, None) for _ in range(count)]


def ids_of(frames: list[dict[str, Any]]) -> list[str]:
    """Return the ids of the events among ``frames``."""
    return [frame["id"] for frame in frames if frame["type"].startswith("task.")]


class JoinWithLast:
    """Joins that ask for the newest events."""

    @pytest.mark.parametrize(("last", "stored"), [(1, 5), (3, 5), (5, 5), (6, 5), (200, 5), (200, 300), (7, 0)])
    async def test_the_newest_events_follow(self, start: Start, last: int, stored: int) -> None:
        """They follow joined_room, oldest first; ``more`` tells if older ones are stored. Later events arrive live."""
        server = await start(announce_max=0)
        ids = [await publish_numbered(server, n) for n in range(stored)]
        async with connect(server) as alice:
            joined = await alice.join(ROOM, last=last)
            assert set(joined["data"]) == {"message", "last_id", "more"}
            assert joined["data"]["more"] is (stored > last)
            assert joined["data"]["last_id"] == ids[-1] if stored else joined["data"]["last_id"].endswith("-0")
            received = await alice.settled()
            assert frame_types(received) == ["task.deleted"] * min(last, stored)
            assert ids_of(received) == ids[-last:]
            await publish_numbered(server, stored)
            assert numbers(await alice.settled()) == [stored]

    async def test_a_client_can_resume_from_last_id(self, start: Start) -> None:
        """Even if the room had no event."""
        server = await start(presence_grace=0)
        async with connect(server) as alice:
            last_id = (await alice.join(ROOM, last=10))["data"]["last_id"]
        await publish_numbered(server, 1)
        async with connect(server) as alice:
            joined = await alice.join(ROOM, last=10, since=last_id)
            assert joined["data"]["recovered"] is True
            assert numbers(await alice.settled()) == [1]

    async def test_events_beyond_the_history_size(self, start: Start) -> None:
        """``more`` is about events that are stored, not about those that were."""
        server = await start(history_size=5)
        ids = [await publish_numbered(server, n) for n in range(20)]
        async with connect(server) as alice:
            for last, more in ((4, True), (5, False), (6, False)):
                joined = await alice.join(ROOM, last=last)
                assert joined["data"]["more"] is more
                assert ids_of(await alice.settled()) == ids[-min(last, 5) :]

    async def test_a_resume_that_is_possible(self, start: Start) -> None:
        """With ``since`` and ``last``, all missed events follow, however many, and nothing else."""
        server = await start()
        ids = [await publish_numbered(server, n) for n in range(10)]
        async with connect(server) as alice:
            joined = await alice.join(ROOM, since=ids[1], last=2)
            assert joined["data"] == {
                "message": f"Joined room {ROOM}",
                "recovered": True,
                "last_id": ids[-1],
            }
            assert ids_of(await alice.settled()) == ids[2:]

    @pytest.mark.parametrize("since", [None, "", "x", "1-1", "{epoch}-99"])
    async def test_a_resume_that_is_not_possible(self, start: Start, since: str | None) -> None:
        """With ``recovered`` false, the newest events follow, and later ones arrive live."""
        server = await start(history_size=5)
        ids = [await publish_numbered(server, n) for n in range(20)]
        if since is not None:
            since = since.replace("{epoch}", ids[0].rpartition("-")[0])
        async with connect(server) as alice:
            await alice.send("join_room", ROOM, {"since": since, "last": 3})
            joined = await alice.recv()
            expected = {
                "message": f"Joined room {ROOM}",
                "recovered": False,
                "last_id": ids[-1],
                "more": True,
            }
            assert joined["data"] == expected
            assert ids_of(await alice.settled()) == ids[-3:]
            await publish_numbered(server, 20)
            assert numbers(await alice.settled()) == [20]

    @pytest.mark.parametrize("buffer", [2**20, 100_000])
    async def test_at_most_one_page(self, start: Start, buffer: int) -> None:
        """Large events beyond 256 KB, or half of WS_MAX_BUFFER, do not follow; then ``more`` is true."""
        server = await start(history_bytes=2**26, ws_max_buffer=buffer, ws_max_message_size=65536)
        ids = await publish_large(server, 50, 20_000)
        fitting = min(MAX_PAGE_BYTES, buffer // 2) // 20_300
        async with connect(server) as alice:
            joined = await alice.join(ROOM, last=50)
            assert (joined["data"]["more"], joined["data"]["last_id"]) == (True, ids[-1])
            assert ids_of(await alice.settled()) == ids[-fitting:]
            joined = await alice.join(ROOM, last=fitting)
            assert joined["data"]["more"] is True
            assert ids_of(await alice.settled()) == ids[-fitting:]

    async def test_an_event_that_exceeds_the_buffer(self, start: Start) -> None:
        """A client that cannot be sent the newest event gets none, and stays connected."""
        server = await start(history_bytes=2**26, ws_max_buffer=70_000, ws_max_message_size=65536)
        ids = await publish_large(server, 2, 100_000)
        async with connect(server) as alice:
            joined = await alice.join(ROOM, last=2)
            assert (joined["data"]["more"], joined["data"]["last_id"]) == (True, ids[-1])
            assert ids_of(await alice.settled()) == []

    async def test_many_rooms_at_once(self, start: Start) -> None:
        """Joins wait until the client has read the events of earlier joins, so that each gets all of its events."""
        buffer = 40_000
        server = await start(ws_max_buffer=buffer, ws_max_message_size=buffer, announce_max=0, ws_message_rate=0)
        rooms = [f"channel:{n}" for n in range(20)]
        data = {"task_id": 1, "changes": {"text": "x" * 4000}}
        for room in rooms:
            for _ in range(4):
                await server.gateway.publishing.publish("task.updated", room, data, None, None)
        async with connect(server) as alice:
            for room in rooms:
                await alice.send("join_room", room, {"last": 4})
            for room in rooms:
                joined = await alice.recv()
                assert (joined["type"], joined["room"], joined["data"]["more"]) == ("joined_room", room, False)
                assert [(await alice.recv())["room"] for _ in range(4)] == [room] * 4

    async def test_a_client_that_does_not_read(self, start: Start) -> None:
        """It joins with the events that fit, or none, and is not closed."""
        server = await start(ws_max_buffer=40_000, ws_max_message_size=40_000, announce_max=0, history_bytes=2**26)
        ids = await publish_large(server, 10, 18_000)
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.settled()
            client = next(iter(server.gateway.keepalive.connections))
            alice.socket.transport.pause_reading()
            while client.unread_bytes < 24_000:  # more than half of the buffer, so that the join waits
                await server.gateway.publishing.publish("task.deleted", "user:1", {"task_id": "x" * 4000}, None, None)
                await asyncio.sleep(0.001)
            received = server.gateway.counters.messages_received
            await alice.send("join_room", ROOM, {"last": 1})
            await wait_until(lambda: server.gateway.counters.messages_received > received and client.queued is None)
            assert client.end is None
            assert client.unread_bytes <= 40_000
            alice.socket.transport.resume_reading()
            joined = await alice.recv_type("joined_room")
            assert (joined["data"]["more"], joined["data"]["last_id"]) == (True, ids[-1])
            assert [frame for frame in await alice.settled() if frame["type"] == "task.updated"] == []

    async def test_a_member_gets_them_again(self, start: Start) -> None:
        """A member that joins with ``last`` is not announced, and stays a member."""
        server = await start()
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.recv_type("user_joined")
            ids = [await publish_numbered(server, n) for n in range(3)]
            assert ids_of(await alice.settled()) == ids
            await alice.join(ROOM, last=2)
            assert frame_types(await alice.settled()) == ["task.deleted"] * 2
            await publish_numbered(server, 3)
            assert numbers(await alice.settled()) == [3]

    @pytest.mark.parametrize("with_since", [False, True])
    async def test_joins_during_publishes(self, start: Start, with_since: bool) -> None:
        """There is no gap and no duplicate between the newest events and live ones, also for members."""
        limits = {"ws_message_rate": 0, "history_size": 30, "announce_max": 0}
        publisher, server = [await start(**limits) for _ in range(2)]
        sent = 0

        async def keep_publishing() -> None:
            nonlocal sent
            while True:
                for _ in range(4):
                    sent += 1
                    await publish_numbered(publisher, sent)
                await asyncio.sleep(0.001)

        async def join(alice: User, last: int) -> None:
            data: dict[str, Any] = {"last": last}
            if with_since:
                data["since"] = "x"
            await alice.send("join_room", ROOM, data)
            joined = await alice.recv_type("joined_room")
            last_id = joined["data"]["last_id"]
            first = max(offset(last_id) - last + 1, 1)
            received = [await alice.recv_type("task.deleted") for _ in range(last + 20)]
            assert [offset(event["id"]) for event in received] == list(range(first, first + last + 20))

        while sent < 40:
            sent += 1
            await publish_numbered(publisher, sent)
        publishing = asyncio.create_task(keep_publishing())
        try:
            for round in range(8):
                async with connect(server) as alice:
                    await join(alice, 1 + 4 * round)
                    await join(alice, 30 - 3 * round)
                    await alice.send("leave_room", ROOM)
                    await alice.recv_type("left_room")
                    await join(alice, 5)
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])
