"""Tests of ``gateway.hooks``: hooks on the embedded broker, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from aiohttp import web
from cancellation import suppress_cancellation
from marshmallow import Schema, fields
from serving import PATH, Serve, answer, call, connect, refused, task_created
from waiting import wait_until

from roomcast import Context, MemberContext, Plugin, Refused, Service, Unavailable
from roomcast.gateway import hooks

ROOM = "channel:1"


def message(text: str, room: str = ROOM) -> dict[str, Any]:
    """Return a message as a backend publishes it."""
    return {"type": "message", "room": room, "data": content(text)}


def content(text: str) -> dict[str, Any]:
    """Return the data of a message."""
    return {"username": "bot", "user_id": 0, "content": text, "metadata": {}}


async def test_connections(serve: Serve) -> None:
    """``on_connect`` and ``on_disconnect`` are called once for each connection, in this order, without a room."""
    plugin, calls = Plugin("watcher"), []

    @plugin.on_connect
    async def came(ctx: Context) -> None:
        await asyncio.sleep(0.05)
        calls.append(("came", ctx.user_id, ctx.username, ctx.room))

    @plugin.on_disconnect
    def went(ctx: Context) -> None:
        calls.append(("went", ctx.user_id, ctx.username, ctx.room))

    server = await serve(plugins=[plugin])
    async with connect(server, user_id=1, username="alice"):
        pass
    await wait_until(lambda: len(calls) == 2)
    assert calls == [("came", 1, "alice", None), ("went", 1, "alice", None)]


async def test_a_connection_that_is_refused(serve: Serve) -> None:
    """A connection that was never admitted has no hooks."""
    plugin, calls = Plugin("watcher"), []
    plugin.on_connect(lambda ctx: calls.append("came"))
    plugin.on_disconnect(lambda ctx: calls.append("went"))
    server = await serve(plugins=[plugin])
    assert (await refused(server, f"{PATH}?token=wrong"))[0] == 4401
    async with connect(server, user_id=2):
        await wait_until(lambda: calls == ["came"])
    await wait_until(lambda: calls == ["came", "went"])


async def test_joins_and_leaves(serve: Serve) -> None:
    """``on_join`` and ``on_leave`` are called once for each user, not for each connection, and by the room type."""
    plugin, calls = Plugin("watcher"), []

    @plugin.on_join("channel")
    async def joined(ctx: MemberContext) -> None:
        assert [one.user_id for one in await ctx.members(ctx.room)] == [1]
        calls.append(("join", ctx.room, ctx.user_id, ctx.username))

    @plugin.on_leave("channel")
    async def left(ctx: MemberContext) -> None:
        await ctx.publish("message", ctx.room, content(f"{ctx.username} left"))
        calls.append(("leave", ctx.room, ctx.user_id, ctx.username))

    server = await serve(plugins=[plugin], presence_grace=0.0)
    async with connect(server) as first:
        await first.join(ROOM)
        await first.join("task:1")
        async with connect(server) as second:
            await second.join(ROOM)
        await first.send("leave_room", ROOM, id=1)
        await first.recv_type("left_room")
        await wait_until(lambda: len(calls) == 2)
        await first.join(ROOM)
    await wait_until(lambda: len(calls) == 4)
    assert calls == [("join", ROOM, 1, "alice"), ("leave", ROOM, 1, "alice")] * 2


async def test_the_hooks_of_a_plugin_for_one_join(serve: Serve) -> None:
    """They run one after the other, and those of another plugin at the same time."""
    slow, other = Plugin("slow"), Plugin("zealous")
    calls: list[str] = []
    may_end = asyncio.Event()

    @slow.on_join("channel")
    async def first(ctx: MemberContext) -> None:
        await may_end.wait()
        calls.append("first")

    @slow.on_join("channel")
    async def second(ctx: MemberContext) -> None:
        calls.append("second")

    @other.on_join("channel")
    async def elsewhere(ctx: MemberContext) -> None:
        calls.append("other")
        may_end.set()

    server = await serve(plugins=[slow, other])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await wait_until(lambda: len(calls) == 3)
    assert calls == ["other", "first", "second"]


async def test_joins_and_leaves_that_wait_cancel_each_other(serve: Serve) -> None:
    """A user that joins and leaves faster than the hooks end causes few calls; the last one has the last state."""
    plugin, calls, may_end = Plugin("watcher"), [], asyncio.Event()

    @plugin.on_join("channel")
    async def joined(ctx: MemberContext) -> None:
        await may_end.wait()
        calls.append("join")

    @plugin.on_leave("channel")
    async def left(ctx: MemberContext) -> None:
        await may_end.wait()
        calls.append("leave")

    server = await serve(plugins=[plugin], presence_grace=0.0, ws_message_rate=0)
    async with connect(server) as alice:
        for _ in range(50):
            await alice.join(ROOM)
            await alice.send("leave_room", ROOM)
            await alice.recv_type("left_room")
        await alice.join(ROOM)
        may_end.set()
        await wait_until(lambda: len(calls) == hooks.MAX_CHANGES + 1)
        assert calls == ["join", "leave"] * (hooks.MAX_CHANGES // 2) + ["join"]
    await wait_until(lambda: calls[-1] == "leave")
    assert len(calls) == hooks.MAX_CHANGES + 2


async def test_joins_in_large_rooms(serve: Serve) -> None:
    """Joins are not announced above ``ANNOUNCE_MAX``, but hooks are called."""
    plugin, calls = Plugin("watcher"), []
    plugin.on_join("channel")(lambda ctx: calls.append(f"join {ctx.user_id}"))
    plugin.on_leave("channel")(lambda ctx: calls.append(f"leave {ctx.user_id}"))
    server = await serve(plugins=[plugin], announce_max=0, presence_grace=0.0)
    async with connect(server) as alice:
        await alice.join(ROOM)
        async with connect(server, user_id=2) as bob:
            await bob.join(ROOM)
        await wait_until(lambda: len(calls) == 3)
        assert [frame["type"] for frame in await alice.settled()] == []
    await wait_until(lambda: len(calls) == 4)
    assert sorted(calls) == ["join 1", "join 2", "leave 1", "leave 2"]


async def test_a_return_within_the_grace(serve: Serve) -> None:
    """A user who returns within ``PRESENCE_GRACE`` has not left, and was not offline."""
    plugin, calls = Plugin("watcher"), []
    plugin.on_join("channel")(lambda ctx: calls.append("join"))
    plugin.on_leave("channel")(lambda ctx: calls.append("leave"))
    plugin.on_online(lambda service, user_id: calls.append(f"online {user_id}"))
    plugin.on_offline(lambda service, user_id: calls.append(f"offline {user_id}"))
    server = await serve(plugins=[plugin], presence_grace=60.0)
    for _ in range(3):
        async with connect(server) as alice:
            await alice.join(ROOM)
    await wait_until(lambda: not server.gateway.keepalive.connections)
    async with connect(server, user_id=2):
        await wait_until(lambda: len(calls) == 3)
    assert sorted(calls) == ["join", "online 1", "online 2"]


async def test_online_and_offline(serve: Serve) -> None:
    """``on_online`` and ``on_offline`` are called once for each user, and clients see nothing of it."""
    plugin, calls = Plugin("watcher"), []

    @plugin.on_online
    async def online(service: Service, user_id: int | str) -> None:
        calls.append(("online", user_id))

    @plugin.on_offline
    async def offline(service: Service, user_id: int | str) -> None:
        calls.append(("offline", user_id))

    server = await serve(plugins=[plugin], presence_grace=0.0)
    async with connect(server, user_id="a:b") as first:
        async with connect(server, user_id="a:b") as second:
            assert await second.settled() == []
        assert await first.settled() == []
        status, body = await call(server, "GET", "/api/v1/rooms")
        assert (status, body) == (200, {"rooms": []})
        await wait_until(lambda: calls == [("online", "a:b")])
    await wait_until(lambda: calls == [("online", "a:b"), ("offline", "a:b")])


async def test_before_command_changes_data(serve: Serve) -> None:
    """Hooks run by their order, each with the data of the previous one; the result is validated again."""
    first, second = Plugin("first"), Plugin("second")
    calls = []

    @first.before_command("send_message", order=5)
    async def later(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        calls.append(("later", ctx.joined(), data["content"]))
        return {"content": data["content"] + "!"}

    @second.before_command("send_message", order=-1)
    def earlier(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        calls.append(("earlier", ctx.room, data["content"]))
        return {**data, "content": data["content"].upper()}

    @second.before_command("send_message", order=5)
    async def last(ctx: Context, data: dict[str, Any]) -> None:
        data["content"] = "changed in place, which has no effect"

    server = await serve(plugins=[first, second])
    async with connect(server) as alice:
        await alice.send("send_message", ROOM, {"content": "not joined"}, id=1)
        assert (await alice.recv_type("error"))["data"]["code"] == "not_joined"
        assert calls == []
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "hi"}, id=2)
        assert (await alice.recv_type("message"))["data"]["content"] == "HI!"
    assert calls == [("earlier", ROOM, "hi"), ("later", ROOM, "HI")]


async def test_before_command_refuses(serve: Serve) -> None:
    """A hook that raises ``Refused`` refuses the command: the handler and later hooks are not called."""
    plugin = Plugin("strict")

    @plugin.before_command("send_message", order=1)
    async def refuse(ctx: Context, data: dict[str, Any]) -> None:
        raise Refused("closed", "The chat is closed.")

    @plugin.before_command("send_message", order=2)
    async def never(ctx: Context, data: dict[str, Any]) -> None:
        raise AssertionError

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "hi"}, id="a", key="k")
        error = await alice.recv_type("error")
        assert (error["id"], error["data"]["code"]) == ("a", "closed")
        assert "message" not in [frame["type"] for frame in await alice.settled()]


async def test_a_repeated_command(serve: Serve) -> None:
    """A repeat of a command with a key calls neither the hooks nor the handler again."""
    plugin, calls = Plugin("counter"), []
    plugin.before_command("send_message")(lambda ctx, data: calls.append("command"))
    plugin.before_publish("message")(lambda service, event: calls.append("publish"))
    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        for _ in range(2):
            await alice.send("send_message", ROOM, {"content": "hi"}, id="a", key="k")
            await alice.recv_type("sent")
    assert calls == ["command", "publish"]


class When(Schema):
    """A point in time, which validation turns into a datetime."""

    at = fields.AwareDateTime(required=True)
    note = fields.String(load_default="", data_key="n")


async def test_before_command_returns_loaded_values(serve: Serve) -> None:
    """A hook may return values as it received them, such as a datetime."""
    plugin = Plugin("times")

    @plugin.command("times.add", When, access="anyone")
    async def add(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        return {"year": data["at"].year, "note": data["note"]}

    @plugin.before_command("times.add")
    async def next_year(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "at": data["at"].replace(year=data["at"].year + 1)}

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.send("times.add", None, {"at": "2026-01-01T00:00:00+00:00", "n": "x"}, id=1)
        assert (await alice.recv_type("reply"))["data"] == {"year": 2027, "note": "x"}


async def test_before_hooks_that_fail(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """If a hook raises, or returns data that is invalid, nothing happens: the client gets ``unavailable``."""
    plugin = Plugin("broken")

    @plugin.before_command("send_message")
    async def check(ctx: Context, data: dict[str, Any]) -> Any:
        match data["content"]:
            case "raise":
                raise ValueError("a secret")
            case "wrong":
                return {"contents": "x"}
            case "list":
                return ["x"]
            case "unavailable":
                raise Unavailable("The word list is loading.", "10.0.0.7 does not answer")
        return None

    @plugin.before_publish("message")
    async def check_event(service: Service, event: dict[str, Any]) -> Any:
        match event["data"]["content"]:
            case "raise later":
                raise KeyError("a secret")
            case "wrong later":
                return {"nothing": True}
        event["data"]["content"] = "changed in place, which has no effect"
        return None

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        for text in ("raise", "wrong", "list", "unavailable", "raise later", "wrong later"):
            await alice.send("send_message", ROOM, {"content": text}, id=text)
            error = await alice.recv_type("error")
            assert (error["id"], error["data"]["code"]) == (text, "unavailable")
            assert "secret" not in str(error)
            assert "10.0.0.7" not in str(error)
        await alice.send("send_message", ROOM, {"content": "fine"})
        assert (await alice.recv_type("message"))["data"]["content"] == "fine"
    text = caplog.text
    assert "hook check (before_command of command send_message) of plugin 'broken' failed" in text
    assert "hook check_event (before_publish of event message) of plugin 'broken' failed" in text
    assert "a secret" in text
    assert "10.0.0.7 does not answer" in text
    times = server.gateway.plugin_times.functions
    assert times["broken", "check"].errors == 1
    assert times["broken", "check_event"].errors == 1


async def test_hooks_that_hang(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that hangs delays only its own client, even if it suppresses its cancellation."""
    plugin = Plugin("slow")

    @plugin.before_publish("message")
    async def stuck(service: Service, event: dict[str, Any]) -> None:
        if event["data"]["content"] == "hang":
            await suppress_cancellation(0.5)
        elif event["data"]["content"] == "wait":
            await asyncio.sleep(3600)

    @plugin.on_join("channel")
    async def hang(ctx: MemberContext) -> None:
        await asyncio.sleep(3600)

    server = await serve(plugins=[plugin], handler_timeout=0.2)
    async with connect(server) as alice, connect(server, user_id=2) as bob:
        await alice.join(ROOM)
        await bob.join(ROOM)
        for text in ("hang", "wait"):
            await alice.send("send_message", ROOM, {"content": text}, id=text)
            await bob.send("send_message", ROOM, {"content": "hello"}, id=1)
            assert (await bob.recv_type("message"))["data"]["content"] == "hello"
            error = await alice.recv_type("error", id=text)
            assert error["data"]["code"] in ("timeout", "unavailable")
            status, body = await call(server, "POST", "/api/v1/events", json=message(text))
            assert (status, body["code"]) == (503, "unavailable")
        assert "message" not in [frame["type"] for frame in await bob.settled()]
    assert "hook stuck (before_publish of event message) of plugin 'slow' could not finish" in caplog.text
    assert "hook hang (on_join of room type channel) of plugin 'slow' could not finish" in caplog.text
    assert server.gateway.plugin_times.functions["slow", "hang"].errors == 2


