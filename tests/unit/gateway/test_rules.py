"""Tests of ``gateway.rules``: who may join a room."""

from __future__ import annotations

from typing import Any

import pytest
from cancellation import suppress_cancellation
from gateway_tools import members
from serving import Serve, connect
from waiting import wait_until

from roomcast import Context, Plugin

ROOM = "channel:1"


async def test_forbidden_join_keep(serve: Serve) -> None:
    """With FORBIDDEN_JOIN=keep the error is sent, with the id of the request, and the connection stays open."""
    server = await serve(forbidden_join="keep")
    async with connect(server, rooms=[ROOM]) as alice:
        await alice.join(ROOM)
        await alice.send("join_room", "channel:2", id="j")
        error = await alice.recv_type("error")
        assert (error["id"], error["room"], error["data"]["code"]) == ("j", "channel:2", "forbidden")
        await alice.send("send_message", ROOM, {"content": "still here"})
        await alice.recv_type("message")
        assert list(server.gateway.delivery.rooms) == [ROOM]
        assert not server.gateway.rooms.subscriptions._joining


async def test_a_token_without_valid_rooms_allows_none(serve: Serve) -> None:
    """No rooms claim, or an invalid one, allows no room."""
    server = await serve(forbidden_join="keep")
    for rooms in ((), ("channel",), ("chan*",), ("channel:*:1",), ("user:*",)):
        async with connect(server, rooms=rooms) as alice:
            await alice.send("join_room", ROOM)
            assert (await alice.recv())["type"] == "error"


async def test_room_access_open(serve: Serve) -> None:
    """ROOM_ACCESS=open allows every room except personal rooms."""
    async with connect(await serve(room_access="open"), rooms=()) as alice:
        await alice.join(ROOM)
        await alice.send("join_room", "user:1")
        assert await alice.closed() == (4403, "Forbidden")


async def test_results_of_a_rule(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Only True allows a join. False and None forbid it. Another result is a fault of the rule, and no decision."""
    plugin = Plugin("odd")

    @plugin.room("odd")
    async def rule(ctx: Context, entity: str) -> Any:
        return {"yes": True, "one": 1, "text": "yes", "none": None}.get(entity)

    server = await serve(plugins=[plugin], forbidden_join="keep")
    async with connect(server) as alice:
        for entity, code in (("one", "unavailable"), ("text", "unavailable"), ("none", "forbidden")):
            await alice.send("join_room", f"odd:{entity}")
            assert (await alice.recv_type("error"))["data"]["code"] == code
        assert "the rule returned a int, not True or False" in caplog.text
        await alice.join("odd:yes")


async def test_a_rule_that_suppresses_its_cancellation(serve: Serve) -> None:
    """The join gets ``unavailable``. The client does not join if the rule says yes after that."""
    plugin, ends = Plugin("stubborn"), []

    @plugin.room("stubborn")
    async def rule(ctx: Context, entity: str) -> bool:
        await suppress_cancellation(2.0)
        ends.append(entity)
        return True

    server = await serve(plugins=[plugin], handler_timeout=0.05, ws_heartbeat_interval=0.4)
    async with connect(server) as alice:
        await alice.send("join_room", "stubborn:1", id=1)
        error = await alice.recv()
        assert (error["id"], error["data"]["code"]) == (1, "unavailable")
        await wait_until(lambda: ends)
        assert await alice.settled() == []
        assert await members(server, "stubborn:1") == {}
        assert "stubborn:1" not in server.gateway.delivery.rooms
