"""The fixtures for plugin authors, used as authors use them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from marshmallow import Schema, fields

from roomcast import Context, Plugin, Refused, Service, testing
from roomcast.errors import PluginError, SettingsError
from roomcast.plugins.chat import chat
from roomcast.testing import Disconnected, running

pytest_plugins = ("pytester", "roomcast.testing")

ROOM = "place:1"

demo = Plugin("demo")
demo.room("place")
lives: list[str] = []


class Said(Schema):
    """Something was said."""

    text = fields.String(required=True)


class Nothing(Schema):
    """No data."""


demo.event("demo.said")(Said)


@demo.command("demo.say", Said)
async def say(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Say it."""
    return {"event_id": await ctx.publish(Said, data)}


@demo.command("demo.hang", Nothing)
async def hang(ctx: Context, data: dict[str, Any]) -> None:
    """Never end."""
    await asyncio.Event().wait()


@demo.command("demo.claims", Nothing)
async def claims(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Show who asks."""
    return {"user_id": ctx.user_id, "username": ctx.username, "claims": dict(ctx.claims)}


@demo.lifespan
async def live(service: Service) -> AsyncIterator[None]:
    """Note when it begins and ends."""
    lives.append("begun")
    yield
    lives.append("ended")


@demo.route("GET", "/hello")
async def hello(service: Service, request: web.Request) -> web.Response:
    """Greet."""
    return web.json_response({"hello": request.query.get("who")})


@pytest.fixture
def roomcast_plugins() -> list[Plugin]:
    """The plugin of this module, which no package offers."""
    return [demo]


@pytest.fixture
def roomcast_settings() -> dict[str, Any]:
    """Handlers are cut off soon, and little is kept."""
    return {"handler_timeout": 0.1, "history_size": 2}


# The gateway.


async def test_a_plugin_needs_no_package(gateway, connect):
    """The one that the test brings works beside the installed ones, route and lifespan included."""
    alice = await connect("alice", rooms=["place:*", "channel:*"])
    await alice.join(ROOM)
    await alice.join("channel:1")
    reply = await alice.command("demo.say", {"text": "Hi"}, room=ROOM)
    assert (await alice.next("demo.said"))["id"] == reply["event_id"]
    await alice.command("send_message", {"content": "Hi"}, room="channel:1")
    await alice.next("message")
    async with gateway.session.get("/plugins/demo/hello", params={"who": "alice"}) as response:
        assert await response.json() == {"hello": "alice"}


async def test_lifespans_are_run():
    """The plugin's begins before anyone connects, and ends with the gateway."""
    lives.clear()
    async with running([demo]):
        assert lives == ["begun"]
    assert lives == ["begun", "ended"]


async def test_settings_are_taken(gateway, connect):
    """Those of the fixture hold; a secret and an API key are there without."""
    assert (gateway.settings.handler_timeout, gateway.settings.history_size) == (0.1, 2)
    assert gateway.settings.jwt_secret
    assert gateway.settings.api_key
    alice = await connect("alice")
    with pytest.raises(Refused) as refused:
        await alice.command("demo.hang")
    assert refused.value.code == "timeout"


async def test_an_installed_plugin_may_be_given_too():
    """It is there once."""
    async with running([chat]) as gateway:
        alice = await gateway.connect("alice", rooms=["channel:1"])
        await alice.join("channel:1")


async def test_a_start_that_fails_fails_the_test():
    """What would stop a server stops the fixture, with the same error."""
    with pytest.raises(PluginError, match="the plugin name 'chat' is declared twice"):
        async with running([Plugin("chat")]):
            raise AssertionError("it started")
    with pytest.raises(SettingsError, match="HISTORY_SIZE"):
        async with running(history_size=-1):
            raise AssertionError("it started")


async def test_each_test_has_a_gateway_of_its_own(gateway):
    """Two of them share nothing, not even the secret."""
    async with running() as other:
        assert other.url != gateway.url
        assert other.settings.jwt_secret != gateway.settings.jwt_secret
        await other.service.publish("message", "channel:1", {"content": "x", "username": "u", "user_id": 1})
        assert await gateway.service.history("channel:1") == []


# Users.


async def test_users_are_who_their_tokens_say(connect):
    """The id is the name if not given; claims go into the token."""
    alice = await connect("alice")
    assert alice.welcome == {"message": "Connected successfully", "user_id": "alice", "username": "alice"}
    bob = await connect("bob", user_id=7, team="red")
    assert await bob.command("demo.claims") == {"user_id": 7, "username": "bob", "claims": {"team": "red"}}


async def test_no_room_opens_unless_said(connect):
    """A test that forgets the rooms fails, rather than pass for a rule."""
    alice = await connect("alice")
    with pytest.raises(Refused) as refused:
        await alice.join(ROOM)
    assert refused.value.code == "forbidden"


async def test_who_is_not_let_in_is_told_why(gateway):
    """A refused connection raises the close that it got."""
    with pytest.raises(Disconnected, match="4401 Authentication Failed") as refused:
        await gateway.connect("alice", expires_in=-1)
    assert (refused.value.code, refused.value.reason) == (4401, "Authentication Failed")


async def test_joining_answers_and_resumes(connect):
    """Without ``since`` it is the plain answer; with it, what was missed comes."""
    alice = await connect("alice", rooms=["*"])
    assert await alice.join(ROOM) == {"message": f"Joined room {ROOM}"}
    joined = await alice.next("user_joined")
    await alice.command("demo.say", {"text": "missed"}, room=ROOM)
    bob = await connect("bob", rooms=["*"])
    answer = await bob.join(ROOM, since=joined["id"])
    assert answer["recovered"] is True
    assert (await bob.next("demo.said"))["data"] == {"text": "missed"}
    assert await bob.leave(ROOM) == {"message": f"Left room {ROOM}"}


async def test_a_refusal_carries_code_message_and_fields(connect):
    """As the client got them."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    with pytest.raises(Refused, match=r"data\.text: Not a valid string\.") as refused:
        await alice.command("demo.say", {"text": 1}, room=ROOM)
    assert (refused.value.code, refused.value.fields) == ("invalid_data", {"text": ["Not a valid string."]})


async def test_answers_find_their_questions(connect):
    """Commands asked at once, also of one user, are each given their own."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join(ROOM)
    texts = [str(number) for number in range(20)]
    replies = await asyncio.gather(
        *(user.command("demo.say", {"text": text}, room=ROOM) for text in texts for user in (alice, bob))
    )
    ids = [reply["event_id"] for reply in replies]
    assert len(set(ids)) == 40
    said = [await alice.next("demo.said") for _ in ids]
    assert {event["id"]: (event["data"]["text"], event["sender"]) for event in said} == {
        id: (text, user)
        for id, (text, user) in zip(ids, ((text, user) for text in texts for user in ("alice", "bob")), strict=True)
    }


async def test_a_key_is_passed_on(connect):
    """The same key says a thing once."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    first, second = [await alice.command("demo.say", {"text": "x"}, room=ROOM, key="k") for _ in range(2)]
    assert first == second
    await alice.next("demo.said")
    await alice.nothing("demo.said")


# Events.


async def test_next_takes_events_in_order_by_type_and_room(connect):
    """Each is taken once; those passed over stay for later."""
    alice = await connect("alice", rooms=["*"])
    for room in (ROOM, "place:2"):
        await alice.join(room)
        for text in ("one", "two"):
            await alice.command("demo.say", {"text": text}, room=room)
    assert (await alice.next("demo.said", room="place:2"))["data"] == {"text": "one"}
    assert [(await alice.next("demo.said"))["data"]["text"] for _ in range(3)] == ["one", "two", "two"]
    assert (await alice.next())["room"] == ROOM
    assert (await alice.next("user_joined"))["room"] == "place:2"
    assert alice.events == []


async def test_next_waits_for_what_is_still_to_come(gateway, connect):
    """Several may wait at once, and each gets an event."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    waiting = [asyncio.ensure_future(alice.next("demo.said")) for _ in range(3)]
    await alice.nothing("demo.said")
    for text in ("one", "two", "three"):
        await gateway.service.publish("demo.said", ROOM, {"text": text})
    assert sorted([event["data"]["text"] for event in await asyncio.gather(*waiting)]) == ["one", "three", "two"]


async def test_next_says_what_came_instead(connect, monkeypatch):
    """When nothing fits in time, the failure lists what there was."""
    monkeypatch.setattr(testing, "EVENT_TIMEOUT", 0.05)
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    with pytest.raises(AssertionError, match=r"no demo\.said in place:1 came within 0\.05 s; .*: user_joined$"):
        await alice.next("demo.said", room=ROOM)


async def test_nothing_fails_on_what_came(connect):
    """It sees all that was published before, and shows it; other types and rooms do not trouble it."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join(ROOM)
    await bob.nothing("demo.said")
    await alice.command("demo.say", {"text": "surprise"}, room=ROOM)
    await bob.nothing("message")
    await bob.nothing("demo.said", room="place:2")
    for type in ("demo.said", None):
        with pytest.raises(AssertionError, match="surprise"):
            await bob.nothing(type)


async def test_a_message_may_be_sent_as_it_is(connect):
    """Its answer is then an event like any other, with the id that it was given."""
    alice = await connect("alice")
    await alice.send({"type": "no.such", "id": "mine"})
    error = await alice.next("error")
    assert (error["id"], error["data"]["code"]) == ("mine", "unknown_type")


# The end.


async def test_whoever_waits_learns_that_the_connection_ended(connect):
    """Commands, events and sending raise the close, then and later; ``closed`` returns it."""
    alice = await connect("alice", rooms=["*"])
    waiting = asyncio.ensure_future(alice.next("demo.said"))
    await alice.send({"type": "join_room", "room": "user:1"})
    assert await alice.closed() == (4403, "Forbidden")
    with pytest.raises(Disconnected, match="4403 Forbidden"):
        await waiting
    for late in (alice.command("demo.claims"), alice.nothing(), alice.next("demo.said"), alice.send({"type": "ping"})):
        with pytest.raises(Disconnected, match="4403 Forbidden"):
            await late
    assert (await alice.next("error"))["data"]["code"] == "forbidden"


async def test_a_command_under_way_is_not_waited_for_in_vain(connect):
    """Whose connection ends gets no answer, and is told so at once."""
    alice = await connect("alice")
    waiting = asyncio.ensure_future(alice.command("demo.hang"))
    await alice.send({"type": "ping", "id": "sent after it"})
    await alice.close()
    with pytest.raises(Disconnected):
        await waiting


async def test_who_closes_is_gone(connect):
    """The others see them leave; closing again is no error."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join(ROOM)
    await bob.close()
    await bob.close()
    assert (await alice.next("user_left"))["data"] == {"username": "bob", "user_id": "bob"}


async def test_a_gateway_that_stops_says_so():
    """Its users get 1012 if they have not left, and nobody waits for anything."""
    async with running() as gateway:
        alice = await gateway.connect("alice")
        gateway._clients.clear()
    with pytest.raises(Disconnected):
        await alice.next()


# In an author's project.

AUTHORS_TEST = """
    import pytest
    from marshmallow import Schema, fields
    from roomcast import Plugin
    from roomcast.testing import Client

    pytest_plugins = ["roomcast.testing"]

    mine = Plugin("mine")

    @mine.event("mine.done")
    class Done(Schema):
        n = fields.Integer(required=True)

    @mine.command("mine.do", Done)
    async def do(ctx, data):
        await ctx.publish(Done, data)

    @pytest.fixture
    def roomcast_plugins():
        return [mine]

    MARK
    async def test_mine(connect):
        alice = await connect("alice", rooms=["channel:*"])
        assert isinstance(alice, Client)
        await alice.join("channel:1")
        assert await alice.command("mine.do", {"n": 1}, room="channel:1") == {}
        assert (await alice.next("mine.done"))["data"] == {"n": 1}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "mark"), [("auto", ""), ("strict", "@pytest.mark.asyncio")])
def test_it_works_in_both_modes_of_pytest_asyncio(pytester, mode, mark):
    """With every warning an error, and the fixtures found by the module's name alone."""
    pytester.makepyfile(textwrap.dedent(AUTHORS_TEST).replace("MARK", mark))
    done = pytester.runpytest_subprocess(
        *("-W", "error", "-p", "no:cacheprovider", "-o", f"asyncio_mode={mode}"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    done.assert_outcomes(passed=1)


@pytest.mark.slow
def test_a_server_needs_no_pytest():
    """Only who asks for the fixtures imports it."""
    program = "import sys, roomcast.cli; sys.exit(any(name.startswith(('pytest', '_pytest')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
