"""What the gateway does with requests and connections: order, keys, limits, expiry, kicks, the log."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
import websockets
from marshmallow import Schema, fields
from serving import PATH, PATIENCE, Serve, User, call, connect, refused, token_for, url
from wire import Peer, masked

from roomcast import Context, Plugin, Refused
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import DISCONNECTED, ERROR_CODES, PluginError, Unavailable
from roomcast.gateway.commands import MAX_QUEUED
from roomcast.gateway.rate_limit import BURST_SECONDS
from roomcast.logs import RedactingFilter
from roomcast.protocol.frames import TEXT
from roomcast.web.server import Server

ROOM = "channel:1"


def kinds(frames: list[dict[str, Any]]) -> list[str]:
    """The types of ``frames``."""
    return [frame["type"] for frame in frames]


async def until(condition: Any) -> None:
    """Wait for what happens in the server, on whose loop this runs."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


class Anything(Schema):
    n = fields.Raw()


class Bench:
    """A plugin with commands that wait, fail and answer oddly; ``done`` has what was begun, ``gate`` lets it go on."""

    def __init__(self) -> None:
        self.plugin = Plugin("bench")
        self.gate = asyncio.Event()
        self.done: list[Any] = []
        self.plugin.command("slow", Anything)(self.slow)
        self.plugin.command("quick", Anything)(self.quick)
        self.plugin.command("boom", Anything)(self.boom)
        self.plugin.command("no", Anything)(self.no)
        self.plugin.command("odd", Anything)(self.odd)

    async def slow(self, ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Wait for the gate."""
        self.done.append(data.get("n"))
        await self.gate.wait()
        return {"n": data.get("n")}

    async def quick(self, ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Answer at once."""
        self.done.append(data.get("n"))
        return {"n": data.get("n")}

    async def boom(self, ctx: Context, data: dict[str, Any]) -> None:
        """Fail."""
        self.done.append(data.get("n"))
        raise ZeroDivisionError("the secret of the plugin")

    async def no(self, ctx: Context, data: dict[str, Any]) -> None:
        """Refuse, in words and fields that may be no JSON."""
        self.done.append(data.get("n"))
        raise Refused("too_early", "Not before noon\ud800.", {"n": [object()]})

    async def odd(self, ctx: Context, data: dict[str, Any]) -> Any:
        """Return what is no JSON."""
        self.done.append(data.get("n"))
        return {"n": object()}


@pytest.fixture
async def bench() -> Bench:
    """A plugin under the test's control."""
    return Bench()


# Replies.


async def test_an_id_comes_back_in_the_reply_and_in_the_error(serve: Serve):
    """Whatever is asked with an id is answered with it, text or number; without one, commands are not answered."""
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
        assert kinds(await alice.settled()) == ["message"]


async def test_sent_names_the_event(serve: Serve):
    """The reply to send_message has the form in docs/protocol.md, and its event_id is the id that everyone sees."""
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


async def test_an_error_says_which_field(serve: Serve):
    """Data that does not fit names each field with what is wrong with it, and a sentence to read."""
    async with connect(await serve()) as alice:
        await alice.join(ROOM)
        await alice.settled()
        await alice.send("send_message", ROOM, {"content": 7, "colour": "red"}, id=1)
        error = await alice.recv()
        assert set(error) == {"type", "id", "room", "data", "timestamp"}
        assert error["data"]["code"] == "invalid_data"
        assert set(error["data"]["fields"]) == {"content", "colour"}
        assert isinstance(error["data"]["error"], str)


async def test_an_unknown_command_is_told_the_known_ones(serve: Serve):
    """Who asks for what there is not learns what there is."""
    async with connect(await serve()) as alice:
        await alice.send("sned_message", ROOM, {"content": "x"})
        error = (await alice.recv())["data"]
        assert error["code"] == "unknown_type"
        for known in ("'sned_message'", "send_message", "join_room", "edit_message", "ping"):
            assert known in error["error"]


async def test_a_failing_handler_harms_nobody(serve: Serve, bench: Bench, caplog):
    """Its caller gets error internal without the reason, the log gets the traceback, and all goes on."""
    async with connect(await serve(plugins=[bench.plugin])) as alice:
        await alice.send("boom", id=1)
        error = await alice.recv()
        assert (error["id"], error["data"]["code"]) == (1, "internal")
        assert "secret" not in json.dumps(error)
        assert "ZeroDivisionError: the secret of the plugin" in caplog.text
        assert "user 1" in caplog.text
        await alice.send("quick", data={"n": 1}, id=2)
        assert (await alice.recv())["data"] == {"n": 1}


async def test_words_of_a_plugin_that_are_no_json_are_told_all_the_same(serve: Serve, bench: Bench):
    """A refusal that cannot be sent as it is is sent as well as can be; a reply that cannot be is error internal."""
    async with connect(await serve(plugins=[bench.plugin])) as alice:
        await alice.send("no", id=1)
        error = await alice.recv()
        assert (error["id"], error["data"]) == (1, {"error": "Not before noon\\ud800.", "code": "too_early"})
        await alice.send("odd", id=2)
        assert (await alice.recv())["data"]["code"] == "internal"
        await alice.send("odd", id=3, key="k")
        assert (await alice.recv())["data"]["code"] == "internal"
        await alice.send("odd")
        assert await alice.settled() == []


async def test_a_handler_that_hangs_is_cut_off(serve: Serve, bench: Bench):
    """After HANDLER_TIMEOUT its caller gets error timeout, and what waited behind it is carried out."""
    server = await serve(plugins=[bench.plugin], handler_timeout=0.05, ws_heartbeat_interval=0.2)
    async with connect(server) as alice:
        await alice.send("slow", id=1)
        await alice.send("quick", id=2, data={"n": 2})
        error = await alice.recv()
        assert (error["id"], error["data"]["code"]) == (1, "timeout")
        assert (await alice.recv())["id"] == 2


@pytest.mark.parametrize("wait_first", [False, True])
async def test_a_handler_that_awaits_what_was_cancelled_harms_nobody(serve: Serve, wait_first: bool):
    """A handler's own cancellation is its caller's internal error, not a time-out and not the connection's end."""
    plugin = Plugin("gone")

    @plugin.command("gone", Anything)
    async def gone(ctx: Context, data: dict[str, Any]) -> None:
        if wait_first:
            await asyncio.sleep(0)
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send(type="gone", id=1)
        assert (await alice.recv_type("error"))["data"]["code"] == "internal"
        await alice.send(type="ping", id=2)
        assert (await alice.recv_type("pong"))["id"] == 2


async def test_a_reply_that_is_no_dict_is_internal(serve: Serve, caplog):
    """A handler that returns a list has its caller told internal, and the log what it returned."""
    plugin = Plugin("listed")

    @plugin.command("listed", Anything)
    async def listed(ctx: Context, data: dict[str, Any]) -> Any:
        return [1]

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send(type="listed", id=1)
        assert (await alice.recv_type("error"))["data"]["code"] == "internal"
    assert "a list and not a dict" in caplog.text


async def test_a_plugin_that_fails_as_it_starts_is_named(serve: Serve):
    """The start stops with the plugin's name, its package and the reason."""
    plugin = Plugin("flop")

    @plugin.lifespan
    async def fail(service: Any) -> Any:
        raise OSError("no such database")
        yield

    with pytest.raises(PluginError, match=r"plugin 'flop' \(package 'test 0'.*OSError: no such database"):
        await serve(plugins=[plugin])


async def test_every_error_code_is_listed():
    """The codes that the gateway puts in frames are in the one list, each with a sentence on what it means."""
    for code, (meaning, temporary) in ERROR_CODES.items():
        assert re.fullmatch("[a-z_]+", code) and meaning.endswith(".") and isinstance(temporary, bool)


# Keys.


async def test_a_repeated_key_gives_the_first_reply_again(serve: Serve):
    """A command with a known key is not done again, also from another connection; the reply is the first one's."""
    server = await serve()
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.send("send_message", ROOM, {"content": "once"}, id=1, key="k")
            first = await alice.recv_type("sent")
            await alice.send("send_message", ROOM, {"content": "once"}, id=2, key="k")
            assert (await alice.recv_type("sent", id=2))["data"] == first["data"]
            alice.socket.transport.abort()
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.send("send_message", ROOM, {"content": "once"}, id=3, key="k")
            assert (await alice.recv_type("sent", id=3))["data"] == first["data"]
            await alice.send("send_message", ROOM, {"content": "twice"}, id=4, key="l")
            assert (await alice.recv_type("sent", id=4))["data"] != first["data"]
        await bob.settled()
        assert [frame["data"]["content"] for frame in bob.frames if frame["type"] == "message"] == ["once", "twice"]


async def test_a_key_that_comes_with_other_data_is_refused(serve: Serve, bench: Bench):
    """Nobody is given the answer to something else; the order of fields is no difference, nor is a missing ``data``."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    groups = [
        [{"n": {"a": 1, "b": [2**60]}}, {"n": {"b": [2**60], "a": 1}}],
        [{}, None],
        [{"n": 1}],
        [{"n": True}],
        [{"n": "1"}],
        [{"n": deep}],
    ]
    async with connect(await serve(plugins=[bench.plugin])) as alice:
        for number, same in enumerate(groups):
            for data in same:
                await alice.send("quick", data=data, id=1, key=f"k{number}")
                assert (await alice.recv())["data"] == {"n": (same[0] or {}).get("n")}
            for other in (one for group in groups if group is not same for one in group):
                await alice.send("quick", data=other, id=1, key=f"k{number}")
                assert (await alice.recv())["data"]["code"] == "key_reused"
    assert len(bench.done) == len(groups)


async def test_a_key_is_its_users_own(serve: Serve):
    """The same key of another user is another key."""
    server = await serve()
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        ids = []
        for user in (alice, bob):
            await user.join(ROOM)
            await user.send("send_message", ROOM, {"content": "x"}, id=1, key="k")
            ids.append((await user.recv_type("sent"))["data"]["event_id"])
        assert ids[0] != ids[1]


async def test_what_failed_is_not_remembered(serve: Serve, bench: Bench):
    """A command that was refused or failed may be repeated with its key; it is done again."""
    async with connect(await serve(plugins=[bench.plugin])) as alice:
        await alice.send("send_message", ROOM, {"content": "x"}, id=1, key="k")
        assert (await alice.recv())["data"]["code"] == "not_joined"
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "x"}, id=2, key="k")
        await alice.recv_type("sent", id=2)
        for n in range(2):
            await alice.send("boom", data={"n": n}, key="b", id=n)
            await alice.recv_type("error", id=n)
        assert bench.done == [0, 1]


async def test_a_key_whose_command_is_under_way_is_in_progress(serve: Serve, bench: Bench):
    """The same key from another connection meanwhile is told so, and later gets the first one's reply."""
    server = await serve(plugins=[bench.plugin])
    async with connect(server) as alice, connect(server) as tab:
        await alice.send("slow", data={"n": 1}, id=1, key="k")
        await until(lambda: bench.done)
        await tab.send("slow", data={"n": 1}, id=1, key="k")
        assert (await tab.recv())["data"]["code"] == "in_progress"
        bench.gate.set()
        assert (await alice.recv())["data"] == {"n": 1}
        await tab.send("slow", data={"n": 1}, id=2, key="k")
        assert (await tab.recv())["data"] == {"n": 1}
        assert bench.done == [1]


async def test_who_lost_the_connection_before_the_reply_asks_again(serve: Serve, bench: Bench):
    """What a lost client had asked for is carried out all the same, once, and its reply waits for the key."""
    server = await serve(plugins=[bench.plugin])
    async with connect(server) as alice:
        await alice.send("slow", data={"n": 1}, key="k")
        await until(lambda: bench.done)
        alice.socket.transport.abort()
    bench.gate.set()
    async with connect(server) as alice:
        await alice.send("slow", data={"n": 1}, id=1, key="k")
        assert (await alice.recv())["data"] == {"n": 1}
        assert bench.done == [1]


class Forgetful(MemoryBroker):
    async def settle(self, key: str, answer: bytes | None) -> None:
        raise Unavailable("The broker cannot be reached.")


async def test_what_cannot_be_remembered_is_answered_all_the_same(serve: Serve, bench: Bench):
    """A command that was carried out has its reply, and one that failed its error, if the broker goes in between."""
    async with connect(await serve(plugins=[bench.plugin], broker=Forgetful())) as alice:
        await alice.send("quick", data={"n": 1}, id=1, key="k")
        assert (await alice.recv())["data"] == {"n": 1}
        await alice.send("boom", data={"n": 2}, id=2, key="l")
        assert (await alice.recv())["data"]["code"] == "internal"
        await alice.send("quick", data={"n": 1}, id=3, key="k")
        assert (await alice.recv())["data"]["code"] == "in_progress"
    assert bench.done == [1, 2]


# One after the other.


async def test_the_commands_of_a_connection_are_carried_out_in_order(serve: Serve, bench: Bench):
    """Behind a command that waits all others of that connection wait, pings and joins too; other connections' don't."""
    server = await serve(plugins=[bench.plugin])
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.send("quick", id=0, data={"n": 0})
        await alice.send("slow", id=1, data={"n": 1})
        await alice.send("quick", id=2, data={"n": 2})
        await alice.send("slow", id=3, data={"n": 3})
        await alice.send("ping", id=4)
        await alice.send("join_room", ROOM, id=5)
        await alice.send("send_message", ROOM, {"content": "x"}, id=6)
        await bob.send("quick", id=7, data={"n": 7})
        assert (await bob.recv())["id"] == 7
        assert (await alice.recv())["id"] == 0
        await until(lambda: bench.done[-1] == 7)
        assert bench.done == [0, 1, 7]
        bench.gate.set()
        replies = [frame["id"] for frame in await alice.settled() if frame["type"] not in ("user_joined", "message")]
        assert replies == [1, 2, 3, 4, 5, 6]
        assert bench.done == [0, 1, 7, 2, 3]


async def test_what_waits_is_bounded_by_not_reading(serve: Serve, bench: Bench):
    """Behind MAX_QUEUED messages the socket is read no more; once they are carried out it is, and all is done."""
    server = await serve(plugins=[bench.plugin], ws_message_rate=0)
    count = 10_000
    async with connect(server) as alice:
        await alice.send("slow", data={"n": -1})
        sending = asyncio.create_task(send_many(alice, count))
        client = next(iter(server.gateway.keepalive.connections))
        await until(lambda: client._transport and not client._is_reading())
        received = server.gateway.counters.messages_received
        assert MAX_QUEUED <= received < count
        bench.gate.set()
        await sending
        for n in range(count):
            assert (await alice.recv())["id"] == n
        assert bench.done == [-1, *range(count)]


async def send_many(user: User, count: int) -> None:
    """Send numbered commands, as fast as the server takes them; the padding fills what the kernel holds."""
    for n in range(count):
        await user.send("quick", data={"n": n}, id=n, key=None, **({"room": "channel:" + "x" * 100} if n % 2 else {}))


async def test_pings_count_against_the_rate(serve: Serve):
    """A few are answered whatever else is sent; who floods with them is closed with 4429, as with messages."""
    async with connect(await serve(ws_message_rate=10)) as alice:
        for _ in range(5):
            async with asyncio.timeout(PATIENCE):
                await (await alice.socket.ping())
        with contextlib.suppress(websockets.ConnectionClosed):
            for number in range(200):
                await alice.socket.ping(f"more {number}")
        assert await alice.closed() == (4429, "Too Many Messages")
        errors = [frame["data"]["code"] for frame in alice.frames if frame["type"] == "error"]
        assert errors == ["rate_limited"] * 50


async def test_a_limit_of_rate_holds_while_waiting_too(serve: Serve, bench: Bench):
    """What waits behind a slow command counts like everything else."""
    server = await serve(plugins=[bench.plugin], ws_message_rate=1)
    async with connect(server) as alice:
        await alice.send("slow")
        for _ in range(20):
            await alice.send("quick")
        assert (await alice.recv())["data"]["code"] == "rate_limited"


# Limits.


async def test_who_sends_too_much_is_warned_and_then_closed(serve: Serve):
    """Over the burst each message is error rate_limited; as much again and the connection ends with 4429."""
    rate = 4
    server = await serve(ws_message_rate=rate)
    async with connect(server) as alice:
        for n in range(200):
            try:
                await alice.send("ping", id=n)
            except websockets.ConnectionClosed:
                break
        assert await alice.closed() == (4429, "Too Many Messages")
        answers = kinds(alice.frames[1:])
        first = answers.index("error")
        assert first >= BURST_SECONDS * rate
        assert answers.count("error") == BURST_SECONDS * rate
        error = alice.frames[1 + first]
        assert (error["data"]["code"], error["id"]) == ("rate_limited", first)
        assert "4429" in error["data"]["error"]


async def test_no_limit(serve: Serve):
    """WS_MESSAGE_RATE=0 sets no limit."""
    server = await serve(ws_message_rate=0)
    async with connect(server) as alice:
        for n in range(3000):
            await alice.send("ping", id=n)
        for n in range(3000):
            assert (await alice.recv())["id"] == n


# Expiry and new tokens.


async def test_a_connection_ends_with_its_token(serve: Serve):
    """At exp the connection is closed with 4401, not before; others live on."""
    server = await serve(ws_heartbeat_interval=0.2)
    async with connect(server, token=token_for(expires_in=0.4)) as alice, connect(server, 2, "bob") as bob:
        assert kinds(await alice.settled()) == []
        assert await alice.closed() == (4401, "Authentication Failed")
        assert await bob.settled() == []


async def test_a_new_token_extends_the_connection(serve: Serve):
    """After refresh_token the old token's end is nothing any more; the new one's is."""
    server = await serve(ws_heartbeat_interval=0.2)
    async with connect(server, token=token_for(expires_in=0.5)) as alice:
        client = next(iter(server.gateway.keepalive.connections))
        old = client.identity.expires
        await alice.send("refresh_token", data={"token": token_for(expires_in=1.0, username="Alice B.")}, id=1)
        reply = await alice.recv()
        assert (reply["type"], reply["id"]) == ("token_refreshed", 1)
        assert reply["data"] == {"expires": client.identity.expires}
        assert client.identity.expires > old
        await until(lambda: server.gateway.keepalive.unix_time > old)
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
async def test_a_bad_new_token_changes_nothing(serve: Serve, data: Any, code: str, says: str):
    """What is no token, has expired or is another user's is refused with the reason; the old one still holds."""
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


async def test_a_new_token_that_covers_less_takes_out_of_rooms(serve: Serve):
    """Rooms that the new token does not cover are left, with left_room and user_left; the others are kept."""
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
        assert kinds(await bob.settled()) == ["user_left"]
        assert await alice.settled() == []
        await alice.send("send_message", "channel:2", {"content": "x"})
        assert (await alice.recv())["data"]["code"] == "not_joined"
        await alice.send("send_message", "club:1", {"content": "x"})
        assert (await alice.recv())["type"] == "message"
        await alice.send("join_room", "channel:2")
        assert await alice.closed() == (4403, "Forbidden")


# The user's own room.


async def notify(server: Server, number: int, user_id: int = 1) -> str:
    """Send a notification; return its id."""
    data = {"title": str(number), "message": ""}
    return await server.gateway.publishing.publish("notification.new", f"user:{user_id}", data, None, None)


def since(id: str, **claims: Any) -> str:
    """The path of a connect that asks for what it missed."""
    return f"{PATH}?token={token_for(**claims)}&since={id}"


async def test_who_reconnects_gets_the_notifications_it_missed(serve: Serve):
    """With ?since= the welcome says recovered and last_id, then what was missed comes in order, then the new."""
    server = await serve()
    async with connect(server) as alice:
        await notify(server, 0)
        seen = (await alice.recv())["id"]
    ids = [await notify(server, n) for n in (1, 2)]
    await notify(server, 9, user_id=2)
    async with connect(server, path=since(seen)) as alice:
        data = alice.welcome["data"]
        assert list(data) == ["message", "user_id", "username", "recovered", "last_id"]
        assert (data["recovered"], data["last_id"]) == (True, ids[-1])
        missed = await alice.settled()
        assert [frame["id"] for frame in missed] == ids
        assert all(set(frame) == {"type", "data", "timestamp", "id"} for frame in missed)
        await notify(server, 3)
        assert [frame["data"]["title"] for frame in await alice.settled()] == ["3"]
    assert not server.gateway.sessions._missed


async def test_who_asks_for_what_is_not_kept_is_told_so(serve: Serve):
    """Any since that is no id of the user's room gets recovered false, and a place to go on from."""
    server = await serve()
    for id in ("", "nonsense", "a-1", "%00%0d%0a", "9" * 3000):
        async with connect(server, path=since(id)) as alice:
            assert alice.welcome["data"]["recovered"] is False
            assert await alice.settled() == []
    start = alice.welcome["data"]["last_id"]
    await notify(server, 1)
    async with connect(server, path=since(start)) as alice:
        assert alice.welcome["data"]["recovered"] is True
        assert [frame["data"]["title"] for frame in await alice.settled()] == ["1"]


async def test_no_notification_is_missed_or_doubled_while_reconnecting(serve: Serve):
    """Who loses the connection again and again, while notifications come, gets each once, in order."""
    server = await serve(history_size=10_000)
    stop = asyncio.Event()

    async def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await notify(server, number)
            await asyncio.sleep(0)

    async with connect(server, path=since("")) as alice:
        id = alice.welcome["data"]["last_id"]
    publisher = asyncio.create_task(publish())
    titles: list[int] = []
    for round in range(80):
        async with connect(server, path=since(id)) as alice:
            assert alice.welcome["data"]["recovered"] is True
            end = int(alice.welcome["data"]["last_id"].rpartition("-")[2]) + round % 5 + 1
            while int(id.rpartition("-")[2]) < end:
                frame = await alice.recv()
                id = frame["id"]
                titles.append(int(frame["data"]["title"]))
            alice.socket.transport.abort()
    stop.set()
    await publisher
    assert titles == list(range(1, len(titles) + 1))


class NoHistory(MemoryBroker):
    async def history(self, *args: Any, **options: Any) -> Any:
        raise Unavailable("The broker cannot be reached.")


async def test_a_history_that_cannot_be_read_costs_the_connection_and_no_slot(serve: Serve):
    """Who would not learn what it missed is told to come back, with 4500, and holds nothing."""
    broker = NoHistory()
    server = await serve(broker=broker)
    for _ in range(7):
        assert await refused(server, since("x")) == (4500, "Internal Server Error")
    assert not broker._leases and not broker._subscribed and not server.gateway.sessions._missed


# Operators.


async def test_a_kicked_user_is_told_and_may_come_back(serve: Serve):
    """A kick takes all connections of the user out of the room with left_room; nothing keeps them from joining."""
    server = await serve()
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        for user in (alice, tab, bob):
            await user.join(ROOM)
        await tab.join("channel:2")
        for user in (alice, tab, bob):
            await user.settled()
        status, body = await call(server, "DELETE", f"/api/v1/rooms/{ROOM}/members/1")
        assert (status, body["connections"]) == (200, 2)
        for user in (alice, tab):
            left = await user.recv()
            assert (left["type"], left["room"]) == ("left_room", ROOM)
            assert left["data"] == {"message": f"Removed from room {ROOM}"}
        assert kinds(await bob.settled()) == ["user_left"]
        await tab.send("send_message", "channel:2", {"content": "x"})
        await tab.recv_type("message")
        await alice.join(ROOM)
        assert kinds(await bob.settled()) == ["user_joined"]


async def test_a_disconnected_user_is_told_why(serve: Serve):
    """All connections of the user end with 4410, nobody else's; the user may connect again."""
    server = await serve()
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        await server.gateway.signals.disconnect(1)
        for user in (alice, tab):
            assert await user.closed() == (DISCONNECTED.code, DISCONNECTED.reason)
        assert await bob.settled() == []
        async with connect(server):
            pass


async def test_a_drain_sends_everyone_away_to_come_back(serve: Serve):
    """Every connection is closed with 1012 Service Restart, and who comes then is told the same."""
    server = await serve()
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(connect(server, n, "x")) for n in range(10)]
        await server.gateway.drain()
        for user in users:
            assert await user.closed() == (1012, "Service Restart")
        assert await refused(server, f"{PATH}?token={token_for()}") == (1012, "Service Restart")


