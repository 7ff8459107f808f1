"""Rooms of types with options: what clients notice, and the metrics by room type."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from marshmallow import Schema
from prometheus_client.parser import text_string_to_metric_families as parse
from serving import PATIENCE, Serve, User, answer, call, connect

from roomcast import Context, Plugin
from roomcast.errors import SettingsError
from roomcast.web.server import Server


class Nothing(Schema):
    """No data."""


@pytest.fixture
def polls() -> Plugin:
    """A plugin with room types that have options."""
    plugin = Plugin("polls")
    plugin.room("poll", commands=("poll.*",), history_size=2)
    plugin.room("quiet", presence=False)
    plugin.room("small", announce_max=1)
    plugin.room("log", commands=(), history_size=0)

    @plugin.command("poll.vote", Nothing)
    async def vote(ctx: Context, data: dict[str, Any]) -> None:
        """Vote."""

    @plugin.command("poll.ask", Nothing, access="anyone")
    async def ask(ctx: Context, data: dict[str, Any]) -> None:
        """Ask for a poll."""

    return plugin


@pytest.fixture
async def server(serve: Serve, polls: Plugin) -> Server:
    """A server with this plugin."""
    return await serve(plugins=[polls], presence_grace=0.0)


async def outcome(user: User, type: str, room: str | None, **fields: Any) -> str:
    """Send a command; return the type of the reply, or the code of the error."""
    data = {"content": "Hello"} if type == "send_message" else None
    await user.send(type, room, data, id="1", **fields)
    while (frame := await user.recv()).get("id") != "1":
        pass
    return str(frame["data"]["code"] if frame["type"] == "error" else frame["type"])


async def test_commands_that_are_not_allowed_are_refused(server: Server) -> None:
    """The error says which commands are allowed. Other room types, and commands without a room, are not affected."""
    async with connect(server) as alice:
        for room in ("poll:1", "log:1", "channel:1"):
            await alice.join(room)
        await alice.send("send_message", "poll:1", {"content": "Hello"}, id="m")
        error = (await alice.recv_type("error", id="m"))["data"]
        assert error["code"] == "bad_room"
        assert error["error"] == (
            "send_message cannot be sent in poll rooms such as poll:1; the allowed commands are: poll.ask, poll.vote."
        )
        assert await outcome(alice, "send_message", "poll:1", key="k") == "bad_room"
        assert await outcome(alice, "send_message", "channel:1", key="k") == "sent"
        assert await outcome(alice, "poll.vote", "poll:1") == "reply"
        assert await outcome(alice, "poll.vote", "log:1") == "bad_room"
        assert await outcome(alice, "poll.vote", "poll:2") == "not_joined"
        assert [frame["type"] for frame in await alice.settled()] == []


async def test_commands_for_anyone_are_refused_as_well(server: Server) -> None:
    """A command for anyone is refused in a room whose type does not allow it, but not without a room."""
    async with connect(server) as alice:
        assert await outcome(alice, "poll.ask", "poll:1") == "reply"
        assert await outcome(alice, "poll.ask", "log:1") == "bad_room"
        assert await outcome(alice, "poll.ask", None) == "reply"
        assert await outcome(alice, "poll.ask", "unknown:1") == "reply"


async def test_commands_of_roomcast_are_always_allowed(server: Server) -> None:
    """Clients can join and leave rooms whose type allows no command."""
    async with connect(server) as alice:
        assert await outcome(alice, "join_room", "log:1") == "joined_room"
        assert await outcome(alice, "leave_room", "log:1") == "left_room"


async def test_backends_publish_in_rooms_without_commands(server: Server) -> None:
    """Only commands of clients are limited."""
    async with connect(server) as alice:
        await alice.join("log:1")
        event = {"type": "message", "room": "log:1", "data": {"content": "x", "username": "b", "user_id": 1}}
        assert (await call(server, "POST", "/api/v1/events", event))[0] == 200
        assert (await alice.recv_type("message"))["data"]["content"] == "x"


async def test_a_room_without_presence(server: Server) -> None:
    """No user is announced or listed, and nothing is written to the broker. Events, kicks and leaves work."""
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        for user in (alice, bob):
            await user.join("quiet:1")
        assert await server.gateway.broker.rooms() == {}
        assert await server.gateway.broker.members("quiet:1") == []
        await bob.send("send_message", "quiet:1", {"content": "Hello"})
        assert (await alice.recv_type("message"))["data"]["content"] == "Hello"
        assert (await call(server, "GET", "/api/v1/rooms/quiet:1/members"))[1]["members"] == []
        assert (await call(server, "DELETE", "/api/v1/rooms/quiet:1/members/2"))[0] == 200
        await bob.recv_type("left_room", room="quiet:1")
        await alice.send("leave_room", "quiet:1")
        await alice.recv_type("left_room")
        for user in (alice, bob):
            await user.settled()
            assert not {"user_joined", "user_left"} & {frame["type"] for frame in user.frames}


async def test_lists_and_statuses_without_presence(server: Server) -> None:
    """The list of members is empty, and a status is refused; without a room, it is set in the other rooms."""
    async with connect(server) as alice:
        joined = (await alice.join("quiet:1", presence=True))["data"]
        assert (joined["members"], joined["member_count"]) == ([], 0)
        await alice.join("channel:1")
        await alice.send("members", "quiet:1")
        assert (await alice.recv_type("members"))["data"] == {"members": [], "member_count": 0}
        await alice.send("set_presence", "quiet:1", {"status": "away"})
        assert (await alice.recv_type("error"))["data"]["code"] == "bad_room"
        await alice.send("set_presence", data={"status": "away"})
        updated = {(frame["type"], frame.get("room")) for frame in await alice.settled()}
        assert updated == {("presence_set", None), ("user_updated", "channel:1")}


async def test_a_room_without_presence_is_dropped_after_the_last_connection(server: Server) -> None:
    """A connection that ends leaves a room without presence as well."""
    async with connect(server) as alice:
        await alice.join("quiet:1")
    async with asyncio.timeout(PATIENCE):
        while server.gateway.delivery.rooms or server.gateway.keepalive.connections:
            await asyncio.sleep(0.001)
    assert not server.gateway.broker._subscribed  # type: ignore[attr-defined]


async def test_the_announcement_limit_of_a_type(server: Server) -> None:
    """Joins are not announced above the limit of the type; other types have the limit of the settings."""
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        for room in ("small:1", "channel:1"):
            for user in (alice, bob):
                await user.join(room)
                await user.settled()
        await alice.settled()
        joined = [(frame["room"], frame["data"]["user_id"]) for frame in alice.frames if frame["type"] == "user_joined"]
    assert sorted(joined) == [("channel:1", 1), ("channel:1", 2), ("small:1", 1)]


@pytest.mark.parametrize(("room", "size"), [("poll:1", 2), ("log:1", 0)])
async def test_the_history_of_a_type(server: Server, room: str, size: int) -> None:
    """A room keeps as many events as its type says; a resume from before is not recovered."""
    message = {"type": "message", "room": room, "data": {"content": "x", "username": "b", "user_id": 1}}
    async with connect(server) as alice:
        ids = [(await call(server, "POST", "/api/v1/events", message))[1]["id"] for _ in range(size + 2)]
        assert (await alice.join(room, since=ids[0]))["data"]["recovered"] is False
        joined = await alice.join(room, last=50)
        assert joined["data"]["last_id"] == ids[-1]
        assert joined["data"]["more"] is False
        assert [frame["id"] for frame in await alice.settled() if frame["type"] == "message"] == ids[2:]
        assert (await alice.join(room, since=ids[-1]))["data"]["recovered"] is True


async def test_personal_rooms_may_keep_fewer_events(serve: Serve) -> None:
    """ROOM_USER_HISTORY_SIZE limits the history of personal rooms only."""
    server = await serve(room_variables={"ROOM_USER_HISTORY_SIZE": "1"})
    broker = server.gateway.broker
    for room, kept in (("user:1", 1), ("channel:1", 3)):
        for _ in range(3):
            await broker.publish(room, b"{}")
        assert len((await broker.history(room)).events) == kept


def test_a_wrong_variable_stops_the_start(gateway_of: Any) -> None:
    """The gateway is not created."""
    with pytest.raises(SettingsError, match="ROOM_CHANEL_PRESENCE is 'false', but no plugin declares"):
        gateway_of(room_variables={"ROOM_CHANEL_PRESENCE": "false"})


@pytest.fixture
def gateway_of() -> Any:
    """Create a gateway in a new event loop."""
    from serving import new_gateway

    return new_gateway


async def room_samples(server: Server) -> dict[tuple[str, ...], float]:
    """Return the samples with the label ``room_type``, by name and labels."""
    async with answer(server, "GET", "/metrics", key=None) as response:
        text = await response.text()
    return {
        (
            sample.name.removeprefix("roomcast_"),
            sample.labels["room_type"],
            *sample.labels.get("reason", "").split(),
        ): sample.value
        for family in parse(text)
        for sample in family.samples
        if "room_type" in sample.labels
    }


@pytest.mark.usefixtures("fresh_metrics")
async def test_the_metrics_by_room_type(server: Server) -> None:
    """Commands, deliveries and members are counted by the type of their room, from 0 on."""
    names = ("messages_total", "room_deliveries_total", "room_members")
    before = await room_samples(server)
    types = {"user", "channel", "task", "project", "poll", "quiet", "small", "log"}
    assert {labels[1] for labels in before} == types
    assert set(before.values()) == {0}
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        for user in (alice, bob):
            await user.join("quiet:1")
        await alice.join("quiet:2")
        await alice.join("poll:1")
        for _ in range(3):
            assert await outcome(alice, "send_message", "quiet:1") == "sent"
        assert await outcome(alice, "send_message", "poll:1") == "bad_room"
        assert await outcome(alice, "poll.vote", "quiet:3") == "not_joined"
        assert await outcome(alice, "poll.ask", "unknown:1") == "reply"
        for user in (alice, bob):
            await user.settled()
        found = await room_samples(server)
    assert {name: found[name, "quiet"] for name in names} == dict(zip(names, (3, 6, 3), strict=True))
    assert {name: found[name, "channel"] for name in names} == dict.fromkeys(names, 0)
    assert found["messages_total", "poll"] == 0
    assert {labels[1] for labels in found} == types
    assert ("room_members", "user") not in found


@pytest.mark.usefixtures("fresh_metrics")
async def test_drops_are_counted_by_room_type(server: Server) -> None:
    """A member that is closed as too slow counts once for each of its rooms, others do not count."""
    from roomcast.errors import TOO_SLOW

    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        for room in ("quiet:1", "quiet:2", "channel:1"):
            await alice.join(room)
        await bob.join("quiet:1")
        for connection in server.gateway.keepalive.connections:
            if connection.identity.user_id == 1:  # type: ignore[attr-defined]
                connection.close(TOO_SLOW)
        assert (await alice.closed())[0] == 1013
        async with asyncio.timeout(PATIENCE):
            while len(server.gateway.keepalive.connections) > 1:
                await asyncio.sleep(0.001)
    found = {labels: count for labels, count in (await room_samples(server)).items() if labels[0] == "room_drops_total"}
    counted = {labels[1:]: count for labels, count in found.items() if count}
    assert counted == {("quiet", "slow_member"): 2, ("channel", "slow_member"): 1, ("user", "slow_member"): 1}
    assert ("room_drops_total", "channel", "live_event") in found


async def test_the_members_of_a_room_without_presence(server: Server) -> None:
    """Their list is empty in each reply, and a status is refused, or left out if it is for all rooms."""
    no_members = {"members": [], "member_count": 0}
    async with connect(server) as alice:
        joined = (await alice.join("quiet:1", presence=True))["data"]
        assert {name: joined[name] for name in no_members} == no_members
        await alice.send("members", "quiet:1", id="1")
        assert (await alice.recv_type("members"))["data"] == no_members
        assert await outcome(alice, "set_presence", "quiet:1") == "bad_room"
        assert await outcome(alice, "set_presence", None) == "presence_set"
        assert await server.gateway.broker.rooms() == {}
