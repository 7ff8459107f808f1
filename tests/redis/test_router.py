"""The way to Redis: what waits, what fails, and what is sent again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis_servers import Cluster, FreshRedis, RedisServer, SentinelTrio
from tcp_proxy import Proxy

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.router import Router
from roomcast.broker.redis.scripts import Script
from roomcast.broker.redis.topology import Topology, create_topology
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable

Start = Callable[..., Awaitable[Router]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """``await start(url)``: a router that the test's end closes."""
    routers = []

    async def start(url: str, buffer: int = 2**20, timeout: float = 1.0) -> Router:
        target = parse(url)
        opener = RedisBroker(target, RedisOptions(timeout=timeout))
        opener._tls = None
        router = Router(create_topology(target, timeout), opener._open_connection, buffer)
        await router.start(5)
        routers.append(router)
        return router

    yield start
    for router in routers:
        await router.close()


async def down(router: Router) -> None:
    """Wait until the router knows that its server is away."""
    async with asyncio.timeout(10):
        while not router.problems():
            await asyncio.sleep(0.01)


async def test_commands_and_scripts(start: Start, redis_server: RedisServer, redis_prefix: str) -> None:
    """Commands and scripts are answered, and a refused one says what the server said."""
    router = await start(redis_server.url)
    key = f"{{{redis_prefix}}}:k"
    await router.call(key, "SET", key, "v", "PX", 10_000)
    assert await router.call(key, "GET", key) == b"v"
    assert await router.run(Script("claim"), (key,), (1000,)) == b"v"
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await router.call(key, "LPUSH", key, "x")


async def test_a_server_that_forgot_its_scripts(start: Start, fresh_redis: FreshRedis) -> None:
    """Scripts that an operator flushed are loaded again by their next use."""
    server = await fresh_redis()
    router = await start(server.url)
    await server("SCRIPT", "FLUSH")
    assert await router.run(Script("claim"), ("k",), (1000,)) == 1


async def test_the_impatient_fail_at_once(start: Start, fresh_redis: FreshRedis) -> None:
    """Without patience a call to a server that is away fails with a sentence that names it."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await down(router)
    with pytest.raises(Unavailable, match=rf"Redis at {server.address} cannot be reached: .+\."):
        await router.call("k", "GET", "k")


async def test_the_patient_wait_in_order(start: Start, fresh_redis: FreshRedis) -> None:
    """With patience calls wait for the server, and are carried out in the order they were made."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await down(router)
    calls = [router.call("k", "RPUSH", "k", i, wait=30) for i in range(50)]
    await server.start()
    assert await asyncio.gather(*calls) == list(range(1, 51))
    assert await server("LRANGE", "k", 0, -1) == [str(i) for i in range(50)]


async def test_patience_ends(start: Start, fresh_redis: FreshRedis) -> None:
    """Who has waited long enough is told, and nothing is done for them later."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await down(router)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await router.call("k", "SET", "k", "late", wait=0.3)
    await server.start()
    assert await router.call("other", "GET", "k", wait=30) is None


async def test_who_gives_up_is_not_served(start: Start, fresh_redis: FreshRedis) -> None:
    """A waiting call that was cancelled is not carried out when the server is back."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await down(router)
    call = router.call("k", "SET", "k", "v", wait=30)
    call.cancel()
    await server.start()
    assert await router.call("k", "GET", "k", wait=30) is None


async def test_the_buffer_is_bounded(start: Start, fresh_redis: FreshRedis) -> None:
    """No more bytes wait than the buffer holds; what is over is refused at once, and room is made again."""
    server = await fresh_redis()
    router = await start(server.url, buffer=10_000)
    server.kill()
    await down(router)
    calls = [router.call("k", "APPEND", "k", b"x" * 3000, wait=30) for _ in range(3)]
    with pytest.raises(Unavailable, match="REDIS_BUFFER"):
        router.call("k", "APPEND", "k", b"x" * 3000, wait=30)
    await server.start()
    assert await asyncio.gather(*calls) == [3000, 6000, 9000]
    assert await router.call("k", "APPEND", "k", b"x" * 3000, wait=30) == 12_000


async def test_what_was_under_way_is_sent_again(start: Start, redis_server: RedisServer, redis_prefix: str) -> None:
    """When a connection breaks before the answers, the patient calls are sent again, in order; the others fail."""
    key = f"{{{redis_prefix}}}:k"
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        router = await start(f"redis://127.0.0.1:{proxy.port}", timeout=20)
        proxy.stall(to_server=True, to_client=False)
        patient = [router.call(key, "RPUSH", key, i, wait=30) for i in range(5)]
        impatient = router.call(key, "RPUSH", key, "impatient")
        await asyncio.sleep(0)
        proxy.reset()
        proxy.flow()
        assert await asyncio.gather(*patient) == [1, 2, 3, 4, 5]
        with pytest.raises(Unavailable, match="broke before it answered"):
            await impatient
    await redis_server("DEL", key)


async def test_the_return_is_told(start: Start, fresh_redis: FreshRedis) -> None:
    """Who asked for it hears when the server is back."""
    server = await fresh_redis()
    router = await start(server.url)
    back = asyncio.Event()
    router.on_server_return.append(back.set)
    server.kill()
    await down(router)
    assert not back.is_set()
    await server.start()
    async with asyncio.timeout(10):
        await back.wait()
    assert router.problems() == []


async def test_no_server_at_the_start() -> None:
    """A server that is not there at the start is said to be away, after the wait."""
    target = parse("redis://127.0.0.1:1")
    router = Router(create_topology(target, 0.2), RedisBroker(target)._open_connection, 1000)
    with pytest.raises(Unavailable, match=r"Redis at 127\.0\.0\.1:1 cannot be reached: connection refused"):
        await router.start(0.3)
    await router.close()


