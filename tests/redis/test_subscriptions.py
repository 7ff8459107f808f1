"""Subscriptions: a room that cannot be subscribed does not affect others and leaves nothing behind."""

from __future__ import annotations

import asyncio

from broker_contract import OTHER, ROOM, RecordingListener
from redis.crc import key_slot
from redis_groups import Cluster
from redis_servers import FreshRedis, RedisServer, wait_for_server

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable


async def subscribers(server: RedisServer, prefix: str, room: str) -> int:
    """Return how many connections are subscribed to ``room``."""
    _, number = await server("PUBSUB", "NUMSUB", f"{{{prefix}:{room}}}")
    return int(number)


async def test_a_room_with_invalid_keys(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """Subscribing fails if another application overwrote the room's keys; another room is not affected."""
    server, listener = await fresh_redis(), RecordingListener()
    broker = RedisBroker(parse(server.url), RedisOptions(prefix=redis_prefix))
    await broker.start(listener)
    try:
        await server("SET", f"{{{redis_prefix}:{ROOM}}}:m", "something else", "PX", 600_000)
        invalid, valid = await asyncio.gather(
            broker.subscribe([ROOM]), broker.subscribe([OTHER]), return_exceptions=True
        )
        assert isinstance(invalid, Unavailable)
        assert valid is None
        id = await broker.publish(OTHER, b"x")
        await listener.until(lambda: listener.events == [(OTHER, id, b"x")])

        async def is_left() -> bool:
            return await subscribers(server, redis_prefix, ROOM) == 0

        await wait_for_server(is_left, "the invalid room is unsubscribed")
        await server("DEL", f"{{{redis_prefix}:{ROOM}}}:m")
        await broker.subscribe([ROOM])
    finally:
        await broker.close()


async def test_keys_become_invalid_while_subscribed(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """After a lost connection the other rooms are repaired, even if the keys of one room are invalid."""
    server, listener = await fresh_redis(), RecordingListener()
    broker = RedisBroker(parse(server.url), RedisOptions(prefix=redis_prefix))
    await broker.start(listener)
    other = RedisBroker(parse(server.url), RedisOptions(prefix=redis_prefix))
    await other.start(RecordingListener())
    try:
        await broker.subscribe([ROOM, OTHER])
        ids = [await other.publish(room, b"1") for room in (ROOM, OTHER)]
        await listener.until(lambda: len(listener.events) == 2)
        await server("SET", f"{{{redis_prefix}:{ROOM}}}:m", "something else", "PX", 600_000)
        await server("CLIENT", "KILL", "TYPE", "pubsub")
        # Published while the node is not subscribed.
        ids.append(await other.publish(OTHER, b"2"))
        await listener.until(lambda: len(listener.events) == 3)
        assert [id for _, id, _ in listener.events] == ids
        assert listener.resyncs == []
    finally:
        await other.close()
        await broker.close()


async def test_ping_after_a_slot_moved(redis_cluster: Cluster, redis_prefix: str) -> None:
    """A ping succeeds again after the slot of the echo channel moved to another server."""
    broker = RedisBroker(parse(redis_cluster.url), RedisOptions(prefix=redis_prefix))
    await broker.start(RecordingListener())
    channel = broker._receiver.subscriptions._echo_channel.decode()
    slot = key_slot(channel.encode())
    before = await redis_cluster.primary_of(channel)
    primaries = [one for one in redis_cluster.servers if (await one.info("replication"))["role"] == "master"]
    after = next(one for one in primaries if one is not before)

    async def move(to: RedisServer) -> None:
        id = await to("CLUSTER", "MYID")
        for one in (to, *(one for one in primaries if one is not to)):
            await one("CLUSTER", "SETSLOT", slot, "NODE", id)

        async def has_moved() -> bool:
            return await redis_cluster.primary_of(channel) is to

        await wait_for_server(has_moved, "the slot has moved")

    try:
        await broker.ping()
        await move(after)
        name = ("127.0.0.1", after.port)

        async def is_known() -> bool:
            broker._router.refresh_soon()
            return broker._router.topology.name(channel.encode()) == name

        await wait_for_server(is_known, "the node has read the new slots")
        await before("CLIENT", "KILL", "TYPE", "pubsub")

        async def can_ping() -> bool:
            try:
                async with asyncio.timeout(1):
                    await broker.ping()
            except (Unavailable, TimeoutError):
                return False
            return True

        await wait_for_server(can_ping, "a ping succeeds")
    finally:
        await broker.close()
        await move(before)


async def test_leaving_and_joining_in_one_loop_iteration(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """After any leaves and joins the room is subscribed in the end, and unsubscribed when it is left."""
    server, listener = await fresh_redis(), RecordingListener()
    broker = RedisBroker(parse(server.url), RedisOptions(prefix=redis_prefix))
    await broker.start(listener)
    try:
        for _ in range(3):
            await broker.subscribe([ROOM])
            await broker.unsubscribe([ROOM])
        await broker.subscribe([ROOM])
        id = await broker.publish(ROOM, b"x")
        await listener.until(lambda: listener.events == [(ROOM, id, b"x")])
        await broker.unsubscribe([ROOM])

        async def is_left() -> bool:
            return await subscribers(server, redis_prefix, ROOM) == 0

        await wait_for_server(is_left, "the room is unsubscribed")
    finally:
        await broker.close()
