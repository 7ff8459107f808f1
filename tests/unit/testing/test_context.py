"""Tests of contexts without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from marshmallow import Schema, fields
from waiting import wait_until

from roomcast import Context, MemberContext, Plugin, Refused, Service
from roomcast.errors import InvalidEvent
from roomcast.plugins.chat import chat
from roomcast.testing import make_context, make_member_context, make_service

pytest_plugins = ("roomcast.testing",)

ROOM = "poll:1"

polls = Plugin("contexts")


class Vote(Schema):
    """The number of an option."""

    option = fields.Integer(required=True)


@polls.event("contexts.voted")
class Voted(Schema):
    """A user has voted."""

    option = fields.Integer(required=True)


@polls.event("contexts.looking", stored=False, throttle=1.0, leave={"option": 0})
class Looking(Schema):
    """A user looks at an option."""

    option = fields.Integer(required=True)


@polls.room("poll")
async def may_vote(ctx: Context, poll: str) -> bool:
    """Allow users with a claim."""
    return ctx.claims_allow(f"poll:{poll}") and ctx.claims.get("age", 0) >= 18


@polls.command("contexts.vote", Vote)
async def vote(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Vote once, tell the owner, and count the votes."""
    if any(event["sender"] == ctx.username for event in await ctx.history(ctx.joined())):
        raise Refused("voted", "You have voted.")
    await ctx.publish(Voted, data)
    await ctx.notify("owner", Voted, data)
    return {"votes": len(await ctx.history(ctx.joined())), "members": len(await ctx.members(ctx.joined()))}


@polls.command("contexts.look", Vote)
async def look(ctx: Context, data: dict[str, Any]) -> None:
    """Show what the user looks at."""
    ctx.broadcast(Looking, data)


