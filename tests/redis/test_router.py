"""The router: which calls wait, fail, or are sent again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis_groups import Cluster, SentinelTrio
from redis_servers import FreshRedis, RedisServer
from tcp_proxy import Proxy

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.router import Router
from roomcast.broker.redis.scripts import Script
from roomcast.broker.redis.topology import Topology, create_topology
from roomcast.broker.redis.urls import parse
from roomcast.errors import BrokerUnavailable, Unavailable

Start = Callable[..., Awaitable[Router]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """``await start(url)`` returns a started router, which is closed at the end of the test."""
    routers = []

    async def start(url: str, buffer: int = 2**20, timeout: float = 1.0) -> Router:
        target = parse(url)
        broker = RedisBroker(target, RedisOptions(timeout=timeout))
        router = Router(create_topology(target, timeout), broker._open_connection, buffer)
        await router.start(5)
        routers.append(router)
        return router

    yield start
    for router in routers:
        await router.close()


async def until_down(router: Router) -> None:
    """Wait until the router has detected that its server cannot be reached."""
    async with asyncio.timeout(10):
        while not router.problems():
            await asyncio.sleep(0.01)


async def test_commands_and_scripts(start: Start, redis_server: RedisServer, redis_prefix: str) -> None:
    """Commands and scripts return replies, and a refused command raises the server's error."""
    router = await start(redis_server.url)
    key = f"{{{redis_prefix}}}:k"
    await router.call(key, "SET", key, "v", "PX", 10_000)
    assert await router.call(key, "GET", key) == b"v"
    assert await router.run(Script("claim"), (key,), (1000,)) == b"v"
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await router.call(key, "LPUSH", key, "x")


async def test_flushed_scripts_are_loaded_again(start: Start, fresh_redis: FreshRedis) -> None:
    """After SCRIPT FLUSH the next call loads its script again."""
    server = await fresh_redis()
    router = await start(server.url)
    await server("SCRIPT", "FLUSH")
    assert await router.run(Script("claim"), ("k",), (1000,)) == 1


async def test_a_script_that_cannot_be_loaded(start: Start, fresh_redis: FreshRedis) -> None:
    """If the user may not load scripts, a call fails with that reason and is not sent again and again."""
    server = await fresh_redis(user="app", password="pa55")
    router = await start(server.url)
    await server("ACL", "SETUSER", "app", "-script|load")
    await server("SCRIPT", "FLUSH")
    before = (await server.info("stats"))["total_commands_processed"]
    with pytest.raises(Unavailable, match=r"refused a command: NOPERM .*script\|load"):
        await router.run(Script("claim"), ("k",), (1000,), wait=5)
    assert (await server.info("stats"))["total_commands_processed"] < before + 20


