"""Several nodes on one Redis: clients and backends may use any of them, with the same results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest
from handshakes import request
from redis_servers import FreshRedis, RedisServer, wait_for_server
from serving import PATH, call, connect, refused, running, token_for
from tcp_proxy import Proxy
from user_ids import USER_IDS
from wire import Peer

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server

Nodes = Callable[..., Awaitable[list[Server]]]
ROOM = "channel:1"


@pytest.fixture
async def nodes(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Nodes]:
    """``await nodes(3)`` starts three servers on the shared Redis."""
    async with AsyncExitStack() as stack:

        async def start(count: int, **settings: Any) -> list[Server]:
            brokers = [RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix)) for _ in range(count)]
            return [await stack.enter_async_context(running(broker=broker, **settings)) for broker in brokers]

        yield start


async def test_a_message_reaches_other_nodes(nodes: Nodes) -> None:
    """A message is delivered to all members of the room on other nodes, and to no other client."""
    a, b = await nodes(2)
    async with connect(a, 1, "alice") as alice, connect(b, 2, "bob") as bob, connect(b, 3, "carol") as carol:
        await alice.join(ROOM)
        await bob.join(ROOM)
        await carol.join("channel:2")
        await alice.send("send_message", ROOM, {"content": "Hello"}, id="1")
        sent = await alice.recv_type("sent")
        received = await bob.recv_type("message")
        assert received["data"]["content"] == "Hello"
        assert received["id"] == sent["data"]["event_id"]
        assert [frame for frame in await carol.settled() if frame["type"] == "message"] == []


async def test_a_message_can_be_edited_at_once(nodes: Nodes) -> None:
    """A message that was acknowledged is in the history of its node."""
    (a,) = await nodes(1)
    async with connect(a) as alice:
        await alice.join(ROOM)
        for i in range(20):
            await alice.send("send_message", ROOM, {"content": str(i)}, id=i)
            sent = await alice.recv_type("sent", id=i)
            edit = {"message_id": sent["data"]["event_id"], "content": "better"}
            await alice.send("edit_message", ROOM, edit, id=f"e{i}")
            assert (await alice.recv_type("sent", id=f"e{i}"))["data"]["event_id"]


async def test_resume_on_another_node(nodes: Nodes) -> None:
    """A client that reconnects to another node receives the missed events in order, then live events, each once."""
    a, b, c = await nodes(3)
    async with connect(a, 1, "alice") as alice:
        await alice.join(ROOM)
        async with connect(b, 2, "bob") as bob:
            await bob.join(ROOM)
            await alice.send("send_message", ROOM, {"content": "0"})
            seen = (await bob.recv_type("message"))["id"]
        for i in range(1, 6):
            await alice.send("send_message", ROOM, {"content": str(i)})
        await alice.settled()
        async with connect(c, 2, "bob") as bob:
            joined = await bob.join(ROOM, since=seen)
            assert joined["data"]["recovered"] is True
            await alice.send("send_message", ROOM, {"content": "6"})
            contents = [(await bob.recv_type("message"))["data"]["content"] for _ in range(6)]
            assert contents == ["1", "2", "3", "4", "5", "6"]


async def test_joins_and_leaves_are_announced_once(nodes: Nodes) -> None:
    """A user with tabs on two nodes joins once and leaves once, and is listed once by every node."""
    a, b, c = await nodes(3)
    async with connect(c, 9, "watcher") as watcher:
        await watcher.join(ROOM)
        await watcher.recv_type("user_joined")
        async with connect(a, 1, "alice") as one:
            await one.join(ROOM)
            assert (await watcher.recv_type("user_joined"))["data"]["username"] == "alice"
            async with connect(b, 1, "alice") as two:
                await two.join(ROOM)
                for node in (a, b, c):
                    _, body = await call(node, "GET", f"/api/v1/rooms/{ROOM}/members")
                    assert [member["username"] for member in body["members"]] == ["watcher", "alice"]
            await two.socket.wait_closed()
        left = await watcher.recv_type("user_left")
        assert left["data"]["username"] == "alice"
        changes = [f for f in [*watcher.frames, *await watcher.settled()] if f["type"] in ("user_joined", "user_left")]
        assert [(f["type"], f["data"]["username"]) for f in changes] == [
            ("user_joined", "watcher"),
            ("user_joined", "alice"),
            ("user_left", "alice"),
        ]


async def test_a_restart_of_a_node_announces_who_does_not_return(redis_server: RedisServer, redis_prefix: str) -> None:
    """Of the users of a node that stops, those who return to another one are not announced, the others are once."""
    async with AsyncExitStack() as stack:
        brokers = [RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix, lease=3.0)) for _ in range(2)]
        a, b = [await stack.enter_async_context(running(broker=broker, presence_grace=5.0)) for broker in brokers]
        watcher = await stack.enter_async_context(connect(b, 99, "watcher"))
        await watcher.join(ROOM)
        for number in range(1, 11):
            user = await stack.enter_async_context(connect(a, number))
            await user.join(ROOM)
        await a.stop()
        for number in range(1, 10):
            user = await stack.enter_async_context(connect(b, number))
            await user.join(ROOM)
        assert (await watcher.recv_type("user_left"))["data"]["user_id"] == 10
        frames = [*watcher.frames, *await watcher.settled()]
        changes = [(frame["type"], frame["data"]["user_id"]) for frame in frames if frame["type"].startswith("user_")]
        assert changes == [("user_joined", number) for number in (99, *range(1, 11))] + [("user_left", 10)]


async def test_the_connection_limit_counts_all_nodes(nodes: Nodes) -> None:
    """The limit counts a user's connections on all nodes, and a slot is free when a connection ends."""
    three = await nodes(3, max_connections_per_user=2)
    path = f"/api/v1/ws/connect?token={token_for(7)}"
    async with connect(three[0], 7), AsyncExitStack() as stack:
        await stack.enter_async_context(connect(three[1], 7))
        assert await refused(three[2], path) == (4429, "Too Many Connections")
        assert await refused(three[0], path) == (4429, "Too Many Connections")
    async with asyncio.timeout(10):
        while True:
            try:
                async with connect(three[2], 7):
                    return
            except KeyError:
                continue


