"""Many clients that connect, crash and are disconnected in every state. None of their state may remain."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import orjson
import pytest
import websockets
from handshakes import request
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
REQUESTS = 12
ROOMS = ("channel:1", "channel:2", "task:1", "project:1", "moody:1", "moody:2")


class UnreliableBroker(MemoryBroker):
    """A broker whose calls take time and fail at random, as calls to Redis can. ``is_reliable`` ends that."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(history_size=50)
        self._random = chance
        self.is_reliable = False

    async def _wait(self) -> None:
        if not self.is_reliable and self._random.random() < 0.7:
            await asyncio.sleep(self._random.random() * 0.01)

    def _fail(self) -> None:
        if not self.is_reliable and self._random.random() < 0.05:
            raise Unavailable("The connection is bad.")

    async def publish(self, room: str, payload: bytes, *args: Any) -> str:
        await self._wait()
        self._fail()
        return await super().publish(room, payload, *args)

    async def subscribe(self, rooms: Any) -> None:
        await self._wait()
        self._fail()
        await super().subscribe(rooms)

    async def history(self, *args: Any, **options: Any) -> History:
        await self._wait()
        self._fail()
        return await super().history(*args, **options)

    async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
        await self._wait()
        self._fail()
        return await super().admit(user_id, connection, limit)

    async def enter(self, room: str, user_id: int | str, username: str, connection: int) -> PresenceChange:
        change = await super().enter(room, user_id, username, connection)
        await self._wait()
        self._fail()
        return change

    async def leave(self, room: str, user_id: int | str, connection: int, *, is_lost: bool = False) -> PresenceChange:
        change = await super().leave(room, user_id, connection, is_lost=is_lost)
        await self._wait()
        self._fail()
        return change

    async def claim(self, key: str, ttl: float) -> bytes | bool:
        await self._wait()
        self._fail()
        return await super().claim(key, ttl)

    async def settle(self, key: str, answer: bytes | None) -> None:
        await super().settle(key, answer)
        await self._wait()
        self._fail()


class Nothing(Schema):
    pass


