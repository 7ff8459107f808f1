"""Tests of ``roomcast.testing``, which use the fixtures as plugin authors do."""

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

from roomcast import Context, Plugin, Refused, Service
from roomcast.errors import PluginError, SettingsError
from roomcast.plugins.chat import chat
from roomcast.testing import Disconnected, running

pytest_plugins = ("pytester", "roomcast.testing")

ROOM = "place:1"

demo = Plugin("demo")
demo.room("place")
recorded: list[str] = []


class Said(Schema):
    """Something was said."""

    text = fields.String(required=True)


class Nothing(Schema):
    """No data."""


demo.event("demo.said")(Said)


@demo.command("demo.say", Said)
async def say(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Publish the text."""
    return {"event_id": await ctx.publish(Said, data)}


@demo.command("demo.hang", Nothing, access="anyone")
async def hang(ctx: Context, data: dict[str, Any]) -> None:
    """Never return."""
    await asyncio.Event().wait()


@demo.command("demo.claims", Nothing, access="anyone")
async def claims(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Return the user and the claims of the token."""
    return {"user_id": ctx.user_id, "username": ctx.username, "claims": dict(ctx.claims)}


@demo.lifespan
async def live(service: Service) -> AsyncIterator[None]:
    """Record the start and the end."""
    recorded.append("started")
    yield
    recorded.append("ended")


@demo.route("GET", "/hello", auth="public")
async def hello(service: Service, request: web.Request) -> web.Response:
    """Greet the user in the query."""
    return web.json_response({"hello": request.query.get("who")})


@pytest.fixture
def roomcast_plugins() -> list[Plugin]:
    """Return the plugin of this module, which is not installed."""
    return [demo]


@pytest.fixture
def roomcast_settings() -> dict[str, Any]:
    """Return settings with a short timeout and history."""
    return {"handler_timeout": 0.1, "history_size": 2}


# The gateway.


async def test_a_plugin_that_is_not_installed(gateway, connect) -> None:
    """The plugin of the test is loaded besides the installed ones, with its route and lifespan."""
    alice = await connect("alice", rooms=["place:*", "channel:*"])
    await alice.join(ROOM)
    await alice.join("channel:1")
    reply = await alice.command("demo.say", {"text": "Hi"}, room=ROOM)
    assert (await alice.next("demo.said"))["id"] == reply["event_id"]
    await alice.command("send_message", {"content": "Hi"}, room="channel:1")
    await alice.next("message")
    async with gateway.session.get("/plugins/demo/hello", params={"who": "alice"}) as response:
        assert await response.json() == {"hello": "alice"}


async def test_lifespans_run() -> None:
    """The lifespan starts before any connection, and ends with the gateway."""
    recorded.clear()
    async with running([demo]):
        assert recorded == ["started"]
    assert recorded == ["started", "ended"]


async def test_settings_of_the_fixture(gateway, connect) -> None:
    """The settings of the fixture are used, with a random secret and API key."""
    assert (gateway.settings.handler_timeout, gateway.settings.history_size) == (0.1, 2)
    assert gateway.settings.jwt_secret
    assert gateway.settings.api_key
    alice = await connect("alice")
    with pytest.raises(Refused) as refused:
        await alice.command("demo.hang")
    assert refused.value.code == "timeout"


async def test_an_installed_plugin_may_be_given() -> None:
    """An installed plugin that is given as well is loaded once."""
    async with running([chat]) as gateway:
        alice = await gateway.connect("alice", rooms=["channel:1"])
        await alice.join("channel:1")


async def test_a_failed_start_raises_its_error() -> None:
    """The error that stops a server is raised by the fixture."""
    with pytest.raises(PluginError, match="the plugin name 'chat' is declared twice"):
        async with running([Plugin("chat")]):
            raise AssertionError("it started")
    with pytest.raises(SettingsError, match="HISTORY_SIZE"):
        async with running(history_size=-1):
            raise AssertionError("it started")


async def test_each_test_has_its_own_gateway(gateway) -> None:
    """Two gateways share nothing, not even the secret."""
    async with running() as other:
        assert other.url != gateway.url
        assert other.settings.jwt_secret != gateway.settings.jwt_secret
        await other.service.publish("message", "channel:1", {"content": "x", "username": "u", "user_id": 1})
        assert await gateway.service.history("channel:1") == []


# Users.


async def test_users_and_claims(connect) -> None:
    """The id defaults to the name; claims become claims of the token."""
    alice = await connect("alice")
    welcome = {"message": "Connected successfully", "user_id": "alice", "username": "alice"}
    assert alice.welcome.items() >= welcome.items()
    bob = await connect("bob", user_id=7, team="red")
    assert await bob.command("demo.claims") == {"user_id": 7, "username": "bob", "claims": {"team": "red"}}


async def test_no_room_is_allowed_by_default(connect) -> None:
    """A test that forgets ``rooms`` fails, so that it does not pass for a rule."""
    alice = await connect("alice")
    with pytest.raises(Refused) as refused:
        await alice.join(ROOM)
    assert refused.value.code == "forbidden"


async def test_a_refused_connection_raises_its_close(gateway) -> None:
    """A refused connection raises Disconnected with the code and the reason."""
    with pytest.raises(Disconnected, match="4401 Authentication Failed") as refused:
        await gateway.connect("alice", expires_in=-1)
    assert (refused.value.code, refused.value.reason) == (4401, "Authentication Failed")


async def test_join_and_resume(connect) -> None:
    """join returns the data of the reply; with ``since`` or ``last``, stored events follow."""
    alice = await connect("alice", rooms=["*"])
    assert await alice.join(ROOM) == {"message": f"Joined room {ROOM}"}
    await alice.command("demo.say", {"text": "seen"}, room=ROOM)
    seen = await alice.next("demo.said")
    await alice.command("demo.say", {"text": "missed"}, room=ROOM)
    bob = await connect("bob", rooms=["*"])
    answer = await bob.join(ROOM, since=seen["id"])
    assert answer["recovered"] is True
    assert (await bob.next("demo.said"))["data"] == {"text": "missed"}
    answer = await bob.join(ROOM, last=1)
    assert answer["more"] is True
    assert (await bob.next("demo.said"))["data"] == {"text": "missed"}
    answer = await bob.join(ROOM, "x", last=5)
    assert (answer["recovered"], answer["more"]) == (False, False)
    assert [(await bob.next("demo.said"))["data"]["text"] for _ in range(2)] == ["seen", "missed"]
    await bob.nothing("demo.said")
    found = await bob.history(ROOM)
    assert [event["data"]["text"] for event in found["events"]] == ["seen", "missed"]
    assert (await bob.history(ROOM, before=found["last_id"], limit=5))["events"] == [seen]
    assert (await bob.history(ROOM, since=seen["id"]))["events"] == found["events"][1:]
    assert await bob.leave(ROOM) == {"message": f"Left room {ROOM}"}


async def test_a_refusal_has_code_message_and_fields(connect) -> None:
    """Refused has the code, the message and the fields of the error frame."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    with pytest.raises(Refused, match=r"data\.text: Not a valid string\.") as refused:
        await alice.command("demo.say", {"text": 1}, room=ROOM)
    assert (refused.value.code, refused.value.fields) == ("invalid_data", {"text": ["Not a valid string."]})


async def test_concurrent_commands_get_their_own_replies(connect) -> None:
    """Commands that run at the same time, of one or several users, get their own replies."""
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


async def test_key(connect) -> None:
    """A command that is repeated with the same key is carried out once."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    first, second = [await alice.command("demo.say", {"text": "x"}, room=ROOM, key="k") for _ in range(2)]
    assert first == second
    await alice.next("demo.said")
    await alice.nothing("demo.said")


# Events.


async def test_next_takes_events_in_order(connect) -> None:
    """Each event is returned once, by type and room; others remain."""
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


async def test_next_waits_for_future_events(gateway, connect) -> None:
    """Several calls may wait at the same time, and each gets an event."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    waiting = [asyncio.ensure_future(alice.next("demo.said")) for _ in range(3)]
    await alice.nothing("demo.said")
    for text in ("one", "two", "three"):
        await gateway.service.publish("demo.said", ROOM, {"text": text})
    assert sorted([event["data"]["text"] for event in await asyncio.gather(*waiting)]) == ["one", "three", "two"]


async def test_nothing_fails_if_there_is_an_event(connect) -> None:
    """It finds everything that was published before, and ignores other types and rooms."""
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


async def test_send_a_message_without_changes(connect) -> None:
    """The reply to a sent message is an event with the id that was given."""
    alice = await connect("alice")
    await alice.send({"type": "no.such", "id": "mine"})
    error = await alice.next("error")
    assert (error["id"], error["data"]["code"]) == ("mine", "unknown_type")


# The end.


async def test_waiting_methods_raise_disconnected(connect) -> None:
    """Commands, events and sending raise Disconnected, then and later; ``closed`` returns the close."""
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


async def test_a_running_command_raises_disconnected(connect) -> None:
    """A command whose connection ends raises Disconnected at once."""
    alice = await connect("alice")
    waiting = asyncio.ensure_future(alice.command("demo.hang"))
    await alice.send({"type": "ping", "id": "sent after it"})
    await alice.close()
    with pytest.raises(Disconnected):
        await waiting


async def test_close(connect) -> None:
    """Other members get user_left; closing again is allowed."""
    alice, bob = await connect("alice", rooms=["*"]), await connect("bob", rooms=["*"])
    for user in (alice, bob):
        await user.join(ROOM)
    await bob.close()
    await bob.close()
    assert (await alice.next("user_left"))["data"] == {"username": "bob", "user_id": "bob"}


async def test_a_stopping_gateway_closes_its_clients() -> None:
    """Clients that are still connected get Disconnected."""
    async with running() as gateway:
        alice = await gateway.connect("alice")
        gateway._clients.clear()
    with pytest.raises(Disconnected):
        await alice.next()


# In the project of a plugin author.

TEST_OF_AN_AUTHOR = """
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
def test_both_modes_of_pytest_asyncio(pytester, mode, mark) -> None:
    """The fixtures work with the module's name alone, and without warnings."""
    pytester.makepyfile(textwrap.dedent(TEST_OF_AN_AUTHOR).replace("MARK", mark))
    done = pytester.runpytest_subprocess(
        *("-W", "error", "-p", "no:cacheprovider", "-o", f"asyncio_mode={mode}"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    done.assert_outcomes(passed=1)


@pytest.mark.slow
def test_a_server_does_not_import_pytest() -> None:
    """Only roomcast.testing imports pytest."""
    program = "import sys, roomcast.cli; sys.exit(any(name.startswith(('pytest', '_pytest')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
