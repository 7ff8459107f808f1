"""A node whose Redis refuses commands: its start, its health and metrics, and what it does when the refusal ends."""

from __future__ import annotations

import asyncio

import pytest
from broker_contract import RecordingListener
from redis_groups import Cluster, SentinelTrio
from redis_refusals import REFUSALS, refusing
from redis_servers import FreshRedis, RedisServer
from serving import call, connect, running
from waiting import wait_until

from roomcast.broker.base import Member
from roomcast.broker.redis import refusal_monitor
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.errors import SettingsError, Unavailable
from roomcast.web.server import Server

ROOM = "channel:1"
#: These end the connections, which ``redis_up`` shows.
RECONNECTING = ("READONLY", "MASTERDOWN", "LOADING")


def broker_at(server: RedisServer, prefix: str, wait: float = 1.0) -> RedisBroker:
    """Return a broker that is not started."""
    return RedisBroker(parse(server.url), RedisOptions(prefix=prefix, wait=wait))


async def is_ready(server: Server) -> str:
    """Return the state of the broker in ``/health/ready``."""
    status, body = await call(server, "GET", "/health/ready")
    state: str = body["parts"]["broker"]
    assert (status == 200) == (state == "ok")
    return state


def metrics(broker: RedisBroker) -> dict[str, float]:
    """Return the metrics of a broker."""
    return {metric.name: metric.value for metric in broker.metrics()}


# Start.


@pytest.mark.parametrize("lost", ["ping", "script|load", "evalsha", "xadd", "publish", "info", "subscribe", "getdel"])
async def test_the_start_without_a_right(fresh_redis: FreshRedis, redis_prefix: str, lost: str) -> None:
    """It fails with one message that names the command and the rule, and does not send commands in a loop."""
    server = await fresh_redis(user="app", password="pa55")
    broker = broker_at(server, redis_prefix)
    before = int((await server("INFO", "commandstats"))["cmdstat_hello"]["calls"])
    await server("ACL", "SETUSER", "app", f"-{lost}", "-zcard")
    with pytest.raises((SettingsError, Unavailable)) as failed:
        await broker.start(RecordingListener())
    sentence = failed.value.detail if isinstance(failed.value, Unavailable) else str(failed.value)
    names = sorted((lost, "zcard"), key=sentence.find)
    assert f"does not allow its user app to run {names[0]}, {names[1]}" in sentence
    assert sentence.endswith(f"grant it with ACL SETUSER app +{names[0]} +{names[1]}.")
    assert isinstance(failed.value, SettingsError) or lost == "info"  # without INFO there is no connection
    await server("ACL", "SETUSER", "app", "+@all")
    assert int((await server("INFO", "commandstats"))["cmdstat_hello"]["calls"]) < before + 200
    await broker.start(RecordingListener())
    await broker.close()


@pytest.mark.redis
async def test_the_servers_cannot_be_found_without_a_right(redis_prefix: str) -> None:
    """The message names the command with which a Cluster and a sentinel return the servers, and the rule."""
    async with Cluster() as cluster:
        for server in cluster.servers:
            await server("ACL", "SETUSER", "default", "-cluster|slots")
        with pytest.raises(
            Unavailable, match=r"to run cluster\|slots; grant it with ACL SETUSER default \+cluster\|slots"
        ):
            await RedisBroker(parse(cluster.url), RedisOptions(prefix=redis_prefix, wait=0.1)).start(
                RecordingListener()
            )
    async with SentinelTrio() as trio:
        first, *others = trio.sentinels
        await first("ACL", "SETUSER", "default", "-sentinel|masters")
        broker = RedisBroker(parse(trio.url), RedisOptions(prefix=redis_prefix, wait=0.1))
        await broker.start(RecordingListener())  # the others are asked
        await broker.close()
        for sentinel in others:
            await sentinel("ACL", "SETUSER", "default", "-sentinel|masters")
        with pytest.raises(Unavailable, match=r"to run sentinel\|masters; grant it with .* \+sentinel\|masters"):
            await broker.start(RecordingListener())