async def test_dead_connections_on_other_nodes_make_room(nodes: Nodes) -> None:
    """Connections that do not answer are dropped on every node; live ones stay, and then the next one is refused."""
    a, b, c = await nodes(3, max_connections_per_user=3)
    dead = [await Peer.connect(("127.0.0.1", node.port)) for node in (a, b)]
    for peer in dead:
        await peer.send(request(f"{PATH}?token={token_for(7)}"))
        await peer.head()
        assert (await peer.event())["type"] == "connected"
    async with connect(b, 7) as alive, connect(c, 7), connect(a, 7):
        assert await refused(c, f"{PATH}?token={token_for(7)}") == (4429, "Too Many Connections")
        assert await alive.settled() == []
        for peer in dead:
            await peer.wait_until_closed()
            peer.close()


async def test_any_user_id_works_on_all_nodes(nodes: Nodes) -> None:
    """Notifications, kicks, disconnects and revocations from another node find the user, whatever the id."""
    a, b = await nodes(2, max_connections_per_user=1)
    for user_id in USER_IDS:
        quoted, token = quote(user_id, safe=""), token_for(user_id)
        async with connect(a, token=token) as user:
            assert await refused(b, f"{PATH}?token={token}") == (4429, "Too Many Connections")
            await user.join(ROOM)
            notice = {"type": "notification.new", "room": f"user:{quoted}", "data": {"title": "A", "message": "B"}}
            assert (await call(b, "POST", "/api/v1/events", notice))[0] == 200
            await user.recv_type("notification.new")
            assert (await call(b, "GET", f"/api/v1/rooms/{ROOM}/members"))[1]["members"][0]["user_id"] == user_id
            assert (await call(b, "DELETE", f"/api/v1/rooms/{ROOM}/members/{quoted}"))[1]["connections"] == 1
            await user.recv_type("left_room")
            assert (await call(b, "DELETE", f"/api/v1/users/{quoted}/tokens"))[0] == 200
            assert await user.closed() == (4401, "Authentication Failed")
        assert await refused(b, f"{PATH}?token={token}") == (4401, "Authentication Failed")


async def test_kick_and_disconnect_reach_every_node(nodes: Nodes) -> None:
    """A kick or disconnect works on the user's node, and returns the number of connections on all nodes."""
    a, b = await nodes(2)
    async with connect(b, 2, "bob") as bob, connect(a, 2, "bob") as tab:
        await bob.join(ROOM)
        status, _ = await call(a, "DELETE", f"/api/v1/rooms/{ROOM}/members/2")
        assert status < 300
        await bob.recv_type("left_room", room=ROOM)
        counted = await call(a, "DELETE", "/api/v1/users/2/connections")
        assert counted == (200, {"user_id": 2, "connections": 2})
        for one in (bob, tab):
            assert await one.closed() == (4410, "Disconnected")


async def test_a_revocation_reaches_every_node(nodes: Nodes) -> None:
    """A token revoked on one node is closed and refused on all nodes, including those started later."""
    a, b = await nodes(2)
    stolen, good = token_for(2, "bob", jti="stolen"), token_for(2, "bob", jti="good")
    closed = (4401, "Authentication Failed")
    async with connect(b, token=stolen) as thief, connect(b, token=good) as bob, connect(a, 3, "carol") as carol:
        assert (await call(a, "DELETE", "/api/v1/users/2/tokens/stolen"))[0] == 200
        assert await thief.closed() == closed
        (c,) = await nodes(1)
        for node in (a, b, c):
            assert await refused(node, f"/api/v1/ws/connect?token={stolen}") == closed
        assert await bob.settled() == []
        assert (await call(c, "DELETE", "/api/v1/users/2/tokens"))[0] == 200
        assert await bob.closed() == closed
        for node in (a, b, c):
            assert await refused(node, f"/api/v1/ws/connect?token={good}") == closed
        assert await carol.settled() == []


