"""Tests of ``gateway.resume``: clients that return get the events that they missed."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from gateway_tools import frame_types, is_empty, members, numbers, offset, publish_numbered
from serving import Serve, User, connect
from waiting import wait_until

from roomcast.errors import TOO_SLOW

ROOM = "channel:1"


async def test_event_ids(serve: Serve) -> None:
    """Ids are <epoch>-<offset>; offsets are consecutive in a room, and each room has its own epoch."""
    server = await serve()
    ids = [await publish_numbered(server, n) for n in range(5)]
    epoch, _, offset = ids[0].rpartition("-")
    assert offset == "1"
    assert ids == [f"{epoch}-{n}" for n in range(1, 6)]
    other = await publish_numbered(server, 0, "channel:2")
    assert other.endswith("-1") and not other.startswith(f"{epoch}-")


async def test_resume(serve: Serve) -> None:
    """joined_room has recovered and last_id; the missed events follow in order, then new events."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        await publish_numbered(server, 0)
        seen = (await alice.recv_type("task.deleted"))["id"]
    ids = [await publish_numbered(server, n) for n in range(1, 4)]
    async with connect(server) as alice:
        joined = await alice.join(ROOM, since=seen)
        assert set(joined["data"]) == {"message", "recovered", "last_id"}
        assert joined["data"]["recovered"] is True
        assert joined["data"]["last_id"] == ids[-1]
        missed = await alice.settled()
        # Joins and leaves are not replayed, and alice has returned within the grace.
        assert frame_types(missed) == ["task.deleted"] * 3
        assert [frame["id"] for frame in missed] == ids
        assert numbers(missed) == [1, 2, 3]
        await publish_numbered(server, 4)
        assert numbers(await alice.settled()) == [4]


async def test_joined_room_without_an_event_id(serve: Serve) -> None:
    """Without ``since`` there is only the message; ``since`` null returns last_id and recovers nothing."""
    server = await serve()
    last = await publish_numbered(server, 1)
    async with connect(server) as alice:
        assert set((await alice.join(ROOM))["data"]) == {"message"}
        await alice.settled()
        await alice.send("join_room", ROOM, {"since": None})
        joined = await alice.recv()
        assert joined["data"] == {"message": f"Joined room {ROOM}", "recovered": False, "last_id": last}
        assert frame_types(await alice.settled()) == []


async def test_resume_from_an_empty_room(serve: Serve) -> None:
    """The last_id of an empty room can be resumed from."""
    server = await serve(announce_max=0)
    async with connect(server) as alice:
        await alice.send("join_room", ROOM, {"since": ""})
        start = (await alice.recv())["data"]["last_id"]
        assert start.endswith("-0")
    await publish_numbered(server, 1)
    async with connect(server) as alice:
        assert (await alice.join(ROOM, since=start))["data"]["recovered"] is True
        assert numbers(await alice.settled()) == [1]


@pytest.mark.parametrize(
    "since", ["", "x", "old-1", "-", "{epoch}-0", "{epoch}-99", "{epoch}-01", "{epoch}-1e3", "9" * 9000]
)
async def test_an_id_that_cannot_be_resumed_from(serve: Serve, since: str) -> None:
    """Ids that are too old, too new, of another epoch or malformed get ``recovered`` false."""
    server = await serve(history_size=3, announce_max=0)
    ids = [await publish_numbered(server, n) for n in range(20)]
    async with connect(server) as alice:
        joined = await alice.join(ROOM, since=since.replace("{epoch}", ids[0].rpartition("-")[0]))
        assert joined["data"] == {"message": f"Joined room {ROOM}", "recovered": False, "last_id": ids[-1]}
        assert frame_types(await alice.settled()) == []
        await publish_numbered(server, 20)
        assert numbers(await alice.settled()) == [20]


