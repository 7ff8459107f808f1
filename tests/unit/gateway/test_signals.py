"""Tests of ``gateway.signals``: kicks and disconnects."""

from __future__ import annotations

from gateway_tools import frame_types
from serving import Serve, call, connect

from roomcast.errors import DISCONNECTED

ROOM = "channel:1"


async def test_kick(serve: Serve) -> None:
    """All connections of the user get left_room, and may join again."""
    server = await serve(presence_grace=0)
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        for user in (alice, tab, bob):
            await user.join(ROOM)
        await tab.join("channel:2")
        for user in (alice, tab, bob):
            await user.settled()
        status, body = await call(server, "DELETE", f"/api/v1/rooms/{ROOM}/members/1")
        assert (status, body["connections"]) == (200, 2)
        for user in (alice, tab):
            left = await user.recv()
            assert (left["type"], left["room"]) == ("left_room", ROOM)
            assert left["data"] == {"message": f"Removed from room {ROOM}"}
        assert frame_types(await bob.settled()) == ["user_left"]
        await tab.send("send_message", "channel:2", {"content": "x"})
        await tab.recv_type("message")
        await alice.join(ROOM)
        assert frame_types(await bob.settled()) == ["user_joined"]


async def test_a_kick_is_announced_at_once(serve: Serve) -> None:
    """The grace is only for users whose connection was lost."""
    server = await serve(presence_grace=60.0)
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        for user in (alice, bob):
            await user.join(ROOM)
        await bob.settled()
        await call(server, "DELETE", f"/api/v1/rooms/{ROOM}/members/1")
        await alice.recv_type("left_room")
        assert frame_types(await bob.settled()) == ["user_left"]


async def test_disconnect(serve: Serve) -> None:
    """All connections of the user are closed with 4410, and the user may connect again."""
    server = await serve()
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        await server.gateway.signals.disconnect(1)
        for user in (alice, tab):
            assert await user.closed() == (DISCONNECTED.code, DISCONNECTED.reason)
        assert await bob.settled() == []
        async with connect(server):
            pass
