"""Tests of ``join_room`` with ``last`` on the embedded broker, and of the frames that wait for a member."""

from __future__ import annotations

import pytest
from brokers import Start, on_memory
from gateway_tools import ROOM, frame_types, numbers, offset, publish_numbered
from join_history import JoinWithLast
from serving import Serve, User, connect

from roomcast.protocol.messages import Request
from roomcast.web.server import Server


class TestJoinWithLast(JoinWithLast):
    """On the embedded broker."""

    @pytest.fixture
    def start(self, serve: Serve) -> Start:
        """Start a server."""
        return on_memory(serve)


async def join_with_pending(server: Server, alice: User, data: dict[str, object], count: int = 3) -> list[str]:
    """Let a member join again in the loop iteration in which events were published; return all types it receives."""
    gateway = server.gateway
    client = next(iter(gateway.keepalive.connections))
    gateway.listener.on_presence(ROOM, 7, "bob", True)
    for n in range(count):
        await publish_numbered(server, 100 + n)
    assert gateway.delivery.rooms[ROOM].pending
    await gateway.rooms.join(client, Request("join_room", ROOM, data))
    gateway.listener.on_presence(ROOM, 7, "bob", False)
    await publish_numbered(server, 200)
    return frame_types(await alice.settled())


@pytest.mark.parametrize("last", [1, 5])
async def test_pending_frames_of_a_member_that_asks_for_the_newest_events(serve: Serve, last: int) -> None:
    """It gets them before joined_room, even those that do not follow again, and the later ones afterwards."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.settled()
        types = await join_with_pending(server, alice, {"last": last})
        replayed = ["task.deleted"] * min(last, 3)
        assert types == ["user_joined", *["task.deleted"] * 3, "joined_room", *replayed, "user_left", "task.deleted"]
        assert numbers(alice.frames) == [100, 101, 102, *[100, 101, 102][-last:], 200]


async def test_pending_frames_of_a_member_that_resumes(serve: Serve) -> None:
    """It gets each missed event once, after joined_room, and loses no frame that is not stored."""
    server = await serve()
    async with connect(server) as alice:
        since = (await alice.join(ROOM, since=""))["data"]["last_id"]
        await alice.settled()
        types = await join_with_pending(server, alice, {"since": since})
        assert types == ["user_joined", "joined_room", *["task.deleted"] * 3, "user_left", "task.deleted"]
        assert numbers(alice.frames) == [100, 101, 102, 200]


async def test_pending_frames_of_a_member_that_cannot_resume(serve: Serve) -> None:
    """It gets its pending events: they are not replayed."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.settled()
        types = await join_with_pending(server, alice, {"since": "x"})
        assert types == ["user_joined", *["task.deleted"] * 3, "joined_room", "user_left", "task.deleted"]


async def test_pending_frames_of_a_member_that_resumes_in_pages(serve: Serve) -> None:
    """It gets each missed event once, in order, although it is no member while it reads the pages."""
    server = await serve(ws_max_buffer=4000, ws_max_message_size=4000, presence_grace=0)
    async with connect(server) as alice:
        start = (await alice.join(ROOM, since=""))["data"]["last_id"]
        await alice.settled()
        for n in range(60):
            await publish_numbered(server, n)
        await alice.settled()
        seen = len(alice.frames)
        await join_with_pending(server, alice, {"since": start})
        received = alice.frames[seen:]
        assert frame_types(received)[:2] == ["user_joined", "joined_room"]
        assert [offset(frame["id"]) for frame in received if frame["type"] == "task.deleted"] == list(range(1, 65))
