"""Nodes for tests: several in one process, each with its own connections to Redis."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha1

from broker_contract import (
    HISTORY_BY_TYPE,
    HISTORY_BYTES,
    HISTORY_SIZE,
    HISTORY_TTL,
    QUEUE_LIMITS,
    ROOM,
    Harness,
    RecordingListener,
)
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis_servers import RedisServer, wait_for_server
from waiting import PATIENCE

from roomcast.broker.base import Announcements, UserId
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.connection import RedisConnection
from roomcast.broker.redis.followed import FollowedRooms
from roomcast.broker.redis.handshake import open_connection
from roomcast.broker.redis.keys import Keys
from roomcast.broker.redis.leases import Leases
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.presence import Presence
from roomcast.broker.redis.presence_store import PresenceStore
from roomcast.broker.redis.reconnect import OnLost
from roomcast.broker.redis.router import Router
from roomcast.broker.redis.subscriptions import Subscription
from roomcast.broker.redis.topology import Address, create_topology
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable

#: A lease that expires within a test, in seconds.
SHORT_LEASE = 0.4


class Node:
    """The leases and presence of a node. Without ``grace``, joins and leaves are announced at once.

    ``keep`` is how long users' times are stored, in seconds.
    """

    def __init__(self, name: str, router: Router, prefix: str, lease: float, grace: float, keep: float) -> None:
        self.name = name
        self.router = router
        self.leases = Leases(router, Keys(prefix), name, lease, keep, grace)
        followed = FollowedRooms(router, Keys(prefix), RecordingListener(), lease, 5.0, frozenset())
        store = PresenceStore(router, Keys(prefix), name, lease, Announcements(grace), "PUBLISH", followed)
        self.presence = Presence(store)

    async def count(self, user_id: UserId) -> int:
        """Return the number of leases of a user on all nodes."""
        return (await self.leases.status(user_id)).connections

    async def renew(self) -> None:
        """Renew everything, as a node does every third of a lease."""
        await self.leases.renew()
        await self.presence.renew()

    async def restore(self) -> None:
        """Write everything again, as a node does when the server returns."""
        await self.leases.restore()
        await self.presence.restore()

    async def reaches_redis(self) -> bool:
        """Return True if the server answers."""
        try:
            await self.router.call("", "PING")
        except Unavailable:
            return False
        return True

    async def die(self) -> None:
        """Close the connections without releasing anything, as if the process had died."""
        await self.router.close()


@asynccontextmanager
async def router_to(url: str) -> AsyncIterator[Router]:
    """Start a router to one server."""
    target = parse(url)

    async def open_(
        address: Address | None, on_push: Callable[[list[object]], None], on_lost: OnLost
    ) -> RedisConnection:
        assert address is not None
        return await open_connection(address, (None, None), 0, None, on_push, on_lost, (), 3.0)

    router = Router(create_topology(target, 3.0), open_, 2**20)
    try:
        await router.start(5)
        yield router
    finally:
        await router.close()


@asynccontextmanager
async def nodes(
    url: str, prefix: str, count: int, lease: float = 30.0, stem: str = "n", grace: float = 0.0, keep: float = 0.0
) -> AsyncIterator[list[Node]]:
    """Start ``count`` nodes, named ``stem`` and a number, at ``url``. They renew only when a test calls ``renew``."""
    async with AsyncExitStack() as stack:
        yield [
            Node(f"{stem}{number}", await stack.enter_async_context(router_to(url)), prefix, lease, grace, keep)
            for number in range(count)
        ]


async def keys_of(server: RedisServer, prefix: str) -> dict[str, int]:
    """Return the keys under ``prefix`` with a hash tag, and their TTLs in ms, except those about the last minute."""
    keys = [key for key in await server("KEYS", f"{{{prefix}:*") if not key.endswith((":g", ":j", ":v"))]
    return {key: await server("PTTL", key) for key in keys}


async def is_empty(node: Node, room: str) -> bool:
    """Return True if the room has no members according to ``node``."""
    return not await node.presence.members(room)


class Announced:
    """The joins, leaves and statuses that a server announced in the rooms under a prefix, in order."""

    def __init__(self, pubsub: PubSub, prefix: str) -> None:
        self._pubsub = pubsub
        self._prefix = prefix
        self._all: list[tuple[str, UserId, str, str]] = []

    async def everything(self) -> list[tuple[str, UserId, str, str]]:
        """Return the room, the user, "+", "-" or "~", and the status, of everything that was announced until now."""
        await self._pubsub.ping()
        while (message := await self._pubsub.get_message(timeout=PATIENCE)) is not None:
            if message["type"] == "pong":
                return self._all
            if message["type"] == "pmessage" and message["data"][:1] in b"+-~":
                head, _, _ = message["data"].partition(b"\n")
                room = message["channel"].decode().removeprefix(f"{{{self._prefix}:").removesuffix("}")
                user_id, _, *status = json.loads(head.partition(b" ")[2])
                if not (status and status[2]):  # otherwise it is only for the nodes
                    self._all.append((room, user_id, head[:1].decode(), status[1] if status else ""))
        raise AssertionError("Redis does not answer")

    async def all(self) -> list[tuple[str, UserId, bool]]:
        """Return the room, the user, and True for a join, of all joins and leaves until now."""
        found = await self.everything()
        return [(room, user_id, sign == "+") for room, user_id, sign, _ in found if sign != "~"]

    async def joined(self, room: str = ROOM) -> list[UserId]:
        """Return the users whose join was announced in ``room``."""
        return [user_id for where, user_id, has_joined in await self.all() if where == room and has_joined]

    async def left(self, room: str = ROOM) -> list[UserId]:
        """Return the users whose leave was announced in ``room``."""
        return [user_id for where, user_id, has_joined in await self.all() if where == room and not has_joined]

    async def check(self) -> dict[tuple[str, UserId], bool]:
        """Fail if the joins and leaves of a user do not alternate; return the last one of each room and user."""
        last: dict[tuple[str, UserId], bool] = {}
        for room, user_id, has_joined in await self.all():
            assert last.get((room, user_id), False) is not has_joined, self._all
            last[room, user_id] = has_joined
        return last


@asynccontextmanager
async def announcements(server: RedisServer, prefix: str) -> AsyncIterator[Announced]:
    """Record what is announced."""
    async with server.client(decode_responses=False) as client, client.pubsub() as pubsub:
        await pubsub.psubscribe(f"{{{prefix}:*")
        yield Announced(pubsub, prefix)


async def leaves_after_renewal(node: Node, announced: Announced, leaves: int) -> bool:
    """Renew, and return True if at least ``leaves`` users were announced as gone in ROOM."""
    await node.renew()
    return len(await announced.left()) >= leaves


# Whole brokers.

#: Starts another node on the shared server; see the fixture ``node``.
StartNode = Callable[..., Awaitable[Harness]]


def broker_for(url: str, prefix: str, **options: float) -> RedisBroker:
    """Return a broker with the history options of the contract."""
    bounds = {"history_size": HISTORY_SIZE, "history_bytes": HISTORY_BYTES, "history_ttl": HISTORY_TTL}
    types = {"history_by_type": HISTORY_BY_TYPE, "queue_limits": QUEUE_LIMITS}
    chosen = RedisOptions(prefix=prefix, **(types | bounds | options))  # type: ignore[arg-type]
    return RedisBroker(parse(url), chosen)


async def _subscribers(client: Redis, channel: bytes) -> int:
    """Return how many connections are subscribed to a channel, with SUBSCRIBE or SSUBSCRIBE."""
    counts = [await client.execute_command("PUBSUB", command, channel) for command in ("NUMSUB", "SHARDNUMSUB")]
    return sum(int(reply[1]) if isinstance(reply[0], bytes) else int(reply[0][1]) for reply in counts)


async def age_state(server: RedisServer, prefix: str, seconds: float) -> None:
    """Move the stored state ``seconds`` into the past: the TTLs of keys, and the times of events.

    State that running nodes renew stays as it is: leases, members, and rooms with a subscription.
    """
    ms = int(seconds * 1000)
    async with server.client(decode_responses=False) as client:
        async for key in client.scan_iter(match=f"{{{prefix}:*"):
            kind = await client.type(key)
            is_subscribed = key.endswith(b":m") and await _subscribers(client, key[:-2])
            if key.endswith((b":p", b":a")):
                for user, text in (await client.hgetall(key)).items():
                    value = json.loads(text)
                    times = {name: value[name] - ms for name in ("joined", "u", "until_ms") if value.get(name)}
                    await client.hset(key, user, json.dumps(value | times))
            if key.endswith(b":d"):
                for user in await client.zrange(key, 0, -1):
                    await client.zincrby(key, -ms, user)
            if key.endswith(b":l"):
                await _age_times(client, key, ms)
            if kind == b"zset" or key.endswith((b":p", b":a", b":j")) or is_subscribed:
                continue
            if kind == b"stream":
                entries = await client.xrange(key)
                last = (await client.xinfo_stream(key))["last-generated-id"]
                left = await client.pttl(key)
                await client.xtrim(key, maxlen=0)
                await client.execute_command("XSETID", key, "0-0")
                for id, entry in entries:
                    await client.xadd(key, entry | {b"t": int(entry[b"t"]) - ms}, id=id)
                await client.execute_command("XSETID", key, last)
                await client.pexpire(key, left)
            if key.endswith(b":m"):
                await client.hincrby(key, b"x", -ms)
            if (left := await client.pttl(key)) - ms > 0:
                await client.pexpire(key, left - ms)
            else:
                await client.delete(key)


async def _age_times(client: Redis, leases: bytes, ms: int) -> None:
    """Move the times of a user into the past, and the end of the key of a user without leases."""
    names = await client.zrange(leases, 0, -1)
    for name in {b"since", b"seen"}.intersection(names):
        await client.zincrby(leases, ms, name)
    if b"seen" in names:
        await client.pexpireat(leases, await client.pexpiretime(leases) - ms)


def subscription_of(harness: Harness) -> Subscription:
    """Return the subscription of ``ROOM``."""
    assert isinstance(harness.broker, RedisBroker)
    subscription = harness.broker._receiver.subscriptions.get(ROOM)
    assert subscription is not None
    return subscription


def announcement(harness: Harness, head: bytes, payloads: bytes) -> bytes:
    """Return an announcement for ``ROOM`` with the signature that scripts give it."""
    signature = sha1(subscription_of(harness).secret + head, usedforsecurity=False).hexdigest()[:16]
    return b"%b\n%b%b" % (head, payloads, signature.encode())


async def send_raw(server: RedisServer, prefix: str, message: bytes) -> None:
    """Publish an arbitrary message on the channel of ``ROOM``."""
    assert await server("PUBLISH", f"{{{prefix}:{ROOM}}}", message) == 1


async def until_repaired(harness: Harness) -> None:
    """Wait until no gap of ``ROOM`` is being repaired."""

    async def is_not_pending() -> bool:
        return subscription_of(harness).pending is None

    await wait_for_server(is_not_pending, "the gap is repaired")


async def until_connected(server: RedisServer, *nodes: Harness) -> None:
    """Wait until ``nodes`` use ``server`` as it is now for all keys, and have compared their rooms with it."""
    run_id = (await server.info("server"))["run_id"]
    current = (run_id[:8] + (await server.info("replication"))["master_replid"][:8]).encode()

    async def uses_it(broker: RedisBroker) -> bool:
        subscriptions = broker._receiver.subscriptions
        name = broker._router.topology.name(b"")
        queue = broker._router._queues[name]
        channels = [*subscriptions.by_channel, subscriptions._echo_channel]
        connections = {subscriptions._connections.get(channel) for channel in channels}
        generations = {one.generation for one in (queue.reconnecting.connection, *connections) if one is not None}
        if generations != {current}:
            return False
        await broker.ping()  # replies come in order: the states of all rooms were read before
        return not broker._receiver.repair._tasks and not broker._receiver._reporter._tasks

    for node in nodes:
        broker = node.broker
        assert isinstance(broker, RedisBroker)

        async def is_ready(broker: RedisBroker = broker) -> bool:
            try:
                return await uses_it(broker)
            except (Unavailable, KeyError):
                return False

        await wait_for_server(is_ready, f"a node is connected to {server.address}")


def end_grace(*nodes: Harness) -> None:
    """Let the grace period of ``nodes`` be over, as if they had been connected for a while."""
    for node in nodes:
        assert isinstance(node.broker, RedisBroker)
        since = node.broker._receiver._reporter._used_since
        since.update(dict.fromkeys(since, float("-inf")))


@asynccontextmanager
async def two_nodes(url: str) -> AsyncIterator[tuple[Harness, Harness]]:
    """Start two nodes with a history that is long enough for all events of a test."""
    prefix = f"forged-{secrets.token_hex(5)}"
    both = [Harness(broker_for(url, prefix, history_size=500), asyncio.sleep) for _ in range(2)]
    for harness in both:
        await harness.broker.start(harness.listener)
    try:
        yield both[0], both[1]
    finally:
        for harness in both:
            await harness.broker.close()


def redis_broker(harness: Harness) -> RedisBroker:
    """Return the broker of ``harness``."""
    assert isinstance(harness.broker, RedisBroker)
    return harness.broker


async def send(broker: RedisBroker, channel: str, message: bytes) -> None:
    """Publish ``message`` on a channel of rooms, as any program can."""
    command = "SPUBLISH" if broker._router.topology.is_cluster else "PUBLISH"
    await broker._router.call(channel, command, channel, message)