async def test_one_hook_fails_and_the_others_are_called(serve: Serve) -> None:
    """A hook that raises or hangs does not keep those of other plugins from being called."""
    broken, hanging, fine = Plugin("broken"), Plugin("hanging"), Plugin("fine")
    calls = []

    @broken.on_join("channel")
    async def fail(ctx: MemberContext) -> None:
        raise ValueError

    @hanging.on_join("channel")
    async def hang(ctx: MemberContext) -> None:
        await asyncio.sleep(3600)

    fine.on_join("channel")(lambda ctx: calls.append(ctx.user_id))
    server = await serve(plugins=[broken, hanging, fine])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await wait_until(lambda: calls == [1])


async def test_before_publish_from_all_sources(serve: Serve) -> None:
    """``before_publish`` is called for clients, plugins, and single events and lists over HTTP, and may change data."""
    plugin, seen = Plugin("filter"), []

    @plugin.before_publish("message")
    async def mark(service: Service, event: dict[str, Any]) -> dict[str, Any]:
        seen.append({name: event[name] for name in event if name != "data"})
        return {**event["data"], "content": event["data"]["content"] + "!"}

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "client"})
        contents = [(await alice.recv_type("message"))["data"]["content"]]
        for body in (message("api"), [message("list 1"), task_created(), message("list 2")]):
            status, _ = await call(server, "POST", "/api/v1/events", json=body)
            assert status == 200
        service = server.gateway.service
        await service.publish("message", ROOM, content("plugin"), sender="bot")
        contents += [(await alice.recv_type("message"))["data"]["content"] for _ in range(4)]
        await service.notify(1, "message", content("notify"))
        contents.append((await alice.recv_type("message"))["data"]["content"])
    assert contents == ["client!", "api!", "list 1!", "list 2!", "plugin!", "notify!"]
    assert [one["source"] for one in seen] == ["client", "api", "api", "api", "plugin", "plugin"]
    assert seen[0] == {"type": "message", "room": ROOM, "sender": "alice", "user_id": 1, "source": "client"}
    assert seen[-1]["room"] == "user:1"


