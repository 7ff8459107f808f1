"""Tests of ``gateway.commands``: the sender of a command must be in the room, unless the command is for anyone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from gateway_tools import members
from marshmallow import Schema, fields
from serving import Serve, User, call, connect, registry_with, token_for
from waiting import wait_until

from roomcast import Context, Plugin
from roomcast.web.server import Server

ROOM = "channel:1"
#: Puts Alice into a state in which she is not a member of ``ROOM``.
Outside = Callable[[Server, User], Awaitable[None]]


class Text(Schema):
    """A text."""

    text = fields.String(required=True)


class Notes:
    """A plugin with a command for members, which is the default, and one for anyone. Both publish into the room."""

    def __init__(self) -> None:
        self.plugin = Plugin("notes")
        #: The commands whose handler was called.
        self.handled: list[str] = []
        self.plugin.event("note.added")(Text)
        self.plugin.command("note.add", Text)(self.add)
        self.plugin.command("note.suggest", Text, access="anyone")(self.suggest)

    async def add(self, ctx: Context, data: dict[str, Any]) -> None:
        """Add a note."""
        self.handled.append("note.add")
        await ctx.publish(Text, data)

    async def suggest(self, ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Suggest a note."""
        self.handled.append("note.suggest")
        if ctx.room is not None:
            await ctx.publish(Text, data)
        return {"in_room": ctx.in_room}


@pytest.fixture
def notes() -> Notes:
    """Return a plugin that records the calls of its handlers."""
    return Notes()


@pytest.fixture
async def server(serve: Serve, notes: Notes) -> AsyncIterator[Server]:
    """Run a server with the plugin."""
    yield await serve(plugins=[notes.plugin], forbidden_join="keep")


async def never_joined(server: Server, alice: User) -> None:
    """Alice may join the room, and has not."""


async def joined_another_room(server: Server, alice: User) -> None:
    """Alice is in another room of the same type."""
    await alice.join("channel:2")


async def left(server: Server, alice: User) -> None:
    """Alice was in the room and has left it."""
    await alice.join(ROOM)
    await alice.send("leave_room", ROOM)
    await alice.recv_type("left_room")


async def kicked(server: Server, alice: User) -> None:
    """Alice was in the room, and an operator removed her."""
    await alice.join(ROOM)
    status, _ = await call(server, "DELETE", f"/api/v1/rooms/{ROOM}/members/1")
    assert status == 200
    await alice.recv_type("left_room")


async def lost_by_refresh(server: Server, alice: User) -> None:
    """Alice was in the room, and her new token does not cover it. The server has not replied yet."""
    await alice.join(ROOM)
    await alice.send("refresh_token", data={"token": token_for(rooms=["channel:2"])})


async def forbidden(server: Server, alice: User) -> None:
    """The room's rule refused Alice."""
    await alice.send("refresh_token", data={"token": token_for(rooms=[])})
    await alice.send("join_room", ROOM)
    await alice.recv_type("error")


OUTSIDE = (never_joined, joined_another_room, left, kicked, lost_by_refresh, forbidden)


@pytest.mark.parametrize("key", [{}, {"key": "k"}], ids=["without a key", "with a key"])
@pytest.mark.parametrize("outside", OUTSIDE, ids=lambda outside: outside.__name__)
async def test_a_sender_outside_the_room(server: Server, notes: Notes, outside: Outside, key: dict[str, str]) -> None:
    """The command is refused with ``not_joined``, its handler is not called, and the members receive nothing."""
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        await outside(server, alice)
        await alice.send("note.add", ROOM, {"text": "Hi"}, id="n", **key)
        error = await alice.recv_type("error", id="n")
        assert error["room"] == ROOM
        assert error["data"]["code"] == "not_joined"
        assert error["data"]["error"] == f"Join {ROOM} first: send join_room, and wait for joined_room."
        assert notes.handled == []
        assert "note.added" not in {frame["type"] for frame in await bob.settled()}


async def test_a_member(server: Server, notes: Notes) -> None:
    """The handler is called for members, also if the same command was refused with the same key before the join."""
    async with connect(server) as alice:
        await alice.send("note.add", ROOM, {"text": "Hi"}, id=1, key="k")
        await alice.recv_type("error", id=1)
        await alice.join(ROOM)
        await alice.send("note.add", ROOM, {"text": "Hi"}, id=2, key="k")
        frames = {frame["type"]: frame for frame in await alice.settled()}
        assert frames["note.added"]["data"] == {"text": "Hi"}
        assert (frames["reply"]["id"], frames["reply"]["room"]) == (2, ROOM)
        assert notes.handled == ["note.add"]


