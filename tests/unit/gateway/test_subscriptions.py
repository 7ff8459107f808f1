"""Tests of ``gateway.subscriptions``: rooms are subscribed to while they are used."""

from __future__ import annotations

import pytest
from faulty_broker import FaultyBroker
from serving import Serve, connect
from waiting import wait_until

ROOM = "channel:1"


@pytest.mark.parametrize("method", ["history", "subscribe"])
async def test_an_unavailable_broker_refuses_a_join(serve: Serve, method: str) -> None:
    """The client gets ``unavailable`` and may retry; the room does not count as in use."""
    broker = FaultyBroker()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        broker.unavailable = frozenset([method])
        await alice.send("join_room", ROOM, {"since": ""}, id=1)
        error = await alice.recv()
        assert (error["data"]["code"], error["id"]) == ("unavailable", 1)
        assert (
            error["data"]["error"]
            == "join_room could not be carried out now; try again soon. The broker cannot be reached."
        )
        assert not server.gateway.rooms.subscriptions._joining and not server.gateway.delivery.rooms
        assert ROOM not in broker._subscribed
        broker.unavailable = frozenset()
        await alice.join(ROOM)


async def test_a_leave_during_a_hanging_join(serve: Serve) -> None:
    """The subscription stays for the join, and ends if that fails."""
    broker = FaultyBroker()
    server = await serve(broker=broker, handler_timeout=0.05, ws_heartbeat_interval=0.2)
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.join(ROOM)
        broker.hanging = frozenset(["subscribe"])
        await bob.send("join_room", ROOM)
        await wait_until(lambda: server.gateway.rooms.subscriptions._joining)
        await alice.send("leave_room", ROOM)
        await alice.recv_type("left_room")
        assert ROOM in broker._subscribed
        assert (await bob.recv_type("error"))["data"]["code"] == "unavailable"
        assert ROOM not in broker._subscribed and not server.gateway.rooms.subscriptions._joining
        broker.hanging = frozenset()
        await bob.join(ROOM)