async def test_a_member_may_resume(serve: Serve) -> None:
    """A join with ``since`` by a member replays events, and is not announced."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        first = await publish_numbered(server, 1)
        await publish_numbered(server, 2)
        assert numbers(await alice.settled()) == [1, 2]
        await alice.join(ROOM, since=first)
        assert numbers(await alice.settled()) == [2]
        await publish_numbered(server, 3)
        assert numbers(await alice.settled()) == [3]


@pytest.mark.slow
async def test_a_long_replay_comes_in_portions(serve: Serve) -> None:
    """Missed events that exceed WS_MAX_BUFFER are sent in portions, without closing the client."""
    server = await serve(ws_max_buffer=20_000, ws_max_message_size=20_000, announce_max=0, ws_message_rate=0)
    publish = server.gateway.publishing.publish
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    first = await publish_numbered(server, 0)
    ids = [await publish("task.updated", ROOM, data, None, None) for _ in range(300)]
    async with connect(server) as alice:
        # The limit applies to both joins together.
        await alice.send("join_room", ROOM, {"since": first}, id=1)
        await alice.send("join_room", ROOM, {"since": first}, id=2)
        for request in (1, 2):
            joined = await alice.recv()
            assert joined["data"] == {
                "message": f"Joined room {ROOM}",
                "recovered": True,
                "last_id": ids[-1],
            }
            assert joined["id"] == request
            assert [(await alice.recv())["id"] for _ in ids] == ids
        ids.append(await publish("task.updated", ROOM, data, None, None))
        assert [frame["id"] for frame in await alice.settled()] == ids[-1:]
        assert not server.gateway.rooms.subscriptions._joining


async def test_a_long_replay_to_a_member_continues_with_live_events(serve: Serve) -> None:
    """All events, those published meanwhile included, arrive in order."""
    server = await serve(
        ws_max_buffer=20_000, ws_max_message_size=20_000, announce_max=0, history_size=5000, history_bytes=2**26
    )
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    async with connect(server) as alice:
        alice_joined = await alice.join(ROOM, since="")
        ids = [await server.gateway.publishing.publish("task.updated", ROOM, data, None, None) for _ in range(100)]
        while alice.frames[-1].get("id") != ids[-1]:
            await alice.recv()
        await alice.send("join_room", ROOM, {"since": alice_joined["data"]["last_id"]})
        assert (await alice.recv())["type"] == "joined_room"
        ids += [await server.gateway.publishing.publish("task.updated", ROOM, data, None, None) for _ in range(50)]
        assert [(await alice.recv())["id"] for _ in ids] == ids
        await publish_numbered(server, 1)
        assert numbers(await alice.settled()) == [1]
        assert await members(server) == {1: 1}
    await wait_until(lambda: is_empty(server))


async def test_a_kick_during_a_long_replay(serve: Serve) -> None:
    """The running join continues as a new join, and nothing remains after the client has disconnected."""
    server = await serve(ws_max_buffer=20_000, ws_max_message_size=20_000, presence_grace=0)
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    async with connect(server) as alice:
        start = (await alice.join(ROOM, since=""))["data"]["last_id"]
        for _ in range(100):
            last = await server.gateway.publishing.publish("task.updated", ROOM, data, None, None)
        await alice.recv_type("task.updated", id=last)
        await alice.send("join_room", ROOM, {"since": start})
        await alice.recv_type("joined_room")
        await server.gateway.signals.kick(ROOM, 1)
        await alice.recv_type("left_room")
        await alice.recv_type("user_joined", sender="alice")
        assert await members(server) == {1: 1}
    await wait_until(lambda: is_empty(server))


async def test_events_that_expire_during_a_long_replay(serve: Serve) -> None:
    """The client gets a resync, and is a member."""
    server = await serve(ws_max_buffer=20_000, ws_max_message_size=20_000, announce_max=0, history_size=100)
    publish = server.gateway.publishing.publish
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    first = await publish_numbered(server, 0)
    for _ in range(90):
        await publish("task.updated", ROOM, data, None, None)
    async with connect(server) as alice:
        await alice.send("join_room", ROOM, {"since": first})
        assert (await alice.recv())["data"]["recovered"] is True
        server.gateway.broker._slice = math.inf  # publish all of them before the replay goes on
        for _ in range(200):
            last = await publish("task.updated", ROOM, data, None, None)
        resync = await alice.recv_type("resync")
        assert (resync["room"], resync["data"]["last_id"]) == (ROOM, last)
        await publish_numbered(server, 1)
        assert numbers(await alice.settled()) == [1]


@pytest.mark.parametrize("end", ["cut off", "crash"])
async def test_a_client_that_is_too_slow_for_a_long_replay(serve: Serve, end: str) -> None:
    """The client is closed, because it got joined_room and is not a member."""
    server = await serve(
        announce_max=0,
        history_size=5000,
        history_bytes=2**26,
        handler_timeout=0.3 if end == "cut off" else 10.0,
        ws_heartbeat_interval=2.0,
    )
    data = {"task_id": 1, "changes": {"text": "x" * 9000}}
    first = await publish_numbered(server, 0)
    for _ in range(2000):
        await server.gateway.publishing.publish("task.updated", ROOM, data, None, None)
    async with connect(server) as alice:
        alice.socket.transport.pause_reading()
        await alice.send("join_room", ROOM, {"since": first})
        client = next(iter(server.gateway.keepalive.connections))
        await wait_until(lambda: client.paused)
        if end == "cut off":
            await wait_until(lambda: client.end is not None)
            assert client.end == TOO_SLOW
        alice.socket.transport.abort()
        await wait_until(lambda: is_empty(server))


@pytest.mark.slow
@pytest.mark.parametrize(("buffer", "rounds"), [(2**24, 150), (4000, 20)], ids=["at once", "in portions"])
async def test_resume_during_publishes(serve: Serve, buffer: int, rounds: int) -> None:
    """A client that leaves and resumes repeatedly gets each event once, in order."""
    server = await serve(
        history_size=100_000,
        history_bytes=2**26,
        ws_message_rate=0,
        ws_max_buffer=buffer,
        ws_max_message_size=4000,
        announce_max=0,
    )
    gateway = server.gateway
    stop = asyncio.Event()
    sent = 0

    async def publish(count: int = 3) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            await gateway.publishing.publish("task.deleted", ROOM, {"task_id": sent}, None, None)

    async def keep_publishing(pause: float) -> None:
        while not stop.is_set():
            await publish()
            await asyncio.sleep(pause)

    async def receive(user: User, joined: dict[str, Any], more: int) -> str:
        """Receive the replay and ``more`` live events, and record their numbers; return the last id."""
        end = offset(joined["data"]["last_id"]) + more
        while True:
            event = await user.recv_type("task.deleted")
            received.append(event["data"]["task_id"])
            if offset(event["id"]) >= end:
                return str(event["id"])

    pace = 0.0003 if buffer > 4000 else 0.01  # portions of 4,000 bytes cannot catch up with more
    publishers = [asyncio.create_task(keep_publishing(pause)) for pause in (pace, 2 * pace)]
    received: list[int] = []
    since = ""
    for round in range(rounds):
        async with connect(server) as alice:
            joined = await alice.join(ROOM, since=since)
            assert joined["data"]["recovered"] is (round > 0)
            since = await receive(alice, joined, round % 7 + 1)
            await alice.send("leave_room", ROOM)
            await alice.recv_type("left_room")  # events before it are not recorded, so they are replayed
            joined = await alice.join(ROOM, since=since)
            assert joined["data"]["recovered"] is True
            since = await receive(alice, joined, round % 5 + 1)
            alice.socket.transport.abort()
        await publish(60)
    stop.set()
    await asyncio.gather(*publishers)
    assert received == list(range(received[0], received[0] + len(received)))