async def test_before_publish_of_many_events(serve: Serve) -> None:
    """The hooks are called for each event of ``publish_many``; if one is refused, none is published."""
    plugin = Plugin("filter")

    class BadWords(Refused):
        def __init__(self) -> None:
            super().__init__("bad_words", "Be polite.", status=409)

    @plugin.before_publish("message")
    async def check(service: Service, event: dict[str, Any]) -> dict[str, Any]:
        if event["data"]["content"] == "bad":
            raise BadWords
        return {**event["data"], "content": event["source"]}

    @plugin.command("filter.both", Schema)
    async def both(ctx: Context, data: dict[str, Any]) -> None:
        await ctx.publish_many([("message", content("1")), ("message", content("2"))])

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("filter.both", ROOM)
        service = server.gateway.service
        with pytest.raises(Refused, match="Event 2 of 2: Be polite") as refused:
            await service.publish_many([("message", ROOM, content("good")), ("message", ROOM, content("bad"))])
        assert (refused.value.code, refused.value.status) == ("bad_words", 409)
        await service.publish_many([("message", ROOM, content("good"))])
        assert [(await alice.recv_type("message"))["data"]["content"] for _ in range(3)] == ["client"] * 2 + ["plugin"]


async def test_events_of_a_hook(serve: Serve) -> None:
    """A hook publishes with the user as sender, and its events are not taken for those of the handler."""
    plugin = Plugin("echo")

    @plugin.before_command("send_message")
    async def echo(ctx: Context, data: dict[str, Any]) -> None:
        await ctx.publish("task.created", {"task_id": 1, "title": "from the hook"})

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "hi"}, id=1, key="k")
        event = await alice.recv_type("task.created")
        assert (event["sender"], event["key"]) == ("alice", "k")
        assert (await alice.recv_type("message"))["data"]["content"] == "hi"


