"""Tests of ``gateway.listener``."""

from __future__ import annotations

from serving import Serve, connect

ROOM = "channel:1"


async def test_a_resync_of_the_personal_room_has_no_room(serve: Serve) -> None:
    """Otherwise clients would try to join the room, which is not possible."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        for room in ("user:1", ROOM):
            server.gateway.listener.on_resync(room, "gone-7")
            frame = await alice.recv_type("resync")
            assert (frame.get("room"), frame["data"]["last_id"]) == (room if room == ROOM else None, "gone-7")