@polls.command("contexts.count", Vote, access="anyone")
def count(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Publish from a thread."""
    ctx.from_thread(ctx.publish, Voted, data, room=ROOM)
    return {"in_room": ctx.in_room}


async def test_publishes_are_recorded() -> None:
    """Events are recorded as clients receive them, with their room, and have ids if they are stored."""
    ctx = make_context(polls, user_id=7, username="alice", room=ROOM)
    assert await vote(ctx, {"option": 2}) == {"votes": 1, "members": 1}
    event, told = ctx.published
    assert event == {**event, "type": "contexts.voted", "room": ROOM, "data": {"option": 2}, "sender": "alice"}
    assert told == {**told, "type": "contexts.voted", "room": "user:owner", "data": {"option": 2}}
    assert await ctx.history(ROOM) == [event]
    await look(ctx, {"option": 3})
    assert ctx.published[-1] == {**ctx.published[-1], "type": "contexts.looking", "data": {"option": 3}}
    assert "id" not in ctx.published[-1]
    assert (ctx.user_id, ctx.username, ctx.room, ctx.in_room) == (7, "alice", ROOM, True)


async def test_data_is_validated() -> None:
    """An event with wrong data is refused, as on a server, and not recorded."""
    ctx = make_context(polls, room=ROOM)
    with pytest.raises(Refused, match="Not a valid integer"):
        await vote(ctx, {"option": "x"})
    with pytest.raises(Refused, match=r"no plugin declares|No plugin declares"):
        await ctx.publish("contexts.unknown", {})
    assert ctx.published == []


async def test_several_users_share_rooms() -> None:
    """With ``like``, a context sees what another one has published."""
    alice = make_context(polls, user_id="alice", room=ROOM)
    bob = make_context(polls, user_id="bob", room=ROOM, like=alice)
    assert (await vote(alice, {"option": 1}))["votes"] == 1
    assert await vote(bob, {"option": 1}) == {"votes": 2, "members": 2}
    with pytest.raises(Refused, match="You have voted"):
        await vote(alice, {"option": 2})
    assert [event["room"] for event in bob.published] == [ROOM, "user:owner"] * 2
    assert make_context(polls).published == []


async def test_rules_and_claims() -> None:
    """A rule sees the rooms claim and the further claims."""
    allowed = {"rooms": ["poll:*"], "claims": {"age": 18}}
    assert await may_vote(make_context(polls, **allowed), "1") is True
    assert await may_vote(make_context(polls, rooms=["poll:2"], claims={"age": 18}), "1") is False
    assert await may_vote(make_context(polls, rooms=["poll:*"], claims={"age": 17}), "1") is False


async def test_a_user_outside_the_room() -> None:
    """With ``in_room=False``, the user is not a member."""
    ctx = make_context(polls, room=ROOM, in_room=False)
    assert ctx.in_room is False
    with pytest.raises(Refused) as refused:
        await vote(ctx, {"option": 1})
    assert refused.value.code == "not_joined"
    assert await ctx.members(ROOM) == []


@polls.on_join("poll")
async def show_votes(ctx: MemberContext) -> None:
    """Repeat the last vote for a user who joins, if there are others."""
    for event in await ctx.history(ctx.room, limit=1):
        if len(await ctx.members(ctx.room)) > 1:
            await ctx.notify(ctx.user_id, Voted, event["data"])


@polls.every(60)
async def vote_again(service: Service) -> None:
    """Vote for the option that a lifespan has chosen."""
    await service.publish_many([(Voted, ROOM, {"option": service.state.option})] * 2, sender="robot")


@polls.route("GET", "/{poll}", auth="public")
async def show(service: Service, request: web.Request) -> web.Response:
    """Return the number of votes."""
    votes = await service.history(f"poll:{request.match_info['poll']}")
    if not votes:
        raise web.HTTPNotFound
    return web.Response(text=str(len(votes)))


async def test_a_hook_for_members() -> None:
    """Its context shares rooms and history with another one, and its user is in the room, or not after a leave."""
    ctx = make_context(polls, room=ROOM)
    await vote(ctx, {"option": 5})
    await show_votes(make_member_context(polls, ROOM, user_id=7, username="bob", like=ctx, in_room=False))
    assert len(ctx.published) == 2
    bob = make_member_context(polls, ROOM, user_id=7, username="bob", like=ctx)
    await show_votes(bob)
    assert (bob.room, bob.user_id, bob.username) == (ROOM, 7, "bob")
    assert bob.published[2:] == [{**bob.published[2], "room": "user:7", "data": {"option": 5}}]
    assert [member.username for member in await ctx.members(ROOM)] == ["alice", "bob"]


async def test_a_service() -> None:
    """It records and validates what is published, has a state, and shares both."""
    service = make_service(polls)
    service.state.option = 6
    await vote_again(service)
    assert [(event["data"], event["sender"]) for event in service.published] == [({"option": 6}, "robot")] * 2
    assert await service.history(ROOM) == service.published
    again = make_service(polls, like=service)
    assert (again.state, again.published) == (service.state, service.published)
    again.state.option = "x"
    with pytest.raises(Refused, match="Not a valid integer"):
        await vote_again(again)
    assert make_service(polls).published == []
    with pytest.raises(web.HTTPNotFound):
        await show(again, make_mocked_request("GET", "/2", match_info={"poll": "2"}))
    assert (await show(again, make_mocked_request("GET", "/1", match_info={"poll": "1"}))).text == "2"


async def test_hooks_of_a_publish_have_the_state() -> None:
    """A publish calls the hooks of the plugin, which see the ``state`` that the test has set."""
    plugin, room = Plugin("counted"), "channel:1"
    plugin.event("counted.done")(Voted)

    @plugin.before_publish("counted.done")
    async def before(service: Service, event: dict[str, Any]) -> None:
        service.state.seen.append(("before", event["data"]["option"]))

    @plugin.after_publish("counted.done")
    async def after(service: Service, event: dict[str, Any]) -> None:
        service.state.seen.append(("after", event["data"]["option"]))

    service = make_service(plugin)
    service.state.seen = seen = []
    await service.publish(Voted, room, {"option": 1})
    await wait_until(lambda: len(seen) == 2)
    await make_context(plugin, room=room, like=service).publish(Voted, {"option": 2})
    await make_member_context(plugin, room, like=service).publish(Voted, room, {"option": 3})
    await wait_until(lambda: len(seen) == 6)
    assert sorted(seen) == [(when, option) for when in ("after", "before") for option in (1, 2, 3)]


def test_a_service_without_a_running_loop() -> None:
    """It may be created before the event loop, and used on several."""
    service = make_service(polls)
    service.state.option = 1
    for _ in range(2):
        asyncio.run(vote_again(service))
    assert len(service.published) == 4


async def test_plain_functions() -> None:
    """A plain handler runs in a thread, as a server calls it."""
    ctx = make_context(polls, room=ROOM)
    assert await ctx.in_thread(count, ctx, {"option": 4}) == {"in_room": True}
    assert [event["data"] for event in ctx.published] == [{"option": 4}]


def test_a_context_without_a_running_loop() -> None:
    """The context may be created before the event loop, and used on several, one after the other."""
    ctx = make_context(polls, user_id="alice", room=ROOM)
    asyncio.run(vote(ctx, {"option": 1}))
    with pytest.raises(Refused, match="You have voted"):
        asyncio.run(vote(ctx, {"option": 1}))
    assert len(ctx.published) == 2


async def test_handlers_of_installed_plugins() -> None:
    """A handler is called by its command; an edit finds the message."""
    ctx = make_context(chat, room="channel:1")
    sent = await chat.commands["send_message"].handler(ctx, {"content": "Hi"})
    assert ctx.published[0]["id"] == sent["event_id"]
    await chat.commands["edit_message"].handler(ctx, {"message_id": sent["event_id"], "content": "Bye"})
    assert [event["data"]["content"] for event in ctx.published] == ["Hi", "Bye"]


async def test_wrong_data_of_an_event_is_explained():
    """The note, which the log and pytest show, has the event and each wrong field."""
    with pytest.raises(InvalidEvent) as invalid:
        await make_context(polls, room=ROOM).publish(Voted, {"options": "x"})
    assert invalid.value.__notes__ == [
        "The data of contexts.voted is wrong: {'option': ['Missing data for required field.'], "
        "'options': ['Unknown field.']}"
    ]
