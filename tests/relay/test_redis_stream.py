"""The relay of a Redis stream: events, poison entries, takeover and outages, on all kinds of Redis."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from outbox import relaying, stored, stored_with_keys
from redis.asyncio import Redis
from redis_groups import Cluster, SentinelTrio
from redis_servers import FreshRedis, RedisServer, free_port
from serving import Serve
from waiting import wait_until

from roomcast.broker.redis.urls import parse
from roomcast.relay import redis_stream
from roomcast.relay.redis_stream import GROUP, StreamKeys


def entry(number: int, room: str = "task:1", **fields: str) -> dict[str, Any]:
    """Return the fields of an event with this number."""
    return {"type": "task.deleted", "room": room, "data": json.dumps({"task_id": number}), **fields}


async def is_empty(client: Redis, stream: str) -> None:
    """Wait until the stream has no entries."""

    async def is_true() -> bool:
        return await client.xlen(stream) == 0

    await wait_until(is_true, f"{stream} is empty")


async def test_events_arrive_in_the_order_of_the_stream(
    serve: Serve, redis_server: RedisServer, redis_prefix: str
) -> None:
    """Entries from before and after the start are published once, with their key and sender, and deleted."""
    server = await serve(history_size=1000)
    async with redis_server.client() as client:
        first = await client.xadd(redis_prefix, entry(0))
        await client.xadd(redis_prefix, entry(1, key="mine", sender="alice"))
        async with relaying(server, redis_stream.run, parse(redis_server.url), redis_prefix) as relay:
            await is_empty(client, redis_prefix)
            for number in range(2, 600):
                await client.xadd(redis_prefix, entry(number))
            await is_empty(client, redis_prefix)
            assert relay.metric("published_total") == 600
            assert (await client.xpending(redis_prefix, GROUP))["pending"] == 0
    found = await stored_with_keys(server, "task:1")
    assert [number for number, _ in found] == [*range(600)]
    assert found[0][1].endswith(f"-{first}")
    assert found[1] == (1, "mine")


async def test_keys_differ_between_streams(serve: Serve, redis_server: RedisServer, redis_prefix: str) -> None:
    """Entries of two streams with one id are different events."""
    server = await serve()
    async with redis_server.client() as client:
        for number, stream in enumerate((f"{redis_prefix}a", f"{redis_prefix}b")):
            await client.xadd(stream, entry(number), id="7-1")
            async with relaying(server, redis_stream.run, parse(redis_server.url), stream):
                await is_empty(client, stream)
    assert await stored(server, "task:1") == [0, 1]
    keys = [key for _, key in await stored_with_keys(server, "task:1")]
    assert len(set(keys)) == 2 and all(key.endswith("-7-1") for key in keys)


async def test_refused_entries_are_set_aside(serve: Serve, redis_server: RedisServer, redis_prefix: str) -> None:
    """Entries that are no events, and refused ones, are in the other stream with the reason, and can be retried."""
    server = await serve()
    failed = StreamKeys.of(redis_prefix).failed
    async with redis_server.client() as client:
        await client.xadd(redis_prefix, entry(1))
        await client.xadd(redis_prefix, {"type": "task.deleted", "room": "task:1", "data": "{"})
        await client.xadd(redis_prefix, {"type": "task.deleted", "data": "{}"})
        await client.xadd(redis_prefix, {"type": b"\xff", "room": "task:1", "data": "{}"})
        await client.xadd(redis_prefix, entry(2, room="planet:1"))
        await client.xadd(redis_prefix, entry(3))
        async with relaying(server, redis_stream.run, parse(redis_server.url), redis_prefix) as relay:
            await is_empty(client, redis_prefix)
            assert await stored(server, "task:1") == [1, 3]
            assert relay.metric("failed_total", code="bad_message") == 3
            assert relay.metric("failed_total", code="unknown_room_type") == 1
        async with redis_server.client(decode_responses=False) as raw:
            entries = [fields for _, fields in await raw.xrange(failed)]
        assert sorted(fields[b"_code"] for fields in entries) == [b"bad_message"] * 3 + [b"unknown_room_type"]
        assert b"room is missing" in [fields[b"_error"] for fields in entries]
        assert await redis_stream.retry_failed(parse(redis_server.url), redis_prefix) == 4
        assert (await client.xlen(failed), await client.xlen(redis_prefix)) == (0, 4)
        async with redis_server.client(decode_responses=False) as raw:
            again = [fields for _, fields in await raw.xrange(redis_prefix)]
        assert not any(name.startswith(b"_") for fields in again for name in fields)


async def test_entries_that_a_dead_relay_has_read(serve: Serve, redis_server: RedisServer, redis_prefix: str) -> None:
    """They are claimed and published before new ones, and the consumer of the dead relay is deleted."""
    server = await serve()
    async with redis_server.client() as client:
        await client.xgroup_create(redis_prefix, GROUP, id="0", mkstream=True)
        for number in range(3):
            await client.xadd(redis_prefix, entry(number))
        await client.xreadgroup(GROUP, "dead", {redis_prefix: ">"}, count=2)
        async with relaying(server, redis_stream.run, parse(redis_server.url), redis_prefix):
            await is_empty(client, redis_prefix)
            assert await stored(server, "task:1") == [0, 1, 2]
            assert [one["name"] for one in await client.xinfo_consumers(redis_prefix, GROUP)] != ["dead"]


async def test_one_relay_is_active(serve: Serve, redis_server: RedisServer, redis_prefix: str) -> None:
    """A second relay waits. It takes over at once if the first one stops, and after the lease if it dies."""
    server = await serve()
    source = (redis_stream.run, parse(redis_server.url), redis_prefix)
    async with redis_server.client() as client, relaying(server, *source) as one:
        await wait_until(lambda: one.metric("partitions") == 1)
        async with relaying(server, *source) as two:
            await client.xadd(redis_prefix, entry(1))
            await is_empty(client, redis_prefix)
            assert (one.metric("partitions"), two.metric("partitions")) == (1, 0)
            one.stop.set()
            await wait_until(lambda: two.metric("partitions") == 1)
            await client.xadd(redis_prefix, entry(2))
            await is_empty(client, redis_prefix)
            # Another owner takes the lease, as after a long pause of this process.
            await client.set(StreamKeys.of(redis_prefix).lease, "other")
            await wait_until(lambda: two.metric("partitions") == 0)
            await client.delete(StreamKeys.of(redis_prefix).lease)
            await wait_until(lambda: two.metric("partitions") == 1)
    assert await stored(server, "task:1") == [1, 2]


async def test_redis_restarts(serve: Serve, fresh_redis: FreshRedis) -> None:
    """The relay waits for a Redis that is down, and goes on with the entries that it had read."""
    redis = await fresh_redis(appendonly="yes", appendfsync="always")
    server = await serve()
    async with relaying(server, redis_stream.run, parse(redis.url), "outbox") as relay:
        await redis("XADD", "outbox", "*", *(part for pair in entry(1).items() for part in pair))
        await wait_until(lambda: relay.metric("published_total") == 1)
        redis.kill()
        await wait_until(lambda: not relay.metric("connected"))
        await redis.start()
        await redis("XADD", "outbox", "*", *(part for pair in entry(2).items() for part in pair))
        await wait_until(lambda: relay.metric("published_total") >= 2)
        async with redis.client() as client:
            await is_empty(client, "outbox")
    assert await stored(server, "task:1") == [1, 2]


async def test_a_stop_while_the_server_is_down(
    serve: Serve, redis_server: RedisServer, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay ends after a limited time. The entry that it had read is published by the next one."""
    monkeypatch.setattr(redis_stream, "STOP_TIMEOUT", 0.1)
    source = (redis_stream.run, parse(redis_server.url), redis_prefix)
    async with redis_server.client() as client:
        await client.xadd(redis_prefix, entry(1))
        async with relaying(SimpleNamespace(port=free_port()), *source) as relay:
            await wait_until(lambda: relay.metric("retries_total"))
            relay.stop.set()
        server = await serve()
        async with relaying(server, *source):
            await is_empty(client, redis_prefix)
    assert await stored(server, "task:1") == [1]


