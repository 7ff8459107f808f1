"""Tests of ``context``: the API that plugins call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from marshmallow import Schema, fields
from serving import Serve, User, connect, token_for

from roomcast import Context, Plugin, Refused, Service
from roomcast.broker.base import Member

ROOM = "lab:1"


class Measured(Schema):
    value = fields.Integer(required=True)


class Undeclared(Schema):
    value = fields.Integer()


Action = Callable[[Context], Awaitable[Any]]


class Lab:
    """A plugin whose command ``try`` and rule run a function of the test."""

    def __init__(self) -> None:
        self.plugin = Plugin("lab")
        self.services: list[Service] = []
        self.result: Any = None
        self._action: Action | None = None
        self.rule: Action = allow
        self.plugin.event("lab.measured")(Measured)
        self.plugin.command("try", Schema, access="anyone")(self._try)
        self.plugin.room("lab")(self._rule)
        self.plugin.lifespan(self._lifespan())

    async def _rule(self, ctx: Context, entity: str) -> Any:
        """Run the rule of the test."""
        return await self.rule(ctx)

    async def _try(self, ctx: Context, data: dict[str, Any]) -> None:
        """Run the action of the test."""
        assert self._action is not None
        self.result = await self._action(ctx)

    def _lifespan(self) -> Callable[[Service], AsyncIterator[None]]:
        async def lifespan(service: Service) -> AsyncIterator[None]:
            self.services.append(service)
            yield

        return lifespan

    async def do(self, user: User, action: Action, room: str | None = ROOM, **more: Any) -> Any:
        """Send the command as ``user`` and run ``action`` in it; return its result, or the data of the error."""
        self._action, self.result = action, None
        await user.send("try", room, id="try", **more)
        while True:
            frame = await user.recv()
            if frame.get("id") == "try":
                return frame["data"] if frame["type"] == "error" else self.result


async def allow(ctx: Context) -> bool:
    """Allow everyone."""
    return True


@pytest.fixture
async def lab() -> Lab:
    """Return the plugin, created on the event loop of the test."""
    return Lab()


def returns(function: Callable[[Context], Any]) -> Action:
    """Return an action that returns the result of ``function``."""

    async def action(ctx: Context) -> Any:
        return function(ctx)

    return action


async def test_the_user_of_a_context(serve: Serve, lab: Lab) -> None:
    """The context has the id, the name and the other claims of the token, and the room."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server, token=token_for(7, "alice", ["lab:*"], team="red", level=3)) as alice:
        user_of = returns(lambda ctx: (ctx.user_id, ctx.username, ctx.claims, ctx.room))
        assert await lab.do(alice, user_of) == (7, "alice", {"team": "red", "level": 3}, ROOM)
        assert (await lab.do(alice, user_of, room=None))[3] is None


async def test_the_context_after_a_token_refresh(serve: Serve, lab: Lab) -> None:
    """After refresh_token, handlers get the new claims and rooms."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server, token=token_for(7, team="red")) as alice:
        await alice.send("refresh_token", data={"token": token_for(7, rooms=["lab:2"], team="blue")})
        user_of = returns(lambda ctx: (ctx.claims, ctx.claims_allow("lab:2"), ctx.claims_allow("lab:1")))
        assert await lab.do(alice, user_of) == ({"team": "blue"}, True, False)


async def test_in_room_and_joined(serve: Serve, lab: Lab) -> None:
    """in_room and joined depend on this connection, not on others of the user."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server) as alice, connect(server) as tab:
        await tab.join(ROOM)
        in_room, joined = returns(lambda ctx: ctx.in_room), returns(lambda ctx: ctx.joined())
        assert await lab.do(alice, in_room) is False
        assert await lab.do(alice, in_room, room=None) is False
        error = await lab.do(alice, joined)
        assert (error["code"], error["error"]) == (
            "not_joined",
            f"Join {ROOM} first: send join_room, and wait for joined_room.",
        )
        assert (await lab.do(alice, joined, room=None))["code"] == "bad_room"
        await alice.join(ROOM)
        assert await lab.do(alice, in_room) is True
        assert await lab.do(alice, joined) == ROOM
        await alice.send("leave_room", ROOM)
        assert await lab.do(alice, in_room) is False


@pytest.mark.parametrize(("access", "allowed"), [("claims", [True, False]), ("open", [True, True])])
async def test_claims_allow_and_policy_allows(serve: Serve, lab: Lab, access: str, allowed: list[bool]) -> None:
    """claims_allow uses the token, policy_allows ROOM_ACCESS; personal rooms are never allowed."""
    server = await serve(plugins=[lab.plugin], room_access=access)
    async with connect(server, rooms=["lab:1"]) as alice:
        for room, expected in zip(("lab:1", "lab:2"), allowed, strict=True):
            assert await lab.do(alice, returns(lambda ctx, room=room: ctx.claims_allow(room))) is expected
            assert await lab.do(alice, lambda ctx, room=room: ctx.policy_allows(room)) is expected
        assert await lab.do(alice, lambda ctx: ctx.policy_allows("user:1")) is False


