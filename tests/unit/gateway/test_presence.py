"""Tests of ``gateway.presence``: joins and leaves are announced once per user."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from faulty_broker import FaultyBroker
from gateway_tools import frame_types, is_empty, members, offset
from serving import Serve, User, call, connect
from waiting import wait_until

from roomcast.gateway.delivery import CROWD

ROOM = "channel:1"


async def test_a_user_with_several_connections(serve: Serve) -> None:
    """user_joined is sent for the first connection of a user, user_left for the last."""
    server = await serve()
    async with connect(server, 9, "watcher") as watcher:
        await watcher.join(ROOM)
        await watcher.settled()
        async with connect(server) as first, connect(server) as second:
            await first.join(ROOM)
            assert (await watcher.recv_type("user_joined"))["sender"] == "alice"
            joined = await second.join(ROOM)
            assert joined["type"] == "joined_room"
            assert frame_types(await second.settled()) == []
            assert await members(server) == {9: 1, 1: 2}
            await first.send("leave_room", ROOM)
            await first.recv_type("left_room")
            assert frame_types(await watcher.settled()) == []
            assert await members(server) == {9: 1, 1: 1}
            await second.send("leave_room", ROOM)
            await second.recv_type("left_room")
            assert frame_types(await watcher.settled()) == ["user_left"]
            assert await members(server) == {9: 1}


@pytest.mark.parametrize("how", ["leave", "close", "crash", "disconnect"])
async def test_each_way_to_leave_is_announced(serve: Serve, how: str) -> None:
    """A leave, a close, a crash and a disconnect are announced once; only a leave is announced at once by default."""
    server = await serve() if how == "leave" else await serve(presence_grace=0)
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        async with connect(server) as alice:
            await alice.join(ROOM)
            await bob.recv_type("user_joined", sender="alice")
            if how == "leave":
                await alice.send("leave_room", ROOM)
            elif how == "close":
                await alice.socket.close()
            elif how == "crash":
                alice.socket.transport.abort()
            else:
                await server.gateway.signals.disconnect(1)
            left = await bob.recv_type("user_left")
            assert (left["data"], left["sender"]) == ({"username": "alice", "user_id": 1}, "alice")
            assert await members(server) == {2: 1}
            assert frame_types(await bob.settled()) == []
    await wait_until(lambda: is_empty(server))


async def test_a_short_absence_is_not_announced(serve: Serve) -> None:
    """A user who reloads the page is not announced, however often; a user who stays away is announced later."""
    server = await serve()
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        for _ in range(5):
            async with connect(server) as alice:
                await alice.join(ROOM)
        left = await bob.recv_type("user_left")
        assert left.keys() == {"type", "room", "data", "sender", "timestamp"}
        assert frame_types(bob.frames).count("user_joined") == 2
        assert frame_types(await bob.settled()) == []
        assert await server.gateway.service.history(ROOM) == []


async def test_announce_max(serve: Serve) -> None:
    """In larger rooms, joins and leaves are not announced; the list of members is complete."""
    server = await serve(announce_max=2)
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(connect(server, n, f"user{n}")) for n in range(1, 5)]
        for user in users:
            await user.join(ROOM)
        assert [frame["sender"] for frame in await users[0].settled()] == ["user1", "user2"]
        assert frame_types(await users[3].settled()) == []
        assert list(await members(server)) == [1, 2, 3, 4]
        assert (await call(server, "GET", f"/api/v1/rooms/{ROOM}/members"))[1]["members"][3]["username"] == "user4"
        for user, received in ((users[3], []), (users[2], []), (users[1], ["user_left"])):
            await user.send("leave_room", ROOM)
            await user.recv_type("left_room")
            assert frame_types(await users[0].settled()) == received


async def test_order_of_joins_and_messages_in_large_rooms(serve: Serve) -> None:
    """Joins that are announced together keep their place among the messages, by their ids."""
    server = await serve(ws_message_rate=0)
    gateway = server.gateway
    crowd: list[User] = []
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(connect(server, 1000, "first"))
        await first.join(ROOM)
        for n in range(CROWD + 20):
            user = await stack.enter_async_context(connect(server, n, f"user{n}"))
            crowd.append(user)
            await user.send("join_room", ROOM)
            if n % 3 == 0:
                await gateway.publishing.publish("task.deleted", ROOM, {"task_id": n}, None, None)
            if n % 7 == 0:
                await user.send("leave_room", ROOM)
                await user.recv_type("left_room")
            else:
                await user.recv_type("joined_room")
        await gateway.publishing.publish("task.deleted", ROOM, {"task_id": "last"}, None, None)
        while first.frames[-1]["data"].get("task_id") != "last":
            await first.recv()
        offsets = [offset(frame["id"]) for frame in first.frames if "id" in frame]
        assert offsets == list(range(1, len(offsets) + 1))
        stored = await gateway.service.history(ROOM)
        assert [frame for frame in first.frames if "id" in frame] == stored
        for user in crowd:
            user.socket.transport.abort()  # they have too many unread frames for a close handshake


FAULTS = [
    ("unavailable", "enter"),
    ("unavailable", "publish"),
    ("unavailable", "leave"),
    ("hanging", "enter"),
    ("hanging", "leave"),
]


@pytest.mark.parametrize(("how", "method"), FAULTS)
async def test_a_broker_that_fails_after_the_reply(serve: Serve, how: str, method: str) -> None:
    """A client that got joined_room or left_room gets no error."""
    broker = FaultyBroker()
    server = await serve(broker=broker, handler_timeout=0.05, ws_heartbeat_interval=0.2)
    async with connect(server) as alice:
        setattr(broker, how, frozenset([method]))
        for type, answer in (("join_room", "joined_room"), ("leave_room", "left_room"), ("join_room", "joined_room")):
            await alice.send(type, ROOM, id=1)
            assert [kind for kind in frame_types(await alice.settled()) if not kind.startswith("user_")] == [answer]
            assert (ROOM in server.gateway.delivery.rooms) is (type == "join_room")
        assert await members(server) == {1: 1}
        setattr(broker, how, frozenset())
    await wait_until(lambda: is_empty(server))