async def test_a_silent_client_is_pinged_and_then_dropped(serve: Serve):
    """After an interval of silence comes a ping, after two the end; a client that answers stays."""
    server = await serve(ws_heartbeat_interval=0.2)
    peer = await Peer.connect(("127.0.0.1", server.port))
    async with connect(server, 2, "bob") as bob:
        await peer.send(handshake())
        await peer.head()
        assert (await peer.frame())[0] == TEXT
        assert await peer.frame() == (9, b"")
        await peer.cut_off()
        assert await bob.settled() == []
    peer.close()


def handshake(**headers: str) -> bytes:
    """A handshake with a token in the URL, or in ``headers``."""
    query = "" if headers else f"?token={token_for()}"
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"GET {PATH}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


# The log.


def ends(caplog: Any) -> list[Any]:
    """The log records of connections that ended."""
    return [record for record in caplog.records if record.getMessage().startswith("connection ended")]


async def test_a_resync_of_the_users_own_room_names_no_room(serve: Serve):
    """As no event of it does: a client would try to join what nobody joins."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        for room in ("user:1", ROOM):
            server.gateway.listener.on_resync(room, "gone-7")
            frame = await alice.recv_type("resync")
            assert (frame.get("room"), frame["data"]["last_id"]) == (room if room == ROOM else None, "gone-7")


async def test_each_connection_has_its_line_in_the_log(serve: Serve, caplog):
    """One line each: who, from where, how long, and why it ended; also as fields, for machines."""
    caplog.set_level(logging.INFO)
    server = await serve(forbidden_join="close", trust_proxy=True)
    async with connect(server, headers={"X-Forwarded-For": "203.0.113.9"}) as alice:
        await alice.socket.close(1000, "bye")
    async with connect(server, 2, "bob", rooms=[]) as bob:
        await bob.send("join_room", ROOM)
        await bob.closed()
    async with connect(server, 3, "carol") as carol:
        carol.socket.transport.abort()
    async with connect(server, 4, "dan") as dan:
        await dan.socket.close(1000)
    await until(lambda: len(ends(caplog)) == 4)
    fields = ("user_id", "username", "remote", "code", "reason")
    assert [tuple(getattr(record, name) for name in fields) for record in ends(caplog)] == [
        (1, "alice", "203.0.113.9", 1000, "bye"),
        (2, "bob", "127.0.0.1", 4403, "Forbidden"),
        (3, "carol", "127.0.0.1", 1006, "Connection Lost"),
        (4, "dan", "127.0.0.1", 1000, ""),
    ]
    assert ends(caplog)[-1].getMessage().endswith(" s: 1000")
    line = ends(caplog)[0].getMessage()
    assert re.fullmatch(r"connection ended: user 1 \(alice\) from 203\.0\.113\.9 after \d+\.\d s: 1000 bye", line)


async def test_security_has_its_lines_in_the_log(serve: Serve, caplog):
    """Refused tokens, joins, new tokens and connections, and kicks, are told with who and from where."""
    caplog.set_level(logging.INFO)
    server = await serve(forbidden_join="keep", max_connections_per_user=1)
    await refused(server, f"{PATH}?token=nonsense")
    async with connect(server, rooms=[ROOM]) as alice:
        await refused(server, f"{PATH}?token={token_for()}")
        await alice.send("join_room", "channel:2")
        await alice.send("refresh_token", data={"token": token_for(2)})
        await alice.join(ROOM)
        await server.gateway.signals.kick(ROOM, 1)
        await alice.recv_type("left_room")
    who = "user 1 (alice) from 127.0.0.1"
    for line in (
        "refused a connection from 127.0.0.1: The token is not a JWT.",
        "refused a connection of user 1 from 127.0.0.1: too many connections",
        f"join refused: {who}: You have no access to channel:2.",
        f"new token refused: {who}: it is of user 2",
        f"removed from a room: {who}: {ROOM}",
    ):
        assert line in caplog.messages


WAYS = [
    ("?token={token}", {}),
    ("?token={token}&since=x", {}),
    ("?ticket={token}", {}),
    ("", {"additional_headers": {"Authorization": "Bearer {token}"}}),
    ("", {"subprotocols": ["bearer", "{token}"]}),
]


async def bring(server: Server, token: str, query: str, options: Any) -> None:
    """Connect with ``token`` in one of the ``WAYS``, and if that lets in show it in messages good and bad."""
    filled = json.loads(json.dumps(options).replace("{token}", token))
    where = url(server, PATH + query.replace("{token}", token), "ws")
    async with websockets.connect(where, proxy=None, **filled) as socket:
        user = User(socket)
        try:
            await user.recv()
            await user.send("refresh_token", data={"token": token})
            await user.send("refresh_token", token=token)
            await user.send("boom", data={"n": token})
            await user.send("boom", token)
            for _ in range(4):
                await user.recv()
        except websockets.ConnectionClosed:
            pass


async def break_off(server: Server, token: str) -> None:
    """Show ``token`` in heads and frames that cannot be read, whose complaints could show what they were about."""
    for sent in (
        f"GET {PATH}?token={token} HTTP/9.9\r\n\r\n".encode(),
        f"GET {PATH}?token={token}\x00 HTTP/1.1\r\n\r\n".encode(),
        f"GET {PATH}?token={token} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nbroken\r\n\r\n".encode(),
        handshake(Authorization=f"Bearer {token}") + masked(TEXT, b"\xff" + token.encode()),
    ):
        peer = await Peer.connect(("127.0.0.1", server.port))
        await peer.send(sent)
        await peer.cut_off()
        peer.close()


async def test_no_token_is_ever_logged(serve: Serve, caplog, bench: Bench):
    """Whichever way a token or ticket comes, good or bad, and whatever fails on the way, no log has a piece of it.

    roomcast never logs one; what others log of one (aiohttp shows heads that it cannot read) has stars in its place.
    """
    caplog.set_level(logging.DEBUG)
    written = logging.StreamHandler(io.StringIO())
    written.addFilter(lambda record: not record.name.startswith("websockets"))  # the client
    written.addFilter(RedactingFilter())
    logging.getLogger().addHandler(written)
    try:
        server = await serve(plugins=[bench.plugin])
        tokens = [token_for(), token_for(expires_in=-5), token_for()[:-8] + "AAAAAAAA"]
        ticket = (await call(server, "POST", "/api/v1/tickets", key=tokens[0]))[1]["ticket"]
        for token in (*tokens, ticket):
            for query, options in WAYS:
                await bring(server, token, query, options)
            await call(server, "POST", "/api/v1/tickets", key=token)
            await break_off(server, token)
    finally:
        logging.getLogger().removeHandler(written)
    own = [record for record in caplog.records if record.name.startswith("roomcast")]
    assert len(own) > 20
    shown = "\n".join(f"{logging.Formatter().format(record)} {vars(record)}" for record in own)
    for secret in (*tokens, ticket):
        assert secret.rpartition(".")[2] not in shown
        assert secret not in written.stream.getvalue()
    assert "aiohttp" in caplog.text and "***" in written.stream.getvalue()


class SlowBroker(MemoryBroker):
    """A broker whose publishes of messages wait until they are let go, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[asyncio.Future[None]] = []

    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        if b'"message"' in payload:
            self.held.append(asyncio.get_running_loop().create_future())
            await self.held[-1]
        return await super().publish(room, payload, key)

    async def until_held(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.held) < count:
                await asyncio.sleep(0.001)

    def let_go(self) -> None:
        held, self.held = self.held, []
        for one in held:
            if not one.done():
                one.set_result(None)


