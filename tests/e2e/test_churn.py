"""A crowd that comes, goes, crashes and is thrown out in every state it can be in; nothing of it may stay behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import orjson
import pytest
import websockets
from marshmallow import Schema
from redis_servers import RedisServer
from serving import PATH, PATIENCE, Serve, connect, token_for, url

from roomcast import Context, Plugin
from roomcast.broker.base import History, PresenceChange
from roomcast.broker.memory import MemoryBroker
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.keys import SIGNALS
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable
from roomcast.web.server import Server

CLIENTS = 100
USERS = 15
STEPS = 12
ROOMS = ("channel:1", "channel:2", "task:1", "project:1", "moody:1", "moody:2")


class Sluggish(MemoryBroker):
    """A broker at the end of a bad line: everything takes a while, and some of it fails, as it may on Redis."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__(history_size=50)
        self._draw = draw
        self.calm = False

    async def _wait(self) -> None:
        if not self.calm and self._draw.random() < 0.7:
            await asyncio.sleep(self._draw.random() * 0.01)

    def _fail(self) -> None:
        if not self.calm and self._draw.random() < 0.05:
            raise Unavailable("The line is bad.")

    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        await self._wait()
        self._fail()
        return await super().publish(room, payload, key)

    async def subscribe(self, rooms: Any) -> None:
        await self._wait()
        self._fail()
        await super().subscribe(rooms)

    async def history(self, room: str, since: str | None = None, limit: int | None = None) -> History:
        await self._wait()
        self._fail()
        return await super().history(room, since, limit)

    async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
        await self._wait()
        self._fail()
        return await super().admit(user_id, connection, limit)

    async def enter(self, room: str, user_id: int | str, username: str, connection: int) -> PresenceChange:
        change = await super().enter(room, user_id, username, connection)
        await self._wait()
        self._fail()
        return change

    async def leave(self, room: str, user_id: int | str, connection: int) -> PresenceChange:
        change = await super().leave(room, user_id, connection)
        await self._wait()
        self._fail()
        return change

    async def claim(self, key: str, lapse: float) -> bytes | bool:
        await self._wait()
        self._fail()
        return await super().claim(key, lapse)

    async def settle(self, key: str, answer: bytes | None) -> None:
        await super().settle(key, answer)
        await self._wait()
        self._fail()


class Nothing(Schema):
    pass