async def test_before_publish_refuses(serve: Serve) -> None:
    """A refused event of a list refuses all of them, with its index; nothing is published."""
    plugin = Plugin("filter")

    @plugin.before_publish("message")
    async def refuse(service: Service, event: dict[str, Any]) -> None:
        if event["data"]["content"] == "bad":
            raise Refused("bad_words", "Be polite.")

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "bad"}, id=1)
        assert (await alice.recv_type("error"))["data"]["code"] == "bad_words"
        status, body = await call(server, "POST", "/api/v1/events", json=message("bad"))
        assert (status, body["code"], body["error"]) == (422, "bad_words", "Be polite.")
        given = [message("good"), message("bad")]
        status, body = await call(server, "POST", "/api/v1/events", json=given)
        assert (status, body["code"]) == (422, "invalid_events")
        assert body["items"] == [{"index": 1, "field": "data", "error": "Be polite.", "code": "bad_words"}]
        with pytest.raises(Refused, match="Be polite"):
            await server.gateway.service.publish("message", ROOM, content("bad"))
        assert "message" not in [frame["type"] for frame in await alice.settled()]


async def test_order_of_pipelined_messages(serve: Serve) -> None:
    """Messages of one client keep their order, even if the hooks for the first ones take longest."""
    plugin = Plugin("slow")

    @plugin.before_publish("message")
    async def wait(service: Service, event: dict[str, Any]) -> None:
        await asyncio.sleep(0.02 * (5 - int(event["data"]["content"])))

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        for number in range(5):
            await alice.send("send_message", ROOM, {"content": str(number)})
        found = [(await alice.recv_type("message"))["data"]["content"] for _ in range(5)]
    assert found == ["0", "1", "2", "3", "4"]