async def test_the_lag(
    serve: Serve, redis_server: RedisServer, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics have the number of entries and the age of the oldest one."""
    monkeypatch.setattr(redis_stream, "LAG_INTERVAL", 0.05)
    server = await serve()
    async with redis_server.client() as client:
        await client.xadd(redis_prefix, entry(1), id="1-1")
        async with relaying(server, redis_stream.run, parse(redis_server.url), redis_prefix, api_key="wrong") as relay:
            await wait_until(lambda: relay.metric("waiting") == 1 and relay.metric("lag_seconds") > 1e9)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_other_topologies(
    serve: Serve, kind: str, sentinel_trio: SentinelTrio, redis_cluster: Cluster, redis_prefix: str
) -> None:
    """The stream, its lease and the refused entries are on one server of a Cluster, or on the primary of Sentinel."""
    url = sentinel_trio.url if kind == "sentinel" else redis_cluster.url
    server = await serve()
    target = parse(url)
    fields = [part for pair in entry(1).items() for part in pair]
    bad = [part for pair in entry(2, room="planet:1").items() for part in pair]
    connection = await redis_stream._connect(redis_stream.create_topology(target, 3.0), target, None, redis_prefix)
    try:
        await connection.execute("XADD", redis_prefix, "*", *fields)
        await connection.execute("XADD", redis_prefix, "*", *bad)
        async with relaying(server, redis_stream.run, target, redis_prefix) as relay:
            await wait_until(lambda: relay.metric("published_total") == 1)

            async def is_true() -> bool:
                return await connection.execute("XLEN", StreamKeys.of(redis_prefix).failed) == 1

            await wait_until(is_true)
            assert await connection.execute("XLEN", redis_prefix) == 0
        assert await redis_stream.retry_failed(target, redis_prefix) == 1
    finally:
        connection.abort("the test ends")
    assert await stored(server, "task:1") == [1]