async def test_another_connection_of_a_member(server: Server, notes: Notes) -> None:
    """Each connection must join by itself."""
    async with connect(server) as tab, connect(server) as other_tab:
        await tab.join(ROOM)
        await other_tab.send("note.add", ROOM, {"text": "Hi"}, id=1)
        assert (await other_tab.recv_type("error", id=1))["data"]["code"] == "not_joined"
        assert notes.handled == []


async def test_no_room(server: Server, notes: Notes) -> None:
    """A command for members needs a room."""
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("note.add", data={"text": "Hi"}, id=1)
        error = (await alice.recv_type("error", id=1))["data"]
        assert (error["code"], error["error"]) == (
            "bad_room",
            "room is missing; note.add is for the members of a room, so name one like channel:456.",
        )
        assert notes.handled == []


@pytest.mark.parametrize("user_id", [1, 2])
async def test_personal_rooms(server: Server, notes: Notes, user_id: int) -> None:
    """Personal rooms take no commands, because they cannot be joined; this includes the user's own."""
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.send("note.add", f"user:{user_id}", {"text": "Hi"}, id=1)
        error = (await alice.recv_type("error", id=1))["data"]
        assert (error["code"], error["error"]) == (
            "not_joined",
            f"user:{user_id} is a personal room, which cannot be joined; send this command in another room.",
        )
        assert notes.handled == []
        assert await bob.settled() == []


async def test_a_repeat_after_leaving(server: Server, notes: Notes) -> None:
    """A command that was carried out is answered with its first reply, although the sender has left the room."""
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("note.add", ROOM, {"text": "Hi"}, id=1, key="k")
        await alice.recv_type("reply", id=1)
        await alice.send("leave_room", ROOM)
        await alice.send("note.add", ROOM, {"text": "Hi"}, id=2, key="k")
        await alice.recv_type("reply", id=2)
        await alice.send("note.add", ROOM, {"text": "Hi"}, id=3, key="other")
        assert (await alice.recv_type("error", id=3))["data"]["code"] == "not_joined"
        assert notes.handled == ["note.add"]


async def test_invalid_data_of_a_sender_outside_the_room(server: Server) -> None:
    """The data is checked first, as for members, so that a client sees the same error in both cases."""
    async with connect(server) as alice:
        await alice.send("note.add", ROOM, {"text": 1}, id=1)
        assert (await alice.recv_type("error", id=1))["data"]["code"] == "invalid_data"


@pytest.mark.parametrize("room", [ROOM, None])
async def test_access_for_anyone(server: Server, notes: Notes, room: str | None) -> None:
    """With ``access="anyone"``, every connected user may use the command, in any room and without one."""
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        await alice.send("note.suggest", room, {"text": "Hi"}, id=1)
        assert (await alice.recv_type("reply", id=1))["data"] == {"in_room": False}
        if room is not None:
            assert (await bob.recv_type("note.added"))["sender"] == "alice"
        assert notes.handled == ["note.suggest"]


async def test_a_handler_that_runs_while_its_sender_is_kicked(serve: Serve) -> None:
    """A command that was accepted is carried out; the next one is refused."""
    plugin, started, gate = Plugin("slow"), asyncio.Event(), asyncio.Event()
    plugin.event("slow.done")(Text)

    @plugin.command("slow.do", Text)
    async def do(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        started.set()
        await gate.wait()
        await ctx.publish(Text, data)
        return {"in_room": ctx.in_room}

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("slow.do", ROOM, {"text": "1"}, id=1)
        await alice.send("slow.do", ROOM, {"text": "2"}, id=2)
        await started.wait()
        await server.gateway.signals.kick(ROOM, 1)
        await alice.recv_type("left_room")
        await wait_until(lambda: not server.gateway.delivery.rooms)
        gate.set()
        assert (await alice.recv_type("reply", id=1))["data"] == {"in_room": False}
        assert (await alice.recv_type("error", id=2))["data"]["code"] == "not_joined"
        assert await members(server) == {}


#: Valid data of each built-in command that a plugin declares.
BUILT_IN = {
    "send_message": {"content": "Hi"},
    "edit_message": {"message_id": "e-1", "content": "Hi"},
    "delete_message": {"message_id": "e-1"},
    "typing": {},
}


def test_every_built_in_command_is_for_members() -> None:
    """No built-in plugin has a command for anyone."""
    commands = registry_with().commands
    assert commands.keys() == BUILT_IN.keys()
    assert {command.access for command in commands.values()} == {"member"}


@pytest.mark.parametrize("type", BUILT_IN)
async def test_built_in_commands(serve: Serve, type: str) -> None:
    """They are refused with ``not_joined`` outside the room."""
    async with connect(await serve()) as alice:
        await alice.send(type, ROOM, BUILT_IN[type], id=1)
        assert (await alice.recv_type("error", id=1))["data"]["code"] == "not_joined"