async def test_sentinel_names_the_primary(start: Start, sentinel_trio: SentinelTrio) -> None:
    """By way of Sentinel the primary is found, and after a failover the next one."""
    router = await start(sentinel_trio.url)
    before = await sentinel_trio.primary()
    await router.call("k", "SET", "k", "v")
    assert await before("GET", "k") == "v"
    await sentinel_trio.kill_primary()
    after = await sentinel_trio.failed_over(before)
    await router.call("k", "SET", "k", "after", wait=15)
    assert await after("GET", "k") == "after"
    await before.start()


async def test_a_primary_that_became_a_replica(start: Start, fresh_redis: FreshRedis) -> None:
    """A server that turns into a replica is let go of: it would refuse every write."""
    server, other = await fresh_redis(), await fresh_redis()
    router = await start(server.url)
    await server("REPLICAOF", "127.0.0.1", other.port)
    call = router.call("k", "SET", "k", "v", wait=20)
    await down(router)
    assert "replica" in router.problems()[0]
    await server("REPLICAOF", "NO", "ONE")
    assert await call == b"OK"


async def test_patience_is_with_the_outage(start: Start, fresh_redis: FreshRedis) -> None:
    """Once a server has been away for as long as a call would wait, calls fail at once, and leave nothing behind."""
    server = await fresh_redis()
    router = await start(server.url, buffer=1000)
    server.kill()
    await down(router)
    with pytest.raises(Unavailable):
        await router.call("k", "SET", "k", "v", wait=0.3)
    for _ in range(10):
        with pytest.raises(Unavailable, match="cannot be reached"):
            router.call("k", "SET", "k", b"x" * 400, wait=0.3)
        await asyncio.sleep(0)
    assert router._buffered == 0


async def test_what_cannot_be_sent(start: Start, fresh_redis: FreshRedis) -> None:
    """A call that cannot be packed fails alone, also after waiting among others, and nothing stays held for it."""
    server = await fresh_redis()
    router = await start(server.url)
    with pytest.raises(UnicodeEncodeError):
        router.call("k", "SET", "k", "\ud800", wait=30)
    server.kill()
    await down(router)
    guilty = router.call("k", "SET", "k", "\ud800", wait=30)
    other = router.call("k", "SET", "k", "v", wait=30)
    await server.start()
    assert await other == b"OK"
    with pytest.raises(UnicodeEncodeError):
        await guilty
    await asyncio.sleep(0)
    assert router._buffered == 0


async def test_calls_of_a_closed_router(start: Start, fresh_redis: FreshRedis) -> None:
    """Who waits for a server fails when the router is closed, and so does, at once, who asks afterwards."""
    server = await fresh_redis()
    router = await start(server.url)
    server.kill()
    await down(router)
    call = router.call("k", "SET", "k", "v", wait=30)
    await router.close()
    with pytest.raises(Unavailable, match="closing"):
        await call
    with pytest.raises(Unavailable, match="closed"):
        router.call("k", "SET", "k", "v", wait=30)
    await asyncio.sleep(0)
    assert router._buffered == 0


async def test_an_answer_about_the_servers_that_nobody_understands(
    start: Start, sentinel_trio: SentinelTrio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonsense about where the servers are is passed over, and asked about again."""
    router = await start(sentinel_trio.url)
    asked = asyncio.Event()

    async def nonsense() -> None:
        asked.set()
        raise ValueError("not a port")

    with monkeypatch.context() as patch:
        patch.setattr(router.topology, "refresh", nonsense)
        router.refresh_soon()
        await asked.wait()
    looked = asyncio.Event()
    router.on_refresh.append(looked.set)
    router.refresh_soon()
    async with asyncio.timeout(10):
        await looked.wait()


async def test_an_unknown_command_is_not_repeated(start: Start, redis_server: RedisServer) -> None:
    """What a server of another age does not know is said, without what it was sent along."""
    router = await start(redis_server.url)
    with pytest.raises(Unavailable, match="unknown command 'NO-SUCH'") as refused:
        await router.call("k", "NO-SUCH", "the ticket")
    assert "ticket" not in str(refused.value)


async def test_a_server_that_refuses_everything(
    start: Start, redis_server: RedisServer, redis_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred refusals at once are told to all who asked, and to the log once."""
    router = await start(redis_server.url)
    key = f"{{{redis_prefix}}}:k"
    await router.call(key, "SET", key, "v", "PX", 10_000)
    calls = await asyncio.gather(*[router.call(key, "LPUSH", key, "x") for _ in range(100)], return_exceptions=True)
    assert [type(one) for one in calls] == [Unavailable] * 100
    assert sum("refused a command" in record.message for record in caplog.records) == 1


async def test_a_look_at_the_servers_can_be_cancelled(redis_cluster: Cluster, sentinel_trio: SentinelTrio) -> None:
    """Whenever it is told to, a node that asks where things are stops asking; it could not end otherwise."""

    async def look_for_ever(servers: Topology) -> None:
        while True:
            await servers.refresh()

    draw = random.Random(1)
    for several in (redis_cluster, sentinel_trio):
        servers = create_topology(parse(several.url), 3.0)
        await servers.refresh()
        for _ in range(80):
            looking = asyncio.create_task(look_for_ever(servers))
            await asyncio.sleep(draw.uniform(0, 0.01))
            looking.cancel()
            ended, _ = await asyncio.wait([looking], timeout=5)
            looking.cancel()
            assert ended, "it goes on asking"
