"""The Redis servers in ``tests/support``: they start, hang, die and restart as requested."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from paths import TESTS
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, TimeoutError
from redis_groups import Cluster, SentinelTrio
from redis_servers import FreshRedis, RedisServer, run, wait_for_server
from redis_tls import over_tls
from tls_authority import Authority


async def test_a_killed_server_restarts_empty_on_its_port(fresh_redis: FreshRedis) -> None:
    """A killed server is gone at once, and starts again on its port without data."""
    server = await fresh_redis()
    port, run_id = server.port, (await server.info("server"))["run_id"]
    await server("SET", "a", 1)
    server.kill()
    with pytest.raises(RedisError):
        await server("PING")
    await server.start()
    assert server.port == port
    assert (await server.info("server"))["run_id"] != run_id
    assert await server("GET", "a") is None


async def test_with_appendonly_a_restart_loses_nothing(fresh_redis: FreshRedis) -> None:
    """With appendonly, data survives a normal restart."""
    server = await fresh_redis(appendonly="yes")
    await server("SET", "a", 1)
    await server.restart()
    assert await server("GET", "a") == "1"


async def test_a_server_can_lose_its_last_writes(fresh_redis: FreshRedis) -> None:
    """A server restarts with the data of an earlier copy, or without any."""
    server = await fresh_redis(appendonly="yes")
    await server("SET", "a", 1)
    copy = await server.copy_data()
    await server("SET", "a", 2)
    for lost, left in (([copy], "1"), ([], None)):
        server.kill()
        server.lose_data(*lost)
        await server.start()
        assert await server("GET", "a") == left


async def test_a_paused_server_does_not_answer_until_it_is_resumed(fresh_redis: FreshRedis) -> None:
    """A paused server does not answer, and answers after it is resumed."""
    server = await fresh_redis()
    async with server.client(socket_timeout=0.1) as client:
        await client.ping()
        server.pause()
        with pytest.raises(TimeoutError):
            await client.ping()
    question = asyncio.create_task(server("PING"))
    server.resume()
    assert await question


async def test_passwords_and_users(fresh_redis: FreshRedis) -> None:
    """Connections without credentials are refused, and connections to the URL are accepted."""
    for server in (await fresh_redis(password="secret"), await fresh_redis(user="app", password="secret")):
        for url, allowed in ((server.url, True), (f"redis://{server.address}", False)):
            async with Redis.from_url(url) as client:
                if allowed:
                    await client.ping()
                else:
                    with pytest.raises(AuthenticationError):
                        await client.ping()


async def test_a_unix_socket_and_tls(fresh_redis: FreshRedis, tmp_path: Path) -> None:
    """A server can be reached through its socket, and over TLS by clients that trust the authority."""
    server = await fresh_redis(unix_socket=True)
    assert server.url.startswith("unix:///")
    authority = Authority(tmp_path)
    async with over_tls(server, authority) as url:
        for client in (Redis.from_url(server.url), Redis.from_url(url, ssl_ca_certs=str(authority.ca))):
            async with client:
                await client.ping()
        async with Redis.from_url(url) as stranger:
            with pytest.raises(RedisError, match="certificate verify failed"):
                await stranger.ping()


async def test_a_start_that_fails_shows_the_log(fresh_redis: FreshRedis) -> None:
    """If a server does not start, the error contains its log."""
    with pytest.raises(AssertionError, match="Bad directive") as error:
        await fresh_redis(no_such_thing="yes")
    assert "ended at its start" in str(error.value)


@pytest.mark.redis
def test_servers_end_with_the_test_process() -> None:
    """When the test process is killed, its servers end."""
    code = (
        "import redis_servers as r, os; s = r.RedisServer(); r.run(s.start()); print(s.port, s.directory); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS / "support", capture_output=True, text=True, timeout=20
    )
    port, directory = done.stdout.split()
    server = RedisServer()
    server.port = int(port)
    try:

        async def is_gone() -> bool:
            try:
                await server("PING")
            except RedisError:
                return True
            return False

        run(wait_for_server(is_gone, "the server is gone"))
    finally:
        server.close()
        for path in Path(directory).iterdir():
            path.unlink()
        Path(directory).rmdir()


async def test_sentinel_replaces_a_killed_primary(sentinel_trio: SentinelTrio) -> None:
    """The replica becomes the primary with all data, and the old primary becomes its replica."""
    before = await sentinel_trio.primary()
    await before("SET", "a", 1)
    await before("WAIT", 1, 5000)
    assert await sentinel_trio.kill_primary() is before
    after = await sentinel_trio.failed_over(before)
    assert after is not before
    assert await after("GET", "a") == "1"
    await before.start()


async def test_the_cluster_replaces_a_killed_primary(redis_cluster: Cluster) -> None:
    """The replica of the key's primary takes over with all data."""
    before = await redis_cluster.primary_of("a")
    await before("SET", "a", 1)
    await before("WAIT", 1, 5000)
    assert await redis_cluster.kill_primary_of("a") is before
    after = await redis_cluster.failed_over("a", before)
    assert await after("GET", "a") == "1"
    await before.start()
    await wait_for_server(redis_cluster.is_ready, "the cluster is whole again")
