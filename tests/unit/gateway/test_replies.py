"""Tests of ``gateway.replies``: replies, refusals and failures."""

from __future__ import annotations

from typing import Any

from gateway_tools import frame_types
from sample_commands import Anything, SampleCommands
from serving import Serve, connect

from roomcast import Context, Plugin

ROOM = "channel:1"


async def test_the_id_of_a_request(serve: Serve) -> None:
    """Replies and errors have the id of the request, a text or a number; without an id, a command has no reply."""
    async with connect(await serve(), rooms=[ROOM]) as alice:
        for id in ("a", 7, 0, "", -1, 2**64 - 1):
            for type, room, data, answer in [
                ("ping", None, None, "pong"),
                ("join_room", ROOM, None, "joined_room"),
                ("send_message", ROOM, {"content": "x"}, "sent"),
                ("send_message", ROOM, {}, "error"),
                ("send_message", "channel:2", {"content": "x"}, "error"),
                ("dance", None, None, "error"),
                ("leave_room", ROOM, None, "left_room"),
            ]:
                await alice.send(type, room, data, id=id)
                reply = await alice.recv_type(answer)
                assert reply["id"] == id
        await alice.join(ROOM)
        await alice.settled()
        await alice.send("send_message", ROOM, {"content": "x"})
        assert frame_types(await alice.settled()) == ["message"]


async def test_the_reply_sent(serve: Serve) -> None:
    """The reply to send_message is as documented, and its event_id is the id of the event."""
    async with connect(await serve()) as alice:
        await alice.join(ROOM)
        await alice.settled()
        await alice.send("send_message", ROOM, {"content": "x"}, id="q")
        sent, message = await alice.recv(), await alice.recv()
        assert sent == {
            "type": "sent",
            "id": "q",
            "room": ROOM,
            "data": {"event_id": message["id"]},
            "timestamp": sent["timestamp"],
        }


async def test_an_error_has_the_invalid_fields(serve: Serve) -> None:
    """An error for invalid data has a sentence, and the problems of each field."""
    async with connect(await serve()) as alice:
        await alice.join(ROOM)
        await alice.settled()
        await alice.send("send_message", ROOM, {"content": 7, "colour": "red"}, id=1)
        error = await alice.recv()
        assert set(error) == {"type", "id", "room", "data", "timestamp"}
        assert error["data"]["code"] == "invalid_data"
        assert set(error["data"]["fields"]) == {"content", "colour"}
        assert isinstance(error["data"]["error"], str)


async def test_refusals_and_results_that_are_not_json(serve: Serve, sample: SampleCommands) -> None:
    """A refusal is sent without the parts that are not JSON; a result becomes ``internal``."""
    async with connect(await serve(plugins=[sample.plugin])) as alice:
        await alice.send("no", id=1)
        error = await alice.recv()
        assert (error["id"], error["data"]) == (1, {"error": "Not before noon\\ud800.", "code": "too_early"})
        await alice.send("odd", id=2)
        assert (await alice.recv())["data"]["code"] == "internal"
        await alice.send("odd", id=3, key="k")
        assert (await alice.recv())["data"]["code"] == "internal"
        await alice.send("odd")
        assert await alice.settled() == []


async def test_a_result_that_is_not_a_dict(serve: Serve, caplog) -> None:
    """The caller gets ``internal``, and the log has the type of the result."""
    plugin = Plugin("listed")

    @plugin.command("listed", Anything, access="anyone")
    async def listed(ctx: Context, data: dict[str, Any]) -> Any:
        return [1]

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send(type="listed", id=1)
        assert (await alice.recv_type("error"))["data"]["code"] == "internal"
    assert "a list and not a dict" in caplog.text
