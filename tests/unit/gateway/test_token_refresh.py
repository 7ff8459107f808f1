"""Tests of ``gateway.token_refresh``: a new token replaces the old one, and rooms are reviewed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from cancellation import suppress_cancellation
from gateway_tools import frame_types, is_empty, members
from serving import Serve, connect, token_for
from waiting import wait_until
from websockets import ConnectionClosed

from roomcast import Context, Plugin, Refused, Unavailable
from roomcast.gateway import token_refresh

ROOM = "channel:1"


async def test_a_new_token_extends_the_connection(serve: Serve) -> None:
    """After refresh_token, only the end of the new token counts."""
    server = await serve(ws_heartbeat_interval=0.2)
    async with connect(server, token=token_for(expires_in=0.5)) as alice:
        client = next(iter(server.gateway.keepalive.connections))
        old = client.identity.expires
        await alice.send("refresh_token", data={"token": token_for(expires_in=1.0, username="Alice B.")}, id=1)
        reply = await alice.recv()
        assert (reply["type"], reply["id"]) == ("token_refreshed", 1)
        assert reply["data"] == {"expires": client.identity.expires}
        assert client.identity.expires > old
        await wait_until(lambda: server.gateway.keepalive.unix_time > old)
        await alice.join(ROOM)
        assert (await alice.recv_type("user_joined"))["sender"] == "Alice B."
        assert await alice.closed() == (4401, "Authentication Failed")


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (None, "invalid_data", "data.token"),
        ({"token": 7}, "invalid_data", "data.token"),
        ({"token": "x", "force": True}, "invalid_data", "data.force"),
        ({"token": "nonsense"}, "bad_token", "not a JWT"),
        ({"token": "EXPIRED"}, "bad_token", "The new token is refused. The token has expired."),
        ({"token": "BOB"}, "bad_token", "another user's"),
    ],
)
async def test_an_invalid_new_token_is_refused(serve: Serve, data: Any, code: str, says: str) -> None:
    """An invalid or expired token and one of another user are refused, and the old token stays."""
    server = await serve()
    if data and data.get("token") in ("EXPIRED", "BOB"):
        data = {"token": token_for(expires_in=-1) if data["token"] == "EXPIRED" else token_for(2, "bob")}
    async with connect(server) as alice:
        client = next(iter(server.gateway.keepalive.connections))
        before = client.identity
        await alice.send("refresh_token", data=data, id=1)
        error = await alice.recv()
        assert (error["type"], error["data"]["code"], error["id"]) == ("error", code, 1)
        assert says in error["data"]["error"]
        assert client.identity is before
        assert await alice.settled() == []


async def test_a_new_token_that_covers_fewer_rooms(serve: Serve) -> None:
    """The client leaves the rooms that the new token does not cover, with left_room and user_left."""
    plugin = Plugin("club")

    @plugin.room("club")
    async def rule(ctx: Context, entity: str) -> bool:
        return True

    server = await serve(plugins=[plugin])
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        for room in ("channel:1", "channel:2", "club:1"):
            await alice.join(room)
        await bob.join("channel:2")
        await alice.settled()
        await bob.settled()
        await alice.send("refresh_token", data={"token": token_for(rooms=["channel:1"])})
        refreshed, left = await alice.recv(), await alice.recv()
        assert refreshed["type"] == "token_refreshed"
        assert (left["type"], left["room"]) == ("left_room", "channel:2")
        assert left["data"] == {"message": "The new token does not cover room channel:2"}
        assert frame_types(await bob.settled()) == ["user_left"]
        assert await alice.settled() == []
        await alice.send("send_message", "channel:2", {"content": "x"})
        assert (await alice.recv())["data"]["code"] == "not_joined"
        await alice.send("send_message", "club:1", {"content": "x"})
        assert (await alice.recv())["type"] == "message"
        await alice.send("join_room", "channel:2")
        assert await alice.closed() == (4403, "Forbidden")


class MoodyRule:
    """A plugin with a rule that does what the claim ``mood`` says. ``evaluations`` has the moods, in order."""

    def __init__(self) -> None:
        self.plugin = Plugin("moody")
        self.evaluations: list[str] = []
        self.plugin.room("moody")(self._rule)

    async def _rule(self, ctx: Context, entity: str) -> Any:
        if entity == "calm":
            return True
        mood = ctx.claims["mood"]
        self.evaluations.append(mood)
        if mood == "hang":
            await asyncio.Event().wait()
        elif mood == "cancelled":
            raise asyncio.CancelledError
        elif mood in ("closed", "unavailable"):
            raise Refused(mood, "Not at this time of the day.")
        elif mood == "nonsense":
            await ctx.publish("no.such.event", {})
        elif mood == "not now":
            raise Unavailable("The directory does not answer.")
        return {"yes": True, "no": False, "none": None, "one": 1}[mood]  # KeyError for boom


@pytest.fixture
def moody() -> MoodyRule:
    """Return a plugin whose rule does what the token says."""
    return MoodyRule()


@pytest.mark.parametrize("mood", ["no", "none", "closed"])
async def test_a_refresh_evaluates_the_rules_of_plugins(serve: Serve, moody: MoodyRule, mood: str) -> None:
    """A client that is refused leaves the room. The refresh does not wait."""
    server = await serve(plugins=[moody.plugin])
    async with connect(server, token=token_for(mood="yes")) as alice, connect(server, 2, "bob") as bob:
        for room in (ROOM, "moody:1", "moody:calm"):
            await alice.join(room)
        await bob.join(ROOM)
        await alice.send("refresh_token", data={"token": token_for(mood=mood)})
        await alice.recv_type("token_refreshed")
        await alice.settled()  # the refresh does not wait for the rule
        if not [frame for frame in alice.frames if frame["type"] == "left_room"]:
            await alice.recv_type("left_room")
        left = [frame for frame in alice.frames if frame["type"] == "left_room"]
        assert [(frame["room"], frame["data"]["message"]) for frame in left] == [
            ("moody:1", "You have no access to room moody:1 with the new token")
        ]
        assert (await members(server, "moody:1"), await members(server, "moody:calm")) == ({}, {1: 1})
        assert await members(server) == {1: 1, 2: 1}
        assert set(frame_types(await bob.settled())) == {"user_joined"}


#: The moods in which the rule fails.
FAILING = ("boom", "one", "hang", "cancelled", "unavailable", "not now", "nonsense")


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate a rule that fails again soon."""
    monkeypatch.setattr(token_refresh, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(token_refresh, "_LONGEST_PAUSE", 0.02)


@pytest.mark.parametrize("later", ["yes", "no"])
@pytest.mark.parametrize("mood", FAILING)
@pytest.mark.usefixtures("short_pauses")
async def test_a_rule_that_fails_for_a_new_token(serve: Serve, moody: MoodyRule, mood: str, later: str) -> None:
    """The client stays and the rule is evaluated again, until it decides."""
    server = await serve(plugins=[moody.plugin], handler_timeout=0.05)
    async with connect(server, token=token_for(mood="yes")) as alice:
        await alice.join("moody:1")
        await alice.settled()
        await alice.send("refresh_token", data={"token": token_for(mood=mood)})
        await wait_until(lambda: moody.evaluations.count(mood) >= 3)
        await alice.send("send_message", "moody:1", {"content": "still here"})
        await alice.recv_type("message")
        assert "left_room" not in frame_types(alice.frames)
        await alice.send("refresh_token", data={"token": token_for(mood=later)})
        await wait_until(lambda: not server.gateway.token_refresh._under_review)
        assert moody.evaluations[-1] == later
        left = [frame["room"] for frame in await alice.settled() if frame["type"] == "left_room"]
        assert left == ([] if later == "yes" else ["moody:1"])
        assert (await members(server, "moody:1")) == ({1: 1} if later == "yes" else {})


@pytest.mark.parametrize("mood", FAILING)
@pytest.mark.usefixtures("short_pauses")
async def test_a_rule_that_fails_for_too_long(serve: Serve, moody: MoodyRule, mood: str, monkeypatch) -> None:
    """After MAX_UNDECIDED the client is closed with 4500, so that it reconnects. New tokens do not extend the time."""
    monkeypatch.setattr(token_refresh, "MAX_UNDECIDED", 0.5)
    server = await serve(plugins=[moody.plugin], handler_timeout=0.05)
    async with connect(server, token=token_for(mood="yes")) as alice:
        await alice.join("moody:1")

        async def keep_refreshing() -> None:
            with suppress(ConnectionClosed):
                while True:
                    await alice.send("refresh_token", data={"token": token_for(mood=mood)})
                    await asyncio.sleep(0.02)

        refreshing = asyncio.create_task(keep_refreshing())
        assert await alice.closed() == (4500, "Internal Server Error")
        await asyncio.wait([refreshing])
        assert "left_room" not in frame_types(alice.frames)
    await wait_until(lambda: is_empty(server))
    async with connect(server, token=token_for(mood=mood)) as alice:
        await alice.join(ROOM)
        await alice.send("join_room", "moody:1")
        code = (await alice.recv_type("error"))["data"]["code"]
        assert code == "unavailable"


@pytest.mark.usefixtures("short_pauses")
async def test_a_rule_that_never_ends(serve: Serve, monkeypatch) -> None:
    """A rule that suppresses its cancellation cannot keep the member in the room for longer than MAX_UNDECIDED."""
    monkeypatch.setattr(token_refresh, "MAX_UNDECIDED", 0.5)
    monkeypatch.setattr(token_refresh, "_CANCEL_TIMEOUT", 0.05)
    plugin = Plugin("stubborn")

    @plugin.room("stubborn")
    async def rule(ctx: Context, entity: str) -> bool:
        if "hang" in ctx.claims:
            await suppress_cancellation(3.0)
        return True

    server = await serve(plugins=[plugin], handler_timeout=0.05)
    async with connect(server) as alice:
        await alice.join("stubborn:1")
        await alice.send("refresh_token", data={"token": token_for(hang=True)})
        assert await alice.closed() == (4500, "Internal Server Error")
    await wait_until(lambda: is_empty(server))


@pytest.mark.usefixtures("short_pauses")
async def test_a_client_that_leaves_while_its_rule_fails(serve: Serve, moody: MoodyRule) -> None:
    """The rule is not evaluated any more for a client that has left the room or the server."""
    server = await serve(plugins=[moody.plugin])
    for ends in (False, True):
        async with connect(server, token=token_for(mood="yes")) as alice:
            await alice.join("moody:1")
            await alice.send("refresh_token", data={"token": token_for(mood="boom")})
            await wait_until(lambda: "boom" in moody.evaluations)
            if not ends:
                await alice.send("leave_room", "moody:1")
                await wait_until(lambda: not server.gateway.token_refresh._under_review)
                assert await members(server, "moody:1") == {}
        await wait_until(lambda: not server.gateway.token_refresh._under_review)
        moody.evaluations.clear()
    await wait_until(lambda: is_empty(server))


async def test_the_newest_token_counts(serve: Serve) -> None:
    """The decision about a token that was replaced, or for a client that has left, changes nothing."""
    plugin, gate, evaluations = Plugin("waiting"), asyncio.Event(), []

    @plugin.room("slow")
    async def rule(ctx: Context, entity: str) -> bool:
        good = ctx.claims["good"]
        evaluations.append(good)
        if not good:
            await gate.wait()
        return good

    server = await serve(plugins=[plugin])
    async with connect(server, token=token_for(good=True)) as alice:
        await alice.join("slow:1")
        await alice.join("slow:2")
        for good in (False, True):
            await alice.send("refresh_token", data={"token": token_for(good=good)})
            await alice.recv_type("token_refreshed")
        await alice.send("leave_room", "slow:2")
        await alice.recv_type("left_room", room="slow:2")
        assert evaluations == [True, True, False, False]  # at most one decision per membership at a time
        gate.set()
        await wait_until(lambda: len(evaluations) == 5)
        assert frame_types(await alice.settled()) == []
        assert (await members(server, "slow:1"), await members(server, "slow:2")) == ({1: 1}, {})
    await wait_until(lambda: is_empty(server))


async def test_tokens_that_are_replaced_faster_than_the_rule_decides(serve: Serve) -> None:
    """The second refusal removes the client, although the token was replaced."""
    plugin, evaluations = Plugin("waiting"), asyncio.Queue[asyncio.Future[bool]]()

    @plugin.room("slow")
    async def rule(ctx: Context, entity: str) -> bool:
        if ctx.claims["good"]:
            return True
        answer = asyncio.get_running_loop().create_future()
        evaluations.put_nowait(answer)
        return await answer

    server = await serve(plugins=[plugin])
    async with connect(server, token=token_for(good=True)) as alice:
        await alice.join("slow:1")
        for _ in range(2):
            await alice.send("refresh_token", data={"token": token_for(good=False)})
            answer = await evaluations.get()
            await alice.send("refresh_token", data={"token": token_for(good=False)})
            await alice.settled()
            answer.set_result(False)
        assert (await alice.recv_type("left_room"))["room"] == "slow:1"
        assert not server.gateway.token_refresh._under_review and evaluations.empty()
    await wait_until(lambda: is_empty(server))