def faulty_plugin(chance: random.Random) -> Plugin:
    """Return a plugin whose commands and rule raise, hang or take time."""
    plugin = Plugin("bad")

    async def fail_or_wait() -> None:
        outcome = chance.random()
        if outcome < 0.2:
            raise ZeroDivisionError
        if outcome < 0.4:
            await asyncio.Event().wait()
        await asyncio.sleep(chance.random() * 0.02)

    @plugin.command("boom", Nothing, access="anyone")
    async def boom(ctx: Context, data: dict[str, Any]) -> None:
        raise ZeroDivisionError

    @plugin.command("hang", Nothing, access="anyone")
    async def hang(ctx: Context, data: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    @plugin.room("moody")
    async def rule(ctx: Context, entity: str) -> bool:
        await fail_or_wait()
        return chance.random() < 0.7

    return plugin


class RandomClient:
    """A client that sends ``REQUESTS`` random requests without waiting for replies."""

    def __init__(self, server: Server, number: int, seed: int) -> None:
        self._server = server
        self._user = number % USERS
        self._random = random.Random(f"{seed}/{number}")
        self._last_ids: dict[str, str] = {}

    async def run(self) -> None:
        """Connect, send some requests and disconnect, until all requests are sent."""
        left = REQUESTS
        while left > 0:
            if self._random.random() < 0.1:
                await self._abort_handshake()
                left -= 1
                continue
            path = f"{PATH}?token={token_for(self._user, f'user{self._user}')}"
            if self._random.random() < 0.3:
                path += f"&since={self._last_ids.get('', '')}"
            with contextlib.suppress(websockets.ConnectionClosed, ConnectionError):
                async with websockets.connect(url(self._server, path, "ws"), proxy=None, close_timeout=1) as socket:
                    count = self._random.randint(1, left)
                    left -= count
                    await self._send(socket, count)
            left -= 1

    async def _abort_handshake(self) -> None:
        """Disconnect during the handshake."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        path = f"{PATH}?since=&token={token_for(self._user)}"
        writer.write(request(path)[: self._random.choice([50, None])])
        await asyncio.sleep(self._random.random() * 0.02)
        writer.transport.abort()

    async def _send(self, socket: Any, count: int) -> None:
        reader = asyncio.create_task(self._read(socket))
        try:
            for _ in range(count):
                await socket.send(orjson.dumps(self._random_request()).decode())
                if self._random.random() < 0.5:
                    await asyncio.sleep(self._random.random() * 0.02)
            if self._random.random() < 0.6:
                socket.transport.abort()
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self, socket: Any) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for text in socket:
                frame = orjson.loads(text)
                if "timestamp" in frame and isinstance(frame.get("id"), str) and "-" in frame["id"]:
                    self._last_ids[frame.get("room", "")] = frame["id"]

    def _random_request(self) -> dict[str, Any]:
        chance, room = self._random, self._random.choice(ROOMS)
        rooms = chance.choice([["*"], ["channel:*"], []])
        choices: list[tuple[int, dict[str, Any]]] = [
            (6, {"type": "join_room", "room": room}),
            (6, {"type": "join_room", "room": room, "data": {"since": self._last_ids.get(room)}}),
            (4, {"type": "leave_room", "room": room}),
            (4, {"type": "send_message", "room": room, "data": {"content": "x" * chance.randint(1, 2000)}, "id": 1}),
            (2, {"type": "send_message", "room": room, "data": {"content": "x"}, "key": str(chance.randint(1, 20))}),
            (2, {"type": "refresh_token", "data": {"token": token_for(self._user, rooms=rooms)}}),
            (1, {"type": "boom", "key": str(chance.randint(1, 5))}),
            (1, {"type": "hang"}),
            (1, {"type": "ping", "id": 1}),
        ]
        return chance.choices([choice for _, choice in choices], [weight for weight, _ in choices])[0]


async def operate(server: Server, chance: random.Random) -> None:
    """Kick users, disconnect users and publish notifications, until cancelled."""
    gateway = server.gateway
    while True:
        with contextlib.suppress(Unavailable):
            user = chance.randrange(USERS)
            await gateway.signals.kick(chance.choice(ROOMS), user)
            if chance.random() < 0.3:
                await gateway.signals.disconnect(user)
            data = {"title": "For you", "message": "x" * 100}
            await gateway.publishing.publish("notification.new", f"user:{user}", data, None, None)
        await asyncio.sleep(0.005)


async def churn(servers: list[Server], seed: int, clients: int) -> None:
    """Run ``clients`` random clients against ``servers``, together with an operator. Check that they caused errors."""
    operator = asyncio.create_task(operate(servers[0], random.Random(seed)))
    async with asyncio.timeout(60):
        crowd = [RandomClient(servers[number % len(servers)], number, seed) for number in range(clients)]
        await asyncio.gather(*(client.run() for client in crowd))
    operator.cancel()
    await asyncio.wait([operator])
    expected = {"internal", "timeout", "forbidden", "not_joined"}
    for server in servers:
        assert expected <= set(server.gateway.counters.errors), "the clients caused too few errors"


async def remaining_state(server: Server) -> dict[str, Any]:
    """Return what the server and its broker still store about clients, by name."""
    gateway, broker = server.gateway, server.gateway.broker
    kept: dict[str, Any] = {
        "connections": gateway.keepalive.connections,
        "rooms": gateway.delivery.rooms,
        "personal": gateway.delivery.personal,
        "joining": gateway.rooms.subscriptions._joining,
        "deadlines": gateway.commands._deadlines,
        "departures": gateway.tasks._departures,
        "missed": gateway.sessions._missed,
        "listed": await broker.rooms(),
        "leases": [user_id for user_id in range(USERS) if await broker.connections(user_id)],
        "members": [room for room in ROOMS if await broker.members(room)],
    }
    if isinstance(broker, MemoryBroker):
        kept |= {
            "subscribed": broker._subscribed,
            "own leases": broker._leases._leases,
            "presence": broker._presence.rooms,
        }
        kept["announcements"] = broker._presence._open
    if isinstance(broker, RedisBroker):
        leases, presence = broker._leases, broker._presence
        channels = broker._receiver.subscriptions.by_channel
        kept["subscribed"] = [channel for channel in channels if SIGNALS.encode() not in channel]
        kept |= {
            "own leases": leases._active,
            "unreleased": leases._unreleased,
            "presence": presence._rooms,
            "writes": presence._writer.writes,
            "announcements": presence._writer.due,
        }
    return {name: value for name, value in kept.items() if value}


async def wait_until_clean(servers: list[Server], tasks: int) -> None:
    """Wait until no state of clients remains, and at most ``tasks`` tasks."""
    try:
        async with asyncio.timeout(PATIENCE):
            while [left for server in servers if (left := await remaining_state(server))] or len(
                asyncio.all_tasks()
            ) > tasks:
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"remaining: {[await remaining_state(server) for server in servers]}, {asyncio.all_tasks()}")


def settings(chance: random.Random) -> dict[str, Any]:
    """Return settings with limits so low that the clients exceed each of them."""
    return {
        "plugins": [faulty_plugin(chance)],
        "handler_timeout": 0.05,
        "ws_heartbeat_interval": 0.5,
        "ws_max_buffer": 20_000,
        "ws_max_message_size": 20_000,
        "max_connections_per_user": 6,
        "ws_message_rate": 0,
        "announce_max": 5,
    }


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_state_remains(serve: Serve, seed: int):
    """After all clients are gone, no room, lease, subscription or task remains, and the server works."""
    chance = random.Random(seed)
    broker = UnreliableBroker(chance)
    server = await serve(broker=broker, **settings(chance))
    tasks = len(asyncio.all_tasks())
    await churn([server], seed, CLIENTS)
    assert server.gateway.counters.errors["unavailable"]
    broker.is_reliable = True
    await wait_until_clean([server], tasks)
    async with connect(server, 100, "alice") as alice, connect(server, 2, "bob") as bob:
        await bob.join("channel:1")
        await alice.join("channel:1")
        assert (await bob.recv_type("user_joined", sender="alice"))["data"]["user_id"] == 100


async def test_no_state_remains_on_redis(serve: Serve, redis_server: RedisServer, redis_prefix: str):
    """The same for two nodes on one Redis."""
    chance = random.Random(3)
    brokers = [
        RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix, history_size=50)) for _ in range(2)
    ]
    servers = [await serve(broker=broker, **settings(chance)) for broker in brokers]
    for server in servers:  # the first call starts tasks of the broker that stay
        await remaining_state(server)
    tasks = len(asyncio.all_tasks())
    await churn(servers, 3, CLIENTS)
    await wait_until_clean(servers, tasks)
    async with connect(servers[0], 100, "alice") as alice, connect(servers[1], 2, "bob") as bob:
        await bob.join("channel:1")
        await alice.join("channel:1")
        assert (await bob.recv_type("user_joined", sender="alice"))["data"]["user_id"] == 100