async def test_a_rule_has_the_context_of_the_join(serve: Serve, lab: Lab) -> None:
    """A rule gets the user and the room to join, in which the user is not yet."""
    seen: list[Any] = []

    async def rule(ctx: Context) -> bool:
        seen.append((ctx.user_id, ctx.room, ctx.in_room))
        return ctx.claims_allow("lab:9")

    lab.rule = rule
    server = await serve(plugins=[lab.plugin])
    async with connect(server, rooms=["lab:9"]) as alice, connect(server, 2, "bob", rooms=["lab:1"]) as bob:
        await alice.join(ROOM)
        await bob.send("join_room", ROOM)
        assert await bob.closed() == (4403, "Forbidden")
    assert seen == [(1, ROOM, False), (2, ROOM, False)]


async def test_publish(serve: Serve, lab: Lab) -> None:
    """An event, by type or schema, goes to the room of the request or another room, with the user as sender."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.join("channel:1")
        id = await lab.do(alice, lambda ctx: ctx.publish(Measured, {"value": 1}))
        event = await alice.recv_type("lab.measured")
        assert (event["room"], event["data"], event["sender"], event["id"]) == (ROOM, {"value": 1}, "alice", id)
        await lab.do(alice, lambda ctx: ctx.publish("lab.measured", {"value": 2}, room="channel:1"), room=None)
        assert (await alice.recv_type("lab.measured"))["room"] == "channel:1"


@pytest.mark.parametrize(
    ("event", "data", "room", "code"),
    [
        (Measured, {"value": "many"}, ROOM, "invalid_data"),
        (Measured, {"value": 1, "unit": "m"}, ROOM, "invalid_data"),
        (Undeclared, {"value": 1}, ROOM, "unknown_type"),
        ("lab.lost", {"value": 1}, ROOM, "unknown_type"),
        ("user_joined", {"username": "x", "user_id": 1}, ROOM, "unknown_type"),
        ("notification.new", {"title": "x", "message": "y"}, ROOM, "bad_room"),
        (Measured, {"value": 1}, None, "bad_room"),
        (Measured, {"value": 1}, "planet:1", "unknown_room_type"),
        (Measured, {"value": 1}, "lab:*", "bad_room"),
    ],
)
async def test_publish_refuses_invalid_events(
    serve: Serve, lab: Lab, event: Any, data: Any, room: str | None, code: str
) -> None:
    """Invalid data, undeclared or built-in events, and unknown or unsuitable rooms are refused."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.settled()
        refused = await lab.do(alice, lambda ctx: refusal(lambda: ctx.publish(event, data, room=room)), room=None)
        assert refused.code == code
        assert await alice.settled() == []


async def refusal(publish: Callable[[], Awaitable[str]]) -> Refused:
    """Return the ``Refused`` that ``publish`` raises."""
    with pytest.raises(Refused) as refused:
        await publish()
    return refused.value


@pytest.mark.parametrize(
    "action",
    [
        lambda ctx: ctx.publish(Measured, {"value": "many"}),
        lambda ctx: ctx.publish(Undeclared, {"value": 1}),
        lambda ctx: ctx.publish("user_joined", {"username": "x", "user_id": 1}),
        lambda ctx: ctx.notify(1, Measured, {"value": "many"}),
    ],
)
async def test_an_invalid_event_is_a_fault_of_the_plugin(
    serve: Serve, lab: Lab, caplog: pytest.LogCaptureFixture, action: Action
) -> None:
    """The client, whose data was valid, gets ``internal`` without details, and the log has the traceback."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        for more in ({}, {"key": "k"}):
            error = await lab.do(alice, action, **more)
            assert error["code"] == "internal"
            assert "fields" not in error
    assert caplog.text.count("roomcast.errors.InvalidEvent") == 2
    assert caplog.text.count("in _try") == 2


async def test_a_command_with_a_key_publishes_each_event_once(serve: Serve, lab: Lab) -> None:
    """If a command fails after a publish, a repeat with the same key publishes only the rest."""
    server = await serve(plugins=[lab.plugin])
    failing = True

    async def action(ctx: Context) -> None:
        await ctx.publish(Measured, {"value": 1})
        await ctx.publish(Measured, {"value": 1})
        if failing:
            raise Refused("broken", "The scale broke.")
        await ctx.publish(Measured, {"value": 3})

    async with connect(server) as alice:
        await alice.join(ROOM)
        assert (await lab.do(alice, action, key="k"))["code"] == "broken"
        failing = False
        assert await lab.do(alice, action, key="k") is None
        assert await lab.do(alice, action, key="k") is None
        await alice.settled()
        values = [frame["data"]["value"] for frame in alice.frames if frame["type"] == "lab.measured"]
        assert values == [1, 1, 3]


async def test_notify(serve: Serve, lab: Lab) -> None:
    """notify sends an event to each connection of the user, without room and sender."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server) as alice, connect(server, "b-2", "bob") as bob, connect(server, "b-2", "bob") as tab:
        notice = {"title": "Done", "message": "It weighs 3 kg."}
        id = await lab.do(alice, lambda ctx: ctx.notify("b-2", "notification.new", notice))
        for user in (bob, tab):
            event = await user.recv()
            assert set(event) == {"type", "data", "timestamp", "id"}
            assert event["id"] == id
            assert event["data"] == {**notice, "priority": "normal"}
        assert (await lab.do(alice, lambda ctx: ctx.notify("..", Measured, {"value": 1})))["code"] == "bad_room"
        assert await alice.settled() == []
        async with connect(server, "100%25|é", "carol") as carol:
            await server.gateway.service.notify("100%25|é", "notification.new", notice)
            assert (await carol.recv())["data"]["title"] == "Done"