async def test_after_publish(serve: Serve) -> None:
    """``after_publish`` receives the frame that clients receive, in order, and with the room of personal rooms."""
    plugin, events = Plugin("archive"), []

    @plugin.after_publish("message")
    async def store(service: Service, event: dict[str, Any]) -> None:
        await asyncio.sleep(0.01 if not events else 0)
        events.append(event)

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "1"}, key="k", id=1)
        frames = [await alice.recv_type("message")]
        for body in (message("2"), [message("3"), message("4", "channel:empty")]):
            await call(server, "POST", "/api/v1/events", json=body)
        await server.gateway.service.notify(1, "message", content("5"))
        frames += [await alice.recv_type("message") for _ in range(3)]
        await wait_until(lambda: len(events) == 5)
        await alice.send("send_message", ROOM, {"content": "1"}, key="k", id=2)
        await alice.recv_type("sent", id=2)
    assert len(events) == 5
    assert [one for one in events if one["room"] == ROOM] == frames[:3]
    assert [one["data"]["content"] for one in events if one["room"] == "channel:empty"] == ["4"]
    assert [one for one in events if one["room"] == "user:1"] == [{**frames[3], "room": "user:1"}]


async def test_a_publisher_does_not_wait_for_after_publish(serve: Serve) -> None:
    """A hook that hangs or raises holds up neither the publisher nor other rooms."""
    plugin, events = Plugin("archive"), []

    @plugin.after_publish("message")
    async def store(service: Service, event: dict[str, Any]) -> None:
        if event["data"]["content"] == "hang":
            await asyncio.sleep(3600)
        if event["data"]["content"] == "raise":
            raise ValueError
        events.append(event["data"]["content"])

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.join("channel:2")
        for room, text in ((ROOM, "hang"), ("channel:2", "raise"), ("channel:2", "fine")):
            await alice.send("send_message", room, {"content": text}, id=text)
            await alice.recv_type("sent", id=text)
        await wait_until(lambda: events == ["fine"])