async def test_scripts_that_are_flushed_all_the_time(
    start: Start, fresh_redis: FreshRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a script is missing although it was loaded, the call is sent again with pauses, and fails in the end."""
    server = await fresh_redis()
    router = await start(server.url)
    script = Script("server_time", "leases_read")
    monkeypatch.setattr(script, "sha", "0" * 40)
    before = (await server.info("stats"))["total_commands_processed"]
    with pytest.raises(Unavailable, match="NOSCRIPT"):
        await router.run(script, ("k",), (), wait=1)
    assert (await server.info("stats"))["total_commands_processed"] < before + 200


async def test_calls_without_wait_fail_at_once(start: Start, fresh_redis: FreshRedis) -> None:
    """Without ``wait``, a call to an unreachable server fails with a sentence that names the server."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await until_down(router)
    with pytest.raises(Unavailable, match=rf"Redis at {server.address} cannot be reached: .+\."):
        await router.call("k", "GET", "k")


async def test_calls_with_wait_keep_their_order(start: Start, fresh_redis: FreshRedis) -> None:
    """With ``wait``, calls are queued until the server returns, and are executed in order."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await until_down(router)
    calls = [router.call("k", "RPUSH", "k", i, wait=30) for i in range(50)]
    await server.start()
    assert await asyncio.gather(*calls) == list(range(1, 51))
    assert await server("LRANGE", "k", 0, -1) == [str(i) for i in range(50)]


async def test_the_wait_ends(start: Start, fresh_redis: FreshRedis) -> None:
    """A call that waited too long fails and is not executed later."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await until_down(router)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await router.call("k", "SET", "k", "late", wait=0.3)
    await server.start()
    assert await router.call("other", "GET", "k", wait=30) is None


async def test_a_cancelled_call_is_not_executed(start: Start, fresh_redis: FreshRedis) -> None:
    """A queued call that was cancelled is not executed when the server returns."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await until_down(router)
    call = router.call("k", "SET", "k", "v", wait=30)
    call.cancel()
    await server.start()
    assert await router.call("k", "GET", "k", wait=30) is None


async def test_the_buffer_is_limited(start: Start, fresh_redis: FreshRedis) -> None:
    """Calls beyond the buffer fail at once, and finished calls free their space."""
    server = await fresh_redis()
    router = await start(server.url, buffer=10_000)
    server.kill()
    await until_down(router)
    calls = [router.call("k", "APPEND", "k", b"x" * 3000, wait=30) for _ in range(3)]
    with pytest.raises(Unavailable, match="REDIS_BUFFER"):
        router.call("k", "APPEND", "k", b"x" * 3000, wait=30)
    await server.start()
    assert await asyncio.gather(*calls) == [3000, 6000, 9000]
    assert await router.call("k", "APPEND", "k", b"x" * 3000, wait=30) == 12_000


async def test_unanswered_calls_are_sent_again(start: Start, redis_server: RedisServer, redis_prefix: str) -> None:
    """If a connection breaks before the replies, calls with ``wait`` are sent again in order; the others fail."""
    key = f"{{{redis_prefix}}}:k"
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        router = await start(f"redis://127.0.0.1:{proxy.port}", timeout=20)
        proxy.stall(to_server=True, to_client=False)
        waiting = [router.call(key, "RPUSH", key, i, wait=30) for i in range(5)]
        failing = router.call(key, "RPUSH", key, "failing")
        await asyncio.sleep(0)
        proxy.reset()
        proxy.flow()
        assert await asyncio.gather(*waiting) == [1, 2, 3, 4, 5]
        with pytest.raises(Unavailable, match="broke before it answered"):
            await failing
    await redis_server("DEL", key)


async def test_on_server_return(start: Start, fresh_redis: FreshRedis) -> None:
    """The callback runs when the server can be reached again."""
    server = await fresh_redis()
    router = await start(server.url)
    back = asyncio.Event()
    router.on_server_return.append(back.set)
    server.kill()
    await until_down(router)
    assert not back.is_set()
    await server.start()
    async with asyncio.timeout(10):
        await back.wait()
    assert router.problems() == []


async def test_start_without_a_server() -> None:
    """``start`` raises Unavailable after the wait if there is no server."""
    target = parse("redis://127.0.0.1:1")
    router = Router(create_topology(target, 0.2), RedisBroker(target)._open_connection, 1000)
    with pytest.raises(Unavailable, match=r"Redis at 127\.0\.0\.1:1 cannot be reached: connection refused"):
        await router.start(0.3)
    await router.close()


async def test_sentinel_failover(start: Start, sentinel_trio: SentinelTrio) -> None:
    """With Sentinel, calls go to the primary, and after a failover to the new one."""
    router = await start(sentinel_trio.url)
    before = await sentinel_trio.primary()
    await router.call("k", "SET", "k", "v")
    assert await before("GET", "k") == "v"
    await sentinel_trio.kill_primary()
    after = await sentinel_trio.failed_over(before)
    await router.call("k", "SET", "k", "after", wait=15)
    assert await after("GET", "k") == "after"
    await before.start()


async def test_a_primary_becomes_a_replica(start: Start, fresh_redis: FreshRedis) -> None:
    """A server that becomes a replica is disconnected, because it would refuse every write."""
    server, other = await fresh_redis(), await fresh_redis()
    router = await start(server.url)
    await server("REPLICAOF", "127.0.0.1", other.port)
    call = router.call("k", "SET", "k", "v", wait=20)
    await until_down(router)
    assert "replica" in router.problems()[0]
    await server("REPLICAOF", "NO", "ONE")
    assert await call == b"OK"


async def test_the_wait_is_counted_from_the_outage(start: Start, fresh_redis: FreshRedis) -> None:
    """After an outage as long as ``wait``, calls fail at once and reserve nothing."""
    server = await fresh_redis()
    router = await start(server.url, buffer=1000)
    server.kill()
    await until_down(router)
    with pytest.raises(Unavailable):
        await router.call("k", "SET", "k", "v", wait=0.3)
    for _ in range(10):
        with pytest.raises(Unavailable, match="cannot be reached"):
            router.call("k", "SET", "k", b"x" * 400, wait=0.3)
        await asyncio.sleep(0)
    assert router._buffered == 0


async def test_a_call_that_cannot_be_encoded(start: Start, fresh_redis: FreshRedis) -> None:
    """A call that cannot be encoded fails alone, even from the queue, and its space is freed."""
    server = await fresh_redis()
    router = await start(server.url)
    with pytest.raises(UnicodeEncodeError):
        router.call("k", "SET", "k", "\ud800", wait=30)
    server.kill()
    await until_down(router)
    invalid = router.call("k", "SET", "k", "\ud800", wait=30)
    other = router.call("k", "SET", "k", "v", wait=30)
    await server.start()
    assert await other == b"OK"
    with pytest.raises(UnicodeEncodeError):
        await invalid
    await asyncio.sleep(0)
    assert router._buffered == 0


async def test_calls_of_a_closed_router(start: Start, fresh_redis: FreshRedis) -> None:
    """When the router is closed, queued calls fail, and later ones fail at once."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await until_down(router)
    call = router.call("k", "SET", "k", "v", wait=30)
    await router.close()
    with pytest.raises(Unavailable, match="closing"):
        await call
    with pytest.raises(Unavailable, match="closed"):
        router.call("k", "SET", "k", "v", wait=30)
    await asyncio.sleep(0)
    assert router._buffered == 0


async def test_an_unexpected_error_in_a_refresh(
    start: Start, sentinel_trio: SentinelTrio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If reading the topology raises an unexpected error, it is read again."""
    router = await start(sentinel_trio.url)
    has_failed = asyncio.Event()

    async def nonsense() -> None:
        has_failed.set()
        raise ValueError("not a port")

    with monkeypatch.context() as patch:
        patch.setattr(router.topology, "refresh", nonsense)
        router.refresh_soon()
        await has_failed.wait()
    refreshed = asyncio.Event()
    router.on_refresh.append(refreshed.set)
    router.refresh_soon()
    async with asyncio.timeout(10):
        await refreshed.wait()


async def test_errors_do_not_repeat_arguments(start: Start, redis_server: RedisServer) -> None:
    """The error for an unknown command does not contain its arguments."""
    router = await start(redis_server.url)
    with pytest.raises(Unavailable, match="unknown command 'NO-SUCH'") as refused:
        await router.call("k", "NO-SUCH", "the ticket")
    assert "ticket" not in f"{refused.value} {refused.value.detail}"


async def test_many_refused_commands_are_logged_once(
    start: Start, redis_server: RedisServer, redis_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred refused commands all fail, and one is logged."""
    router = await start(redis_server.url)
    key = f"{{{redis_prefix}}}:k"
    await router.call(key, "SET", key, "v", "PX", 10_000)
    calls = await asyncio.gather(*[router.call(key, "LPUSH", key, "x") for _ in range(100)], return_exceptions=True)
    assert [type(one) for one in calls] == [BrokerUnavailable] * 100
    assert sum("refused a command" in record.message for record in caplog.records) == 1


async def test_a_refresh_can_be_cancelled(redis_cluster: Cluster, sentinel_trio: SentinelTrio) -> None:
    """Reading the topology can be cancelled at any moment, so that a node can stop."""

    async def refresh_repeatedly(topology: Topology) -> None:
        while True:
            await topology.refresh()

    draw = random.Random(1)
    for several in (redis_cluster, sentinel_trio):
        topology = create_topology(parse(several.url), 3.0)
        await topology.refresh()
        for _ in range(80):
            refreshing = asyncio.create_task(refresh_repeatedly(topology))
            await asyncio.sleep(draw.uniform(0, 0.01))
            refreshing.cancel()
            ended, _ = await asyncio.wait([refreshing], timeout=5)
            refreshing.cancel()
            assert ended, "the refresh was not cancelled"
