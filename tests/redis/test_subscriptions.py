"""Which rooms a node hears of: one that cannot be had harms no other, and nothing stays behind of it."""

from __future__ import annotations

import asyncio

from broker_contract import OTHER, ROOM, RecordingListener
from redis.crc import key_slot
from redis_servers import Cluster, FreshRedis, RedisServer, until

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable


async def subscribers(server: RedisServer, prefix: str, room: str) -> int:
    """How many connections hear of ``room``."""
    _, number = await server("PUBSUB", "NUMSUB", f"{{{prefix}:{room}}}")
    return int(number)


async def test_a_room_whose_keys_are_something_else(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """Who joins a room that another application has spoilt is told so; who joins another at that moment, gets in."""
    server, listener = await fresh_redis(), RecordingListener()
    broker = RedisBroker(parse(server.url), RedisOptions(prefix=redis_prefix))
    await broker.start(listener)
    try:
        await server("SET", f"{{{redis_prefix}:{ROOM}}}:m", "something else", "PX", 600_000)
        spoilt, good = await asyncio.gather(broker.subscribe([ROOM]), broker.subscribe([OTHER]), return_exceptions=True)
        assert isinstance(spoilt, Unavailable)
        assert good is None
        id = await broker.publish(OTHER, b"x")
        await listener.until(lambda: listener.events == [(OTHER, id, b"x")])

        async def is_left() -> bool:
            return await subscribers(server, redis_prefix, ROOM) == 0

        await until(is_left, "the spoilt room is left again")
        await server("DEL", f"{{{redis_prefix}:{ROOM}}}:m")
        await broker.subscribe([ROOM])
    finally:
        await broker.close()


async def test_a_room_that_is_spoilt_while_it_is_subscribed(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """After a lost connection rooms catch up, whatever has become of another's keys."""
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
        # Comes while nobody hears it.
        ids.append(await other.publish(OTHER, b"2"))
        await listener.until(lambda: len(listener.events) == 3)
        assert [id for _, id, _ in listener.events] == ids
        assert listener.resyncs == []
    finally:
        await other.close()
        await broker.close()


async def test_the_proof_of_the_way_after_a_slot_has_moved(redis_cluster: Cluster, redis_prefix: str) -> None:
    """A node finds its way through the Cluster whole also when the server that proved it until then is left."""
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

        await until(has_moved, "the slot has moved")

    try:
        await broker.ping()
        await move(after)
        name = ("127.0.0.1", after.port)

        async def is_known() -> bool:
            broker._router.refresh_soon()
            return broker._router.topology.name(channel.encode()) == name

        await until(is_known, "the node knows")
        await before("CLIENT", "KILL", "TYPE", "pubsub")

        async def is_whole() -> bool:
            try:
                async with asyncio.timeout(1):
                    await broker.ping()
            except (Unavailable, TimeoutError):
                return False
            return True

        await until(is_whole, "a message comes back again")
    finally:
        await broker.close()
        await move(before)


async def test_leaving_and_joining_at_once(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """However often a room is left and joined again at once, it is heard in the end, and left when it is left."""
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

        await until(is_left, "the room is left")
    finally:
        await broker.close()