async def test_notifications_reach_all_connections_of_a_user(nodes: Nodes) -> None:
    """An event in a user's personal room reaches all connections of the user, on any node."""
    a, b, c = await nodes(3)
    async with connect(b, 2, "bob") as one, connect(c, 2, "bob") as two:
        event = {"type": "notification.new", "room": "user:2", "data": {"title": "Hi", "message": "There"}}
        status, _ = await call(a, "POST", "/api/v1/events", event)
        assert status < 300
        for client in (one, two):
            assert (await client.recv_type("notification.new"))["data"]["title"] == "Hi"


async def test_an_idempotency_key_counts_on_all_nodes(nodes: Nodes) -> None:
    """The same request to two nodes is carried out once, with the same answer."""
    a, b = await nodes(2)
    event = {"type": "message", "room": ROOM, "data": {"content": "once", "user_id": 1, "username": "alice"}}
    answers = [
        await call(node, "POST", "/api/v1/events", event, headers={"Idempotency-Key": "k"}) for node in (a, b, a)
    ]
    assert answers[0] == answers[1] == answers[2]
    _, body = await call(b, "GET", f"/api/v1/rooms/{ROOM}/history")
    assert len(body["events"]) == 1


async def test_a_ticket_is_valid_once_on_any_node(nodes: Nodes) -> None:
    """A ticket of one node opens one connection on another."""
    a, b = await nodes(2)
    headers = {"Authorization": f"Bearer {token_for(1)}"}
    _, body = await call(a, "POST", "/api/v1/tickets", key=None, headers=headers)
    path = f"/api/v1/ws/connect?ticket={body['ticket']}"
    async with connect(b, path=path) as alice:
        assert alice.welcome["type"] == "connected"
        assert (await refused(a, path))[0] == 4401


async def test_rooms_and_readiness(nodes: Nodes) -> None:
    """Every node lists the rooms of all nodes and is ready."""
    a, b = await nodes(2)
    async with connect(a, 1, "alice") as alice:
        await alice.join(ROOM)
        _, body = await call(b, "GET", "/api/v1/rooms")
        assert [room["room"] for room in body["rooms"]] == [ROOM]
        assert (await call(b, "GET", "/health/ready"))[0] == 200


async def test_a_revocation_reaches_a_node_that_missed_it(fresh_redis: FreshRedis) -> None:
    """A node that was cut off for longer than signals are stored checks its clients' tokens; the others stay."""
    redis = await fresh_redis()
    async with Proxy("127.0.0.1", redis.port) as proxy:
        whole = RedisBroker(parse(redis.url), RedisOptions(history_size=1))
        cut_off_broker = RedisBroker(parse(f"redis://127.0.0.1:{proxy.port}"), RedisOptions(history_size=1))
        async with (
            running(broker=whole) as a,
            running(broker=cut_off_broker) as b,
            connect(b, token=token_for(jti="stolen")) as thief,
            connect(b, token=token_for(jti="2")) as alice,
        ):
            await proxy.stop()
            await call(a, "DELETE", "/api/v1/users/1/tokens/stolen")
            for _ in range(250):
                await a.gateway.signals.disconnect("nobody")
            await proxy.start()
            assert await thief.closed() == (4401, "Authentication Failed")
            assert await alice.settled() == []


@pytest.mark.parametrize("is_lossy", [False, True])
async def test_a_message_from_before_a_restart_can_be_edited(fresh_redis: FreshRedis, is_lossy: bool) -> None:
    """A message that survived a restart of Redis can be edited and deleted, even if later ones were lost."""
    redis = await fresh_redis(appendonly="yes", appendfsync="always")
    async with running(broker=RedisBroker(parse(redis.url), RedisOptions(wait=20))) as node, connect(node) as alice:
        await alice.join(ROOM)

        async def send(type: str, data: dict[str, Any], id: str) -> dict[str, Any]:
            await alice.send(type, ROOM, data, id=id)
            return await alice.recv_type("sent", id=id)

        survivor = (await send("send_message", {"content": "first"}, "1"))["data"]["event_id"]
        copy = await redis.copy_data()
        lost = (await send("send_message", {"content": "second"}, "2"))["data"]["event_id"]
        redis.kill()
        if is_lossy:
            redis.lose_data(copy)
        await redis.start()
        if is_lossy:
            await alice.recv_type("resync")

        async def is_ready() -> bool:
            return (await call(node, "GET", "/health/ready"))[0] == 200

        await wait_for_server(is_ready, "the node uses Redis again")
        await send("edit_message", {"message_id": survivor, "content": "better"}, "3")
        edits = [frame for frame in alice.frames if frame["type"] == "message.edited"]  # it may precede the reply
        edit = edits[0] if edits else await alice.recv_type("message.edited")
        assert edit["data"]["message_id"] == survivor
        await send("delete_message", {"message_id": survivor}, "4")
        if is_lossy:
            await alice.send("edit_message", ROOM, {"message_id": lost, "content": "gone"}, id="5")
            assert (await alice.recv_type("error", id="5"))["data"]["code"] == "not_found"
