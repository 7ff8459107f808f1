"""Outages: several nodes on one Redis that is restarted, killed, stopped, cut off, or replaced by its replica."""

from __future__ import annotations

import asyncio
import time

import pytest
from broker_contract import RecordingListener
from outages import ROOM, TIMEOUT, members_are, nodes, split, until_true
from redis_groups import Cluster, SentinelTrio
from redis_servers import FreshRedis, wait_for_server
from serving import PATH, connect, refused, token_for
from tcp_proxy import Proxy

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.subscriptions import Subscriptions
from roomcast.broker.redis.urls import parse


async def test_redis_is_restarted(fresh_redis: FreshRedis) -> None:
    """Publishes wait for a Redis that is restarted without a loss; members receive later events and no resync."""
    server = await fresh_redis(appendonly="yes")
    async with nodes(server.url, server.url, wait=10.0) as ours:
        await server.restart()
        await ours.until_recovered(time.monotonic(), "restart")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_redis_is_killed(fresh_redis: FreshRedis) -> None:
    """During the outage nodes are not ready, refuse connections and late publishes; then they restore all data."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        server.kill()
        await ours.until_not_ready(f"Redis at {server.address} cannot be reached")
        await ours.check_refusals()
        await until_true(lambda: ours.failed, "a publish fails")
        await server.start()
        await ours.until_recovered(time.monotonic(), "kill -9")
        await ours.end()
        ours.check(lost=True)
        for node in ours.servers:
            await wait_for_server(lambda node=node: members_are(node, {1, 2, 3, 4}), "the members are listed again")
        types = {frame["type"] for one in ours.members for frame in one.frames}
        assert "user_left" not in types


async def test_redis_hangs(fresh_redis: FreshRedis) -> None:
    """A stopped Redis counts as unreachable; publishes wait in order and are stored once, even if sent twice."""
    server = await fresh_redis()
    async with nodes(server.url, server.url, wait=10.0) as ours:
        server.pause()
        await ours.until_not_ready(f"Redis at {server.address} cannot be reached")
        assert await refused(ours.servers[0], f"{PATH}?token={token_for(77)}") == (4500, "Internal Server Error")
        server.resume()
        await ours.until_recovered(time.monotonic(), "SIGSTOP")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_redis_hangs_longer_than_a_publish_waits(fresh_redis: FreshRedis) -> None:
    """Publishes that waited too long are refused, and later ones are delivered in order."""
    server = await fresh_redis()
    async with nodes(server.url, server.url, wait=1.0) as ours:
        server.pause()
        await until_true(lambda: ours.failed, "a publish fails")
        await ours.check_refusals()
        server.resume()
        await ours.until_recovered(time.monotonic(), "SIGSTOP beyond the wait")
        await ours.end()
        ours.check(lost=False)


async def test_many_messages_of_a_client_during_an_outage(fresh_redis: FreshRedis) -> None:
    """A client's messages wait together, not one after the other, so the client stays connected."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        await ours.end()
        server.kill()
        publisher = ours.publishers[0]
        for _ in range(100):
            await publisher.send_next()
        pong = await publisher.user.socket.ping()
        await until_true(lambda: not publisher.pending, "every message is refused")
        await pong
        assert len(publisher.failed) >= 100
        assert publisher.is_connected