def bad_plugin(draw: random.Random) -> Plugin:
    """Commands and a rule that raise, hang or take their time."""
    plugin = Plugin("bad")

    async def misbehave() -> None:
        mood = draw.random()
        if mood < 0.2:
            raise ZeroDivisionError
        if mood < 0.4:
            await asyncio.Event().wait()
        await asyncio.sleep(draw.random() * 0.02)

    @plugin.command("boom", Nothing)
    async def boom(ctx: Context, data: dict[str, Any]) -> None:
        raise ZeroDivisionError

    @plugin.command("hang", Nothing)
    async def hang(ctx: Context, data: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    @plugin.room("moody")
    async def rule(ctx: Context, entity: str) -> bool:
        await misbehave()
        return draw.random() < 0.7

    return plugin


class Visitor:
    """One client that does ``STEPS`` things at random, and does not wait for the answers."""

    def __init__(self, server: Server, number: int, seed: int) -> None:
        self._server = server
        self._user = number % USERS
        self._draw = random.Random(f"{seed}/{number}")
        self._seen: dict[str, str] = {}

    async def come_and_go(self) -> None:
        """Connect again and again, until all is done."""
        left = STEPS
        while left > 0:
            if self._draw.random() < 0.1:
                await self._give_up_early()
                left -= 1
                continue
            path = f"{PATH}?token={token_for(self._user, f'user{self._user}')}"
            if self._draw.random() < 0.3:
                path += f"&since={self._seen.get('', '')}"
            with contextlib.suppress(websockets.ConnectionClosed, ConnectionError):
                async with websockets.connect(url(self._server, path, "ws"), proxy=None, close_timeout=1) as socket:
                    steps = self._draw.randint(1, left)
                    left -= steps
                    await self._visit(socket, steps)
            left -= 1

    async def _give_up_early(self) -> None:
        """Go in the midst of the handshake."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        request = (
            f"GET {PATH}?since=&token={token_for(self._user)} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        writer.write(request.encode()[: self._draw.choice([50, None])])
        await asyncio.sleep(self._draw.random() * 0.02)
        writer.transport.abort()

    async def _visit(self, socket: Any, steps: int) -> None:
        reader = asyncio.create_task(self._read(socket))
        try:
            for _ in range(steps):
                await socket.send(orjson.dumps(self._something()).decode())
                if self._draw.random() < 0.5:
                    await asyncio.sleep(self._draw.random() * 0.02)
            if self._draw.random() < 0.6:
                socket.transport.abort()
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self, socket: Any) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for text in socket:
                frame = orjson.loads(text)
                if "timestamp" in frame and isinstance(frame.get("id"), str) and "-" in frame["id"]:
                    self._seen[frame.get("room", "")] = frame["id"]

    def _something(self) -> dict[str, Any]:
        draw, room = self._draw, self._draw.choice(ROOMS)
        rooms = draw.choice([["*"], ["channel:*"], []])
        choices: list[tuple[int, dict[str, Any]]] = [
            (6, {"type": "join_room", "room": room}),
            (6, {"type": "join_room", "room": room, "data": {"since": self._seen.get(room)}}),
            (4, {"type": "leave_room", "room": room}),
            (4, {"type": "send_message", "room": room, "data": {"content": "x" * draw.randint(1, 2000)}, "id": 1}),
            (2, {"type": "send_message", "room": room, "data": {"content": "x"}, "key": str(draw.randint(1, 20))}),
            (2, {"type": "refresh_token", "data": {"token": token_for(self._user, rooms=rooms)}}),
            (1, {"type": "boom", "key": str(draw.randint(1, 5))}),
            (1, {"type": "hang"}),
            (1, {"type": "ping", "id": 1}),
        ]
        return draw.choices([choice for _, choice in choices], [weight for weight, _ in choices])[0]


async def operate(server: Server, draw: random.Random) -> None:
    """Kick, disconnect and publish, as an operator and a backend do, until cancelled."""
    gateway = server.gateway
    while True:
        with contextlib.suppress(Unavailable):
            user = draw.randrange(USERS)
            await gateway.signals.kick(draw.choice(ROOMS), user)
            if draw.random() < 0.3:
                await gateway.signals.disconnect(user)
            data = {"title": "For you", "message": "x" * 100}
            await gateway.publishing.publish("notification.new", f"user:{user}", data, None, None)
        await asyncio.sleep(0.005)


async def churn(servers: list[Server], seed: int, clients: int) -> None:
    """Let a crowd come to ``servers``, do its worst and go."""
    operator = asyncio.create_task(operate(servers[0], random.Random(seed)))
    async with asyncio.timeout(60):
        visitors = [Visitor(servers[number % len(servers)], number, seed) for number in range(clients)]
        await asyncio.gather(*(visitor.come_and_go() for visitor in visitors))
    operator.cancel()
    await asyncio.wait([operator])
    met = {"internal", "timeout", "forbidden", "not_joined"}
    for server in servers:
        assert met <= set(server.gateway.counters.errors), "the crowd was too well behaved to prove anything"


async def left_behind(server: Server) -> dict[str, Any]:
    """What the server and its broker still know of anybody, by name."""
    gateway, broker = server.gateway, server.gateway.broker
    kept: dict[str, Any] = {
        "connections": gateway.keepalive.connections,
        "rooms": gateway.delivery.rooms,
        "personal": gateway.delivery.personal,
        "joining": gateway.rooms.subscriptions._joining,
        "deadlines": gateway.commands._deadlines,
        "beside": gateway.tasks._departures,
        "missed": gateway.sessions._missed,
        "listed": await broker.rooms(),
        "leases": [user_id for user_id in range(USERS) if await broker.connections(user_id)],
        "members": [room for room in ROOMS if await broker.members(room)],
    }
    if isinstance(broker, MemoryBroker):
        kept |= {"subscribed": broker._subscribed, "own leases": broker._leases, "presence": broker._presence}
    if isinstance(broker, RedisBroker):
        leases, presence = broker._leases, broker._presence
        channels = broker._receiver.subscriptions.by_channel
        kept["subscribed"] = [channel for channel in channels if SIGNALS.encode() not in channel]
        kept |= {
            "own leases": leases._active,
            "unreleased": leases._unreleased,
            "presence": presence._rooms,
            "writes": presence._writer.writes,
        }
    return {name: value for name, value in kept.items() if value}


async def nothing_is_left(servers: list[Server], tasks: int) -> None:
    """Wait until nothing is left behind, and no more than ``tasks`` tasks."""
    try:
        async with asyncio.timeout(PATIENCE):
            while [left for server in servers if (left := await left_behind(server))] or len(
                asyncio.all_tasks()
            ) > tasks:
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"left behind: {[await left_behind(server) for server in servers]}, {asyncio.all_tasks()}")


def settings(draw: random.Random) -> dict[str, Any]:
    """What lets a crowd meet every limit."""
    return {
        "plugins": [bad_plugin(draw)],
        "handler_timeout": 0.05,
        "ws_heartbeat_interval": 0.5,
        "ws_max_buffer": 20_000,
        "ws_max_message_size": 20_000,
        "max_connections_per_user": 6,
        "ws_message_rate": 0,
        "announce_max": 5,
    }


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_crowd_leaves_nothing_behind(serve: Serve, seed: int):
    """After all have gone the node knows nobody: no room, no lease, no subscription, no task; and serves on."""
    draw = random.Random(seed)
    broker = Sluggish(draw)
    server = await serve(broker=broker, **settings(draw))
    tasks = len(asyncio.all_tasks())
    await churn([server], seed, CLIENTS)
    assert server.gateway.counters.errors["unavailable"]
    broker.calm = True
    await nothing_is_left([server], tasks)
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await bob.join("channel:1")
        await alice.join("channel:1")
        assert (await bob.recv_type("user_joined", sender="alice"))["data"]["user_id"] == 1


async def test_a_crowd_leaves_nothing_behind_on_redis(serve: Serve, redis_server: RedisServer, redis_prefix: str):
    """The same of two nodes that share what they know."""
    draw = random.Random(3)
    brokers = [
        RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix, history_size=50)) for _ in range(2)
    ]
    servers = [await serve(broker=broker, **settings(draw)) for broker in brokers]
    for server in servers:  # what a broker begins with its first question goes on
        await left_behind(server)
    tasks = len(asyncio.all_tasks())
    await churn(servers, 3, CLIENTS)
    await nothing_is_left(servers, tasks)
    async with connect(servers[0]) as alice, connect(servers[1], 2, "bob") as bob:
        await bob.join("channel:1")
        await alice.join("channel:1")
        assert (await bob.recv_type("user_joined", sender="alice"))["data"]["user_id"] == 1