async def test_the_start_waits_for_the_end_of_a_refusal(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """It waits for REDIS_WAIT, and then fails with the reason."""
    server = await fresh_redis()
    async with refusing(server, "OOM"):
        with pytest.raises(Unavailable, match=rf"Redis at {server.address} refuses commands \(.*xadd.*\): OOM"):
            await broker_at(server, redis_prefix, wait=0.3).start(RecordingListener())
        broker = broker_at(server, redis_prefix, wait=30.0)
        starting = asyncio.create_task(broker.start(RecordingListener()))
        await asyncio.wait([starting], timeout=0.2)
        assert not starting.done()
    await starting
    await broker.close()


# Health and metrics.


@pytest.mark.parametrize("name", REFUSALS)
async def test_health_and_metrics(fresh_redis: FreshRedis, redis_prefix: str, name: str) -> None:
    """During a refusal the node is not ready and says why, also without traffic; afterwards it is ready again."""
    redis = await fresh_redis(appendonly="yes" if name == "AOF" else "no")
    broker = broker_at(redis, redis_prefix)
    async with running(broker=broker) as server:
        assert await is_ready(server) == "ok"
        async with refusing(redis, name):
            await wait_until(lambda: _is_unready(server, name), f"/health/ready reports {name}")
            if name not in RECONNECTING:
                await wait_until(lambda: metrics(broker)["redis_writable"] == 0)
                assert metrics(broker)["redis_up"] == 1
        await wait_until(lambda: _is_ready(server), "/health/ready reports ok", patience=5.0)
        await wait_until(lambda: metrics(broker)["redis_writable"] == metrics(broker)["redis_up"] == 1)


async def _is_unready(server: Server, name: str) -> bool:
    state = await is_ready(server)
    words: dict[str, tuple[str, ...]] = {
        "AOF": ("MISCONF",),
        "READONLY": ("READONLY", "it is a replica"),
        "MASTERDOWN": ("MASTERDOWN", "it is a replica"),
        "LOADING": ("LOADING", "loading"),
    }
    expected = ("does not allow its user",) if name.startswith("NOPERM") else words.get(name, (name,))
    return any(word in state for word in expected)


async def _is_ready(server: Server) -> bool:
    return await is_ready(server) == "ok"


async def test_a_refused_call_changes_the_metrics(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """The metrics report a refusal without a request to /health/ready, and its end within seconds."""
    redis = await fresh_redis()
    broker = broker_at(redis, redis_prefix)
    await broker.start(RecordingListener())
    try:
        async with refusing(redis, "OOM"):
            for _ in range(3):
                with pytest.raises(Unavailable, match="OOM"):
                    await broker.publish(ROOM, b"x")
            await wait_until(lambda: metrics(broker)["redis_writable"] == 0)
            assert metrics(broker)["redis_refused_commands"] == 3
        await wait_until(lambda: metrics(broker)["redis_writable"] == 1, patience=5.0)
    finally:
        await broker.close()


async def test_health_checks_share_their_commands(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """Many health checks in a second send the commands once, and write nothing."""
    redis = await fresh_redis(appendonly="yes")
    broker = broker_at(redis, redis_prefix)
    await broker.start(RecordingListener())
    try:
        written = (await redis.info("persistence"))["rdb_changes_since_last_save"]
        before = int((await redis("INFO", "commandstats"))["cmdstat_xinfo|stream"]["calls"])
        begun = asyncio.get_running_loop().time()
        for _ in range(10):
            await asyncio.gather(*[broker.ping() for _ in range(30)])
        seconds = asyncio.get_running_loop().time() - begun
        calls = int((await redis("INFO", "commandstats"))["cmdstat_xinfo|stream"]["calls"]) - before
        assert calls <= 1 + seconds / refusal_monitor._INTERVAL
        assert (await redis.info("persistence"))["rdb_changes_since_last_save"] == written
    finally:
        await broker.close()


# The end of a refusal.


@pytest.mark.parametrize("name", [one for one in REFUSALS if one not in RECONNECTING and one != "NOPERM ping"])
async def test_what_ended_during_a_refusal_is_released(fresh_redis: FreshRedis, redis_prefix: str, name: str) -> None:
    """A user at the limit who disconnected can connect again, and is no member of the rooms any more."""
    redis = await fresh_redis(appendonly="yes" if name == "AOF" else "no")
    broker = broker_at(redis, redis_prefix)
    async with running(broker=broker, max_connections_per_user=1) as server:
        refusal = refusing(redis, name)
        async with connect(server, 1) as alice:
            await alice.join(ROOM)
            await refusal.__aenter__()
        try:
            await wait_until(lambda: not server.gateway.keepalive.connections and not server.gateway.tasks._departures)
        finally:
            await refusal.__aexit__(None, None, None)

        async def is_released() -> bool:
            try:
                return await broker.connections(1) == 0 and await broker.members(ROOM) == []
            except Unavailable:
                return False

        await wait_until(is_released, patience=5.0)
        async with connect(server, 1) as alice:
            await alice.join(ROOM)
            assert await broker.members(ROOM) == [Member(1, "alice")]