async def test_scripts_are_flushed(fresh_redis: FreshRedis) -> None:
    """After SCRIPT FLUSH a user can connect and join a new room, and nothing is lost."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        await server("SCRIPT", "FLUSH")
        async with connect(ours.servers[1], 50) as user:
            await user.join("channel:2")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_subscriptions_are_killed(fresh_redis: FreshRedis) -> None:
    """Repeated CLIENT KILL TYPE pubsub loses nothing."""
    server = await fresh_redis()
    async with nodes(server.url, server.url) as ours:
        for _ in range(5):
            await wait_for_server(lambda: server("CLIENT", "KILL", "TYPE", "pubsub"), "there is a subscription to kill")
            published = ours.acked
            await until_true(lambda before=published: ours.acked > before + 20, "more is published")
        await ours.until_recovered(time.monotonic(), "CLIENT KILL TYPE pubsub")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_connections_are_reset(fresh_redis: FreshRedis) -> None:
    """Resets of all connections at any moment of a publish lose and repeat nothing."""
    server = await fresh_redis()
    async with Proxy("127.0.0.1", server.port) as proxy, nodes(f"redis://127.0.0.1:{proxy.port}", server.url) as ours:
        for number in range(8):
            proxy.latency = 0.002 * (number % 3)
            published = ours.acked
            await until_true(lambda before=published: ours.acked > before + 10, "more is published")
            proxy.stall(to_server=number % 2 == 0, to_client=number % 2 == 1)
            await until_true(lambda: ours.publishers[0].pending > 3, "some messages have no answer")
            proxy.reset()
            proxy.flow()
        await ours.until_recovered(time.monotonic(), "resets")
        await ours.end()
        assert not ours.failed
        ours.check(lost=False)


async def test_redis_disconnects_a_slow_subscriber(fresh_redis: FreshRedis) -> None:
    """A node that reads too slowly is disconnected, and reads the missed events from the stream."""
    server = await fresh_redis(client_output_buffer_limit="pubsub 256kb 0 0")
    async with (
        Proxy("127.0.0.1", server.port, receive_buffer=4096) as proxy,
        nodes(server.url, f"redis://127.0.0.1:{proxy.port}", timeout=30.0, history_size=5000) as ours,
    ):
        publisher = ours.publishers[0]
        await ours.end()
        proxy.stall(to_server=False)

        async def is_disconnected() -> bool:
            for _ in range(32):
                # Large messages, one at a time: events of one batch are announced together, and for an announcement of
                # more than 16 KiB Valkey counts only a reference.
                await publisher.send_next(padding=9_000)
                await until_true(lambda: not publisher.pending, "it is published")
            return bool((await server.info("stats"))["client_output_buffer_limit_disconnections"])

        await wait_for_server(is_disconnected, "Redis cuts the subscriber off")
        proxy.flow()
        await ours.until_recovered(time.monotonic(), f"cut off after {publisher.sent} messages")
        await ours.end()
        ours.check(lost=False)


async def test_sentinel_failover(sentinel_trio: SentinelTrio) -> None:
    """Nodes follow Sentinel to the new primary; lost events are reported."""
    async with nodes(*[sentinel_trio.url] * 2, wait=15.0) as ours:
        killed = time.monotonic()
        before = await sentinel_trio.kill_primary()
        await ours.until_not_ready("Redis at main cannot be reached")
        await sentinel_trio.failed_over(before)
        print(f"\nSentinel took {time.monotonic() - killed:.2f} s")
        await ours.until_recovered(time.monotonic(), "after Sentinel's failover")
        await ours.end()
        assert not ours.failed
        ours.check(lost=True)
        await before.start()


async def test_cluster_failover(redis_cluster: Cluster) -> None:
    """Nodes follow the room to the replica; lost events are reported."""
    async with nodes(*[redis_cluster.url] * 2, wait=15.0) as ours:
        channel = f"{{{ours.prefix}:{ROOM}}}"
        killed = time.monotonic()
        before = await redis_cluster.kill_primary_of(channel)
        await ours.until_not_ready(f"Redis at {before.address} cannot be reached")
        await redis_cluster.failed_over(channel, before)
        print(f"\nthe Cluster took {time.monotonic() - killed:.2f} s")
        await ours.until_recovered(time.monotonic(), "after the Cluster's failover")
        await ours.end()
        assert not ours.failed
        ours.check(lost=True)
        await before.start()
        await wait_for_server(redis_cluster.is_ready, "the cluster is whole again")


async def test_a_node_closes_as_redis_returns(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """A node announces a user who left during an outage, even if the node closes as Redis returns."""
    redis = await fresh_redis()
    ending = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix, timeout=TIMEOUT))
    other = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix, timeout=TIMEOUT))
    listener = RecordingListener()
    await ending.start(RecordingListener())
    await other.start(listener)
    await other.subscribe([ROOM])
    await ending.enter(ROOM, 1, "alice", 1)
    redis.pause()
    assert (await ending.leave(ROOM, 1, 1)).user_changed is False
    ended = asyncio.get_running_loop().create_future()
    ending._router.on_server_return.append(lambda: ended.set_result(asyncio.create_task(ending.close())))
    redis.resume()
    await (await ended)
    await listener.until(lambda: listener.announced == [(ROOM, 1, "alice", True), (ROOM, 1, "alice", False)])
    await other.close()


async def test_a_sentinel_or_cluster_server_hangs(sentinel_trio: SentinelTrio, redis_cluster: Cluster) -> None:
    """If a sentinel or a server of the Cluster does not answer, the next one is asked."""
    (replica, *_) = [one for one in redis_cluster.servers if (await one.info("replication"))["role"] == "slave"]
    for hung, url in (
        (sentinel_trio.sentinels[0], sentinel_trio.url),
        (replica, redis_cluster.url.replace("://", f"://{replica.address},")),
    ):
        hung.pause()
        try:
            async with nodes(url, url, wait=5.0) as ours:
                await ours.end()
                ours.check(lost=False)
        finally:
            hung.resume()


async def test_the_first_event_of_a_room_is_lost(
    fresh_redis: FreshRedis, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members receive a resync if the first event was acknowledged and then lost with its announcement."""
    redis = await fresh_redis()
    broker, listener = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix)), RecordingListener()
    with monkeypatch.context() as patch:
        patch.setattr(Subscriptions, "on_push", lambda *_: None)
        await broker.start(listener)
        await broker.subscribe([ROOM])
        first = await broker.publish(ROOM, b"first")
    redis.kill()
    await redis.start()
    await listener.until(lambda: bool(listener.resyncs))
    assert listener.events == []
    (room, last_id), *more = listener.resyncs
    assert (room, split(last_id)[1], more) == (ROOM, 0, [])
    assert split(last_id)[0] > split(first)[0]
    await broker.close()