async def test_hooks_finish_when_the_server_stops(serve: Serve) -> None:
    """The server waits for the hooks of its last connections and events."""
    plugin, calls = Plugin("archive"), []

    @plugin.on_disconnect
    async def went(ctx: Context) -> None:
        await asyncio.sleep(0.1)
        calls.append("went")

    @plugin.after_publish("message")
    async def store(service: Service, event: dict[str, Any]) -> None:
        await asyncio.sleep(0.1)
        calls.append("stored")

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "last"}, id=1)
        await alice.recv_type("sent", id=1)
        await server.stop()
    assert sorted(calls) == ["stored", "went"]


async def test_a_hook_that_blocks_the_loop(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that blocks the event loop is named in the log."""
    plugin = Plugin("blocking")

    @plugin.on_join("channel")
    async def block(ctx: MemberContext) -> None:
        time.sleep(1.5)

    server = await serve(plugins=[plugin])
    with caplog.at_level(logging.WARNING):
        async with connect(server) as alice:
            await alice.join(ROOM)
            await wait_until(lambda: "on_join hook of channel of plugin 'blocking'" in caplog.text)


async def test_metrics(serve: Serve) -> None:
    """The metrics have the times and the failures of hooks, rules, routes and handlers by plugin and function."""
    plugin = Plugin("measured")

    @plugin.after_publish("message")
    async def store(service: Service, event: dict[str, Any]) -> None:
        raise ValueError

    @plugin.before_publish("message")
    async def refuse(service: Service, event: dict[str, Any]) -> None:
        if event["data"]["content"] == "bad":
            raise Refused("bad_words", "Be polite.")

    @plugin.command("measured.run", Schema, access="anyone")
    async def run(ctx: Context, data: dict[str, Any]) -> None: ...

    @plugin.room("measured")
    async def rule(ctx: Context, entity: str) -> bool:
        return True

    @plugin.route("GET", "/time", auth="public")
    async def show(service: Service, request: web.Request) -> web.Response:
        return web.json_response({})

    @plugin.on_disconnect
    async def never(ctx: Context) -> None: ...

    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.join("measured:1")
        await alice.send("measured.run", None, {}, id=1)
        await alice.recv_type("reply")
        for text in ("good", "bad"):
            await alice.send("send_message", ROOM, {"content": text})
        await alice.recv_type("error")
        await call(server, "GET", "/plugins/measured/time")
        await wait_until(lambda: server.gateway.plugin_times.functions["measured", "store"].errors == 1)
        async with answer(server, "GET", "/metrics") as response:
            text = await response.text()
    for function, calls, errors in (
        *(("store", 1, 1), ("refuse", 2, 0), ("run", 1, 0), ("rule", 1, 0), ("show", 1, 0)),
        ("never", 0, 0),
    ):
        labels = f'{{function="{function}",plugin="measured"}}'
        assert f"roomcast_plugin_seconds_count{labels} {calls}.0" in text
        assert f"roomcast_plugin_errors_total{labels} {errors}.0" in text
        assert f'roomcast_plugin_seconds_bucket{{function="{function}",le="+Inf",plugin="measured"}} {calls}.0' in text
    assert 'function="send_message"' not in text


async def test_a_hook_that_is_too_slow_for_its_events(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond a limit, events are not passed to a slow hook; hooks of other plugins and of its own get all of them."""
    monkeypatch.setattr(hooks, "MAX_WAITING", 3)
    plugin, other, events = Plugin("slow"), Plugin("archive"), []
    stored: dict[str, list[str]] = {"slow": [], "archive": []}

    @plugin.after_publish("message")
    async def stuck(service: Service, event: dict[str, Any]) -> None:
        events.append(event["data"]["content"])
        await asyncio.sleep(3600)

    for one in (plugin, other):

        @one.after_publish("message")
        async def store(service: Service, event: dict[str, Any], name: str = one.name) -> None:
            stored[name].append(event["data"]["content"])

    server = await serve(plugins=[plugin, other])
    async with connect(server) as alice:
        await alice.join(ROOM)
        for number in range(5):
            await alice.send("send_message", ROOM, {"content": str(number)}, id=number)
            await alice.recv_type("sent", id=number)
        assert server.gateway.plugin_times.functions["slow", "stuck"].errors == 2
        await wait_until(lambda: stored == {name: list("01234") for name in stored})
    assert "3 events wait" in caplog.text
    assert events == ["0"]


async def test_rooms_without_hooks_are_not_followed(serve: Serve) -> None:
    """Without hooks, commands are those of the registry, and the broker follows nothing."""
    gateway = (await serve()).gateway
    commands = gateway.commands._plugin_commands
    assert commands == gateway.registry.commands
    assert not gateway.hooks.follows_users
    assert not gateway.hooks.follows_connections
    assert not gateway.hooks.follows_events
    assert not any(event.has_hooks for event in gateway.registry.events.values())