async def test_messages_do_not_wait_for_one_another(serve: Serve) -> None:
    """A client's next message is taken while the broker has not answered the last; replies keep the order."""
    broker = SlowBroker()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        await alice.join("channel:1")
        for i in range(5):
            await alice.send("send_message", "channel:1", {"content": str(i)}, id=i)
        await broker.until_held(5)
        broker.let_go()
        frames = [await alice.recv() for _ in range(11)]
        assert [frame["id"] for frame in frames if frame["type"] == "sent"] == [0, 1, 2, 3, 4]
        contents = [frame["data"]["content"] for frame in frames if frame["type"] == "message"]
        assert contents == ["0", "1", "2", "3", "4"]


async def test_other_commands_wait_for_messages(serve: Serve) -> None:
    """What is no message waits until the messages before it are answered, and those after it wait for it."""
    broker = SlowBroker()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.send("send_message", "channel:1", {"content": "before"}, id="before")
        await broker.until_held(1)
        await alice.send("leave_room", "channel:1", id="leave")
        await alice.send("send_message", "channel:1", {"content": "after"}, id="after")
        async with connect(server, 2, "bob") as bob:
            await bob.settled()  # by now alice's were read as well
        assert len(broker.held) == 1
        broker.let_go()
        await alice.recv_type("error")
        answers = [(frame["type"], frame.get("id")) for frame in alice.frames]
        assert [answer for answer in answers if answer[1] in ("before", "leave", "after")] == [
            ("sent", "before"),
            ("left_room", "leave"),
            ("error", "after"),
        ]