async def test_since(serve: Serve, lab: Lab) -> None:
    """since returns the event and all later events, or nothing if the event is not stored."""
    server = await serve(plugins=[lab.plugin])
    async with connect(server) as alice:
        assert (await lab.do(alice, lambda ctx: ctx.since("x-1")))["code"] == "not_joined"
        await alice.join(ROOM)
        await alice.settled()
        ids = [await lab.do(alice, lambda ctx, n=n: ctx.publish(Measured, {"value": n})) for n in range(4)]
        await alice.settled()
        measured = [frame for frame in alice.frames if frame["type"] == "lab.measured"]
        assert await lab.do(alice, lambda ctx: ctx.since(ids[1])) == measured[1:]
        assert await lab.do(alice, lambda ctx: ctx.since(ids[3])) == measured[3:]
        for unknown in ("x-1", "", ids[0].rpartition("-")[0] + "-0", ids[0].rpartition("-")[0] + "-99"):
            assert await lab.do(alice, lambda ctx, unknown=unknown: ctx.since(unknown)) == []
        odd = [
            f"{ids[1][:-1]}0{ids[1][-1]}",
            f"{ids[1]}0" * 9,
            f"{ids[1].rpartition('-')[0]}-\u0663",
            "-",
            "-1",
            "x--1",
        ]
        assert [await lab.do(alice, lambda ctx, one=one: ctx.since(one)) for one in odd] == [[]] * len(odd)


async def test_since_with_about(serve: Serve) -> None:
    """about omits events without the id, and other coroutines run while long events are searched."""
    server, room = await serve(ws_message_rate=0, history_bytes=2**26), "channel:1"
    filling = {"username": "alice", "user_id": 1, "metadata": {"m": [{"a": 1}] * 6000}}
    async with connect(server) as alice:
        service = server.gateway.service
        first = await service.publish("message", room, {"content": "first", **filling})
        for number in range(60):
            await service.publish("message", room, {"content": f"{number}", **filling})
            edit = {"message_id": first, "content": f"edit {number}", **filling}
            last = await service.publish("message.edited", room, edit)
        await service.publish("message", room, {"content": first, **filling})
        await alice.join(room)
        iterations = 0

        async def count() -> None:
            nonlocal iterations
            while True:
                iterations += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        (client,) = server.gateway.keepalive.connections
        found = await Context(server.gateway, client, room).since(first, about=True)  # type: ignore[arg-type]
        counting.cancel()
        assert [event["type"] for event in found] == ["message", *["message.edited"] * 60, "message"]
        assert (found[0]["id"], found[-2]["id"]) == (first, last)
        assert iterations >= 20


async def test_a_long_history_is_decoded_in_parts(serve: Serve) -> None:
    """Other coroutines run meanwhile."""
    server, room = await serve(history_bytes=2**26), "channel:1"
    filling = {"username": "alice", "user_id": 1, "metadata": {"m": [{"a": 1}] * 6000}}
    service = server.gateway.service
    for number in range(60):
        await service.publish("message", room, {"content": f"{number}", **filling})
    reading = asyncio.create_task(service.history(room))
    iterations = 0
    while not reading.done():
        iterations += 1
        await asyncio.sleep(0)
    assert [event["data"]["content"] for event in reading.result()] == [str(number) for number in range(60)]
    assert iterations >= 20


async def test_the_service_of_a_lifespan(serve: Serve, lab: Lab) -> None:
    """A lifespan can publish, with or without a sender, once per key, and read rooms."""
    server = await serve(plugins=[lab.plugin])
    (service,) = lab.services
    async with connect(server) as alice, connect(server) as tab:
        await alice.join(ROOM)
        await tab.join(ROOM)
        await alice.settled()
        first = await service.publish(Measured, ROOM, {"value": 1}, key="k")
        assert await service.publish(Measured, ROOM, {"value": 2}, key="k") == first
        await service.publish("lab.measured", ROOM, {"value": 3}, sender="scale")
        events = [await alice.recv(), await alice.recv()]
        assert [(event["data"]["value"], event.get("sender")) for event in events] == [(1, None), (3, "scale")]
        assert await alice.settled() == []
        assert await service.members(ROOM) == [Member(1, "alice", 2)]
        assert await service.members("lab:2") == []
        assert (await service.history(ROOM))[-2:] == events
        assert await service.history(ROOM, first) == events[1:]
        with pytest.raises(Refused):
            service.publish(Measured, ROOM, {"value": "x"})
