"""Tests of ``gateway.rooms``: joins and leaves."""

from __future__ import annotations

import pytest
from faulty_broker import FaultyBroker
from gateway_tools import frame_types, is_empty, members
from serving import Serve, connect
from slow_rule import waiting_rule
from waiting import wait_until

ROOM = "channel:1"


async def test_joining_twice(serve: Serve) -> None:
    """A second join of a connection is not announced or counted; one leave ends the membership."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.settled()
        assert (await alice.join(ROOM))["data"] == {"message": f"Joined room {ROOM}"}
        assert frame_types(await alice.settled()) == []
        assert await members(server) == {1: 1}
        await alice.send("send_message", ROOM, {"content": "once"})
        assert frame_types(await alice.settled()) == ["message"]
        await alice.send("leave_room", ROOM)
        await alice.recv_type("left_room")
        assert await members(server) == {}
        assert server.gateway.delivery.rooms == {}


async def test_leaving_a_room_without_membership(serve: Serve) -> None:
    """The client gets left_room, and nothing is announced."""
    server = await serve()
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        await bob.settled()
        await alice.send("leave_room", ROOM, id=7)
        left = await alice.recv()
        assert (left["type"], left["room"], left["id"]) == ("left_room", ROOM, 7)
        assert frame_types(await bob.settled()) == []


async def test_invalid_joins_and_leaves(serve: Serve) -> None:
    """A request without a room, with an undeclared room type or with invalid data is refused."""
    async with connect(await serve()) as alice:
        for request, code in [
            ({"type": "join_room"}, "bad_room"),
            ({"type": "leave_room"}, "bad_room"),
            ({"type": "join_room", "room": "planet:3"}, "unknown_room_type"),
            ({"type": "join_room", "room": ROOM, "data": {"until": "x"}}, "invalid_data"),
            ({"type": "join_room", "room": ROOM, "data": {"since": 7}}, "invalid_data"),
            ({"type": "leave_room", "room": ROOM, "data": {"reason": "bored"}}, "invalid_data"),
        ]:
            await alice.send(**request, id=1)
            error = await alice.recv()
            assert (error["type"], error["data"]["code"], error["id"]) == ("error", code, 1)
        assert frame_types(await alice.settled()) == []


async def test_the_maximum_number_of_rooms(serve: Serve) -> None:
    """One room more than MAX_ROOMS_PER_CONNECTION is refused; other connections have their own limit."""
    server = await serve(max_rooms_per_connection=2)
    async with connect(server) as alice, connect(server) as tab:
        await alice.join("channel:1")
        await alice.join("channel:2")
        await alice.join("channel:2")
        await alice.send("join_room", "channel:3")
        assert (await alice.recv_type("error"))["data"]["code"] == "too_many_rooms"
        await tab.join("channel:3")
        await alice.send("leave_room", "channel:1")
        await alice.join("channel:3")
        assert sorted(server.gateway.delivery.rooms) == ["channel:2", "channel:3"]


async def test_the_personal_room(serve: Serve) -> None:
    """All connections of a user get its events; it cannot be joined or left, and is not listed."""
    server = await serve(forbidden_join="keep")
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        for type, code in (("join_room", "forbidden"), ("leave_room", "bad_room")):
            await alice.send(type, "user:1")
            assert (await alice.recv_type("error"))["data"]["code"] == code
        await server.gateway.publishing.publish("task.deleted", "user:1", {"task_id": 1}, "system", None)
        for one in (alice, tab):
            event = await one.recv_type("task.deleted")
            assert set(event) == {"type", "data", "sender", "timestamp", "id"}
            assert event["sender"] == "system"
        assert frame_types(await bob.settled()) == []
        assert await server.gateway.broker.rooms() == {}


@pytest.mark.parametrize("own", ["user:auth0%7C1", "user:auth0%7c1", "user:auth0|1"])
async def test_the_personal_room_of_any_id(serve: Serve, own: str) -> None:
    """The room has one normal name. A client that writes it in another way gets the same answers."""
    server = await serve(forbidden_join="keep")
    async with connect(server, "auth0|1") as alice:
        for type, room, words in (
            ("join_room", own, "your own room"),
            ("join_room", f"{own}1", "another user's own room"),
            ("leave_room", own, "your own room"),
        ):
            await alice.send(type, room)
            error = (await alice.recv_type("error"))["data"]["error"]
            assert words in error
            assert "user:auth0%7C1" in error
        await server.gateway.publishing.publish("task.deleted", own, {"task_id": 1}, "system", None)
        assert "room" not in await alice.recv_type("task.deleted")
        (event,) = await server.gateway.service.history(own)
        assert (event["type"], "room" in event) == ("task.deleted", False)
        assert list(server.gateway.delivery.personal) == ["user:auth0%7C1"]
        await alice.send("join_room", "user:100%", id=1)
        refusal = (await alice.recv_type("error"))["data"]
        assert refusal["code"] == "bad_room"
        assert "Percent-encode" in refusal["error"]


@pytest.mark.parametrize("how", ["close", "crash"])
async def test_a_client_that_closes_during_a_join(serve: Serve, how: str) -> None:
    """The join ends without a membership, a subscription or a lease."""
    plugin, gate, evaluations = waiting_rule()
    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("join_room", "slow:1", {"since": ""})
        await wait_until(lambda: evaluations)
        if how == "close":
            await alice.socket.close()
        else:
            alice.socket.transport.abort()
        await wait_until(lambda: not server.gateway.keepalive.connections)
    gate.set()
    await wait_until(lambda: is_empty(server))
    assert await server.gateway.service.history("slow:1") == []


async def test_a_broker_that_fails_at_the_end_of_a_connection(serve: Serve, caplog) -> None:
    """The client is removed from its rooms on the node, and its lease is released."""
    broker = FaultyBroker()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.join("channel:2")
        broker.unavailable = frozenset(["leave"])
    await wait_until(lambda: not broker._leases._leases)
    assert not server.gateway.delivery.rooms and not server.gateway.delivery.personal
    broker.unavailable = frozenset()
