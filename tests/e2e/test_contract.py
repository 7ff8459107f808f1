"""docs/protocol.md, section by section: a real server sends the frames of its examples and keeps its sentences."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
import websockets
from docs_pages import PAGES, snippet
from handshakes import request
from serving import PATH, SECRET, Serve, call, connect, refused, token_for, url
from wire import Peer, masked

import roomcast
from roomcast import registry
from roomcast.broker.memory import MemoryBroker
from roomcast.builtin_events import builtin
from roomcast.errors import CLOSES
from roomcast.protocol.frames import TEXT
from roomcast.settings import Settings

EVENT_ID = re.compile(r"[A-Za-z0-9]+-[1-9][0-9]*")


def like(frame: dict[str, Any], example: str, *, id: bool = False, micro: bool = False) -> bool:
    """Return True if ``frame`` equals the ``example`` in docs/protocol.md: the same fields with the same values.

    Timestamps must have the form of the example and be current. With ``id``, the frame is an event and also has an id.
    """
    expected = json.loads(example)
    digits = r"\.\d{6}" if micro else ""
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d{digits}Z", frame["timestamp"])
    assert abs(datetime.fromisoformat(frame["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    expected["timestamp"] = frame["timestamp"]
    if "timestamp" in expected["data"]:
        expected["data"]["timestamp"] = frame["data"]["timestamp"]
        assert abs(datetime.fromisoformat(frame["data"]["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    if id:
        assert EVENT_ID.fullmatch(frame["id"])
        expected["id"] = frame["id"]
    assert frame == expected
    return True


def alice(server: Any, **more: Any) -> Any:
    """Connect the user of the examples."""
    return connect(server, 12345, "alice", ("channel:456", "project:123", "task:789"), **more)


# Connection flow.


async def test_welcome(serve: Serve):
    """After a connection, the first frame is the welcome of the page, and no other frame follows without a request.

    Its data also has the limits and the version of the server.
    """
    async with alice(await serve(drain_seconds=10.0)) as user:
        added = {name: user.welcome["data"].pop(name) for name in ("limits", "server")}
        assert added == json.loads(snippet("limits of a connection")) | {"server": {"version": roomcast.__version__}}
        assert like(
            user.welcome,
            snippet("connected"),
            micro=True,
        )
        assert await user.settled() == []


async def test_endpoint(serve: Serve):
    """The WebSocket is at /api/v1/ws/connect with the token as a query parameter, and nowhere else."""
    server = await serve()
    assert PATH == "/api/v1/ws/connect"
    for path in ("/api/v1/ws", "/api/v1/ws/connect/", "/ws/connect", "/"):
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(url(server, f"{path}?token={token_for()}", "ws"), proxy=None):
                pass
        assert caught.value.response.status_code == (200 if path == "/" else 404)


# Client to server.


async def test_join_room(serve: Serve):
    """A join is answered with joined_room; then everyone in the room, including the joiner, gets user_joined."""
    server = await serve()
    async with connect(server, 2, "bob") as bob, alice(server) as user:
        await bob.join("channel:456")
        await bob.settled()
        await user.socket.send(snippet("join_room"))
        assert like(
            await user.recv(),
            snippet("joined_room"),
        )
        for one in (user, bob):
            assert like(
                await one.recv(),
                snippet("user_joined"),
            )
            assert await one.settled() == []


async def test_members_and_status(serve: Serve):
    """A join with presence is answered with the members; a status is announced to everyone in the room."""
    server = await serve()
    async with connect(server, 7, "bob") as bob, alice(server) as user:
        await bob.join("channel:456")
        example = json.loads(snippet("joined_room with members"))
        first = example["data"]["members"][0]
        await bob.send("set_presence", "channel:456", {"status": first["status"], "data": first["data"]})
        await bob.recv_type("presence_set")
        joined = await user.join("channel:456", presence=True)
        for member, shown in zip(joined["data"]["members"], example["data"]["members"], strict=True):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", member["since"])
            shown["since"] = member["since"]
        assert like(joined, json.dumps(example))
        await user.socket.send(snippet("set_presence"))
        for one in (user, bob):
            assert like(await one.recv_type("user_updated", sender="alice"), snippet("user_updated"))


async def test_leave_room(serve: Serve):
    """A leave is answered with left_room; the others get user_left, and the user who left gets nothing more."""
    server = await serve()
    async with connect(server, 2, "bob") as bob, alice(server) as user:
        await bob.join("channel:456")
        await user.join("channel:456")
        await bob.recv_type("user_joined", sender="alice")
        await user.settled()
        await user.socket.send(snippet("leave_room"))
        left = await user.recv()
        assert set(left) == {"type", "room", "data", "timestamp"}
        assert (left["type"], left["room"]) == ("left_room", "channel:456")
        assert left["data"] == {"message": "Left room channel:456"}
        gone = await bob.recv()
        assert set(gone) == {"type", "room", "data", "sender", "timestamp"}
        assert (gone["type"], gone["room"], gone["sender"]) == ("user_left", "channel:456", "alice")
        assert gone["data"] == {"username": "alice", "user_id": 12345}
        await bob.send("send_message", "channel:456", {"content": "Is anybody there?"})
        await bob.recv_type("message")
        assert await user.settled() == []


async def test_send_message(serve: Serve):
    """A message is broadcast to the room, including the sender, as the page shows it; without id, there is no reply."""
    server = await serve()
    async with connect(server, 2, "bob") as bob, alice(server) as user:
        await user.join("channel:456")
        await bob.join("channel:456")
        await bob.recv_type("user_joined")
        await user.settled()
        await user.socket.send(snippet("send_message"))
        for one in (user, bob):
            assert like(
                await one.recv(),
                snippet("message"),
                id=True,
            )
            assert await one.settled() == []


async def test_ping(serve: Serve):
    """A ping is answered with the pong of the page, whose data contains the time as well."""
    async with alice(await serve()) as user:
        await user.socket.send(snippet("ping"))
        assert like(
            await user.recv(),
            snippet("pong"),
        )


# Server to client.


def test_each_event_type_has_an_owner():
    """The page lists the events that chat, task, project and the core declare, and no others."""
    owned = {name: set(item.plugin.events) for name, item in registry.load().plugins.items()}
    assert owned["chat"] == {"message", "message.edited", "message.deleted", "typing"}
    assert owned["task"] == {f"task.{what}" for what in ("created", "updated", "status_changed", "assigned", "deleted")}
    assert owned["project"] == {"project.updated", "project.archived"}
    assert owned["core"] == {"user_joined", "user_left", "user_updated", "notification.new"}
    section = PAGES["docs/protocol.md"].partition("### Event types")[2].partition("\n### ")[0]
    listed = re.findall(r"^- `(.+?)` - ", section, re.MULTILINE)
    assert sorted(listed) == sorted({*chain.from_iterable(owned.values()), "error", "resync"})


@pytest.mark.parametrize(
    "example",
    [
        snippet("task.created"),
        snippet("task.status_changed"),
    ],
)
async def test_examples_of_events(serve: Serve, example: str):
    """The room receives what a backend publishes over HTTP, exactly as in the examples of the page."""
    server = await serve()
    async with alice(server) as user:
        await user.join("project:123")
        await user.recv_type("user_joined")
        published = {name: value for name, value in json.loads(example).items() if name != "timestamp"}
        status, body = await call(server, "POST", "/api/v1/events", published)
        assert status == 200
        frame = await user.recv()
        assert like(frame, example, id=True)
        assert body == {"id": frame["id"]}


async def test_example_of_a_notification(serve: Serve):
    """A notification reaches every connection of its user, without room and sender, and no other user."""
    server = await serve()
    example = snippet("notification.new")
    async with alice(server) as user, alice(server) as tab, connect(server, 2, "bob") as bob:
        published = {"type": "notification.new", "room": "user:12345", "data": json.loads(example)["data"]}
        status, _ = await call(server, "POST", "/api/v1/events", published)
        assert status == 200
        for one in (user, tab):
            assert like(await one.recv(), example, id=True)
            assert await one.settled() == []
        assert await bob.settled() == []


# Rooms.


@pytest.mark.parametrize("room", ["project:123", "channel:456", "task:789"])
async def test_room_types(serve: Serve, room: str):
    """Each room type of the page can be joined by a user with access, who can send messages there."""
    async with alice(await serve()) as user:
        assert (await user.join(room))["data"] == {"message": f"Joined room {room}"}
        await user.send("send_message", room, {"content": "Hello"})
        assert (await user.recv_type("message"))["room"] == room


@pytest.mark.parametrize("room", ["channel:457", "project:456", "task:7890", "user:12345", "user:2"])
async def test_join_without_access_closes_with_4403(serve: Serve, room: str):
    """An unauthorized join gets an error frame and then the close code 4403 Forbidden; it is not announced."""
    server = await serve()
    async with alice(server) as user, connect(server, 2, "bob") as bob:
        if not room.startswith("user:"):
            await bob.join(room)
            await bob.settled()
        await user.send("join_room", room)
        assert await user.closed() == (4403, "Forbidden")
        assert [frame["type"] for frame in user.frames] == ["connected", "error"]
        error = user.frames[-1]
        assert set(error) == {"type", "room", "data", "timestamp"}
        assert error["data"]["code"] == "forbidden"
        words = {"user:12345": "You are in your own room", "user:2": "another user's own room"}
        assert words.get(room, f"You have no access to {room}.") in error["data"]["error"]
        assert await bob.settled() == []


# Error codes.


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?token=",
        "?token=nonsense",
        f"?token={token_for(expires_in=-1)}",
        f"?token={token_for()[:-3]}abc",
        "?ticket=nonsense",
    ],
    ids=["none", "empty", "nonsense", "expired", "forged", "ticket"],
)
async def test_invalid_token_closes_with_4401(serve: Serve, query: str):
    """Without a token, or with an invalid or expired one: 4401 Authentication Failed, with no frame before it."""
    assert await refused(await serve(), PATH + query) == (4401, "Authentication Failed")


async def test_too_many_connections_closes_with_4429(serve: Serve):
    """The sixth connection of a user is closed with 4429; when one of the five ends, there is room again."""
    server = await serve()
    path = f"{PATH}?token={token_for(12345)}"
    async with (
        connect(server, 12345) as first,
        connect(server, 12345),
        connect(server, 12345),
        connect(server, 12345),
        connect(server, 12345),
        connect(server, 2, "bob"),
    ):
        assert await refused(server, path) == (4429, "Too Many Connections")
        await first.socket.close()
        async with connect(server, 12345):
            assert await refused(server, path) == (4429, "Too Many Connections")


class Broken(MemoryBroker):
    async def admit(self, user_id: Any, connection: int, limit: int) -> bool:
        raise ZeroDivisionError


async def test_internal_error_closes_with_4500(serve: Serve):
    """A server that fails closes with 4500 Internal Server Error."""
    server = await serve(broker=Broken())
    assert await refused(server, f"{PATH}?token={token_for()}") == (4500, "Internal Server Error")


def test_close_codes_have_their_reasons():
    """The four close codes of the original page are sent with their reasons."""
    reasons = {(close.code, close.reason) for close in CLOSES}
    assert {
        (4401, "Authentication Failed"),
        (4403, "Forbidden"),
        (4429, "Too Many Connections"),
        (4500, "Internal Server Error"),
    } <= reasons


async def test_error_frame(serve: Serve):
    """An error is the frame of the page, with a stable code next to its sentence, and the connection stays open."""
    async with alice(await serve()) as user:
        await user.socket.send("hello")
        error = await user.recv()
        example = json.loads(snippet("error"))
        assert set(error) == {"type", "data", "timestamp"} == set(example)
        assert set(error["data"]) == {"error", "code"} == set(example["data"])
        assert error["data"]["code"] == "bad_json"
        assert await user.settled() == []


# Best practices and examples.


async def test_messages_sent_before_the_welcome(serve: Serve):
    """Messages that a client sends before it reads its welcome are carried out, in order, after the welcome."""
    server = await serve()
    peer = await Peer.connect(("127.0.0.1", server.port))
    queue = [
        {"type": "join_room", "room": "channel:1"},
        *({"type": "send_message", "room": "channel:1", "data": {"content": str(n)}} for n in range(20)),
    ]
    await peer.send(request() + b"".join(masked(TEXT, json.dumps(message).encode()) for message in queue))
    await peer.head()
    frames = [await peer.event() for _ in range(23)]
    peer.close()
    assert [frame["type"] for frame in frames] == ["connected", "joined_room", "user_joined", *["message"] * 20]
    assert [frame["data"]["content"] for frame in frames[3:]] == [str(n) for n in range(20)]


async def test_reconnect_with_the_same_token(serve: Serve):
    """After a lost connection the same token connects again, as in the example for automatic reconnection."""
    server = await serve()
    token = token_for(12345, expires_in=60)
    for _ in range(8):
        async with connect(server, token=token) as user:
            await user.join("channel:1")
            user.socket.transport.abort()


async def test_lines_for_wscat(serve: Serve):
    """The two lines for wscat, typed as they are written, join a room and send a message there."""
    async with connect(await serve()) as user:
        lines = re.findall(r"^> (.+)$", snippet("wscat"), re.MULTILINE)
        assert len(lines) == 2
        for line in lines:
            await user.socket.send(line)
        message = await user.recv_type("message")
        assert message["data"] == {"content": "Hello", "username": "alice", "user_id": 1, "metadata": {}}


# Configuration.


def test_original_settings():
    """The variables of the original page have its names and its defaults."""
    chosen = Settings.from_env({"JWT_SECRET": SECRET})
    assert (chosen.max_connections_per_user, chosen.ws_heartbeat_interval, chosen.redis_url) == (5, 30, None)
    given = {"JWT_SECRET": SECRET, "MAX_CONNECTIONS_PER_USER": "2", "WS_HEARTBEAT_INTERVAL": "12"}
    chosen = Settings.from_env(given)
    assert (chosen.max_connections_per_user, chosen.ws_heartbeat_interval) == (2, 12)


async def test_connection_limit_setting(serve: Serve):
    """MAX_CONNECTIONS_PER_USER is the limit."""
    server = await serve(max_connections_per_user=1)
    async with alice(server):
        assert await refused(server, f"{PATH}?token={token_for(12345)}") == (4429, "Too Many Connections")


def test_core_commands_belong_to_the_core():
    """No plugin can claim the messages of the core."""
    loaded = registry.load()
    for command in ("join_room", "leave_room", "ping", "refresh_token"):
        assert loaded.owner("command", command) == builtin.name
    assert loaded.owner("command", "send_message") == "chat"


async def test_user_id_and_name_from_claims(serve: Serve):
    """The id is user_id or else sub, a decimal one as a number; the name is the first of its claims, or the id."""
    server = await serve()
    for claims, data in [
        ({"user_id": "7", "username": "alice"}, (7, "alice")),
        ({"user_id": None, "sub": "42", "username": None, "preferred_username": "bob"}, (42, "bob")),
        ({"user_id": None, "sub": "a1b2", "username": None, "name": "Carol"}, ("a1b2", "Carol")),
        ({"user_id": 9, "username": None}, (9, "9")),
    ]:
        async with connect(server, token=token_for(**claims)) as user:
            assert (user.welcome["data"]["user_id"], user.welcome["data"]["username"]) == data