async def test_only_so_many_messages_are_under_way(serve: Serve) -> None:
    """Beyond MAX_QUEUED messages of a client the next waits; all are carried out in the end, in order."""
    broker = SlowBroker()
    server = await serve(broker=broker, ws_message_rate=0)
    async with connect(server) as alice:
        await alice.join("channel:1")
        total = MAX_QUEUED * 2 + 10
        for i in range(total):
            await alice.send("send_message", "channel:1", {"content": str(i)}, id=i)
        await broker.until_held(MAX_QUEUED)
        async with connect(server, 2, "bob") as bob:
            await bob.settled()
        assert len(broker.held) == MAX_QUEUED
        got: list[int] = []
        while len(got) < total:
            broker.let_go()
            got.append((await alice.recv_type("sent"))["id"])
        assert got == list(range(total))


async def test_a_client_that_goes_with_messages_under_way(serve: Serve) -> None:
    """A client that is gone leaves its rooms once what it said is published."""
    broker = SlowBroker()
    server = await serve(broker=broker)
    async with connect(server, 2, "bob") as bob:
        await bob.join("channel:1")
        async with connect(server) as alice:
            await alice.join("channel:1")
            await alice.send("send_message", "channel:1", {"content": "last words"})
            await broker.until_held(1)
        broker.let_go()
        await bob.recv_type("message")
        assert (await bob.recv_type("user_left"))["data"]["username"] == "alice"
    assert not server.gateway.delivery.members("channel:1")
