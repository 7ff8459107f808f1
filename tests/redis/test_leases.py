"""Leases on Redis: never more than the limit on all nodes, after any failure."""

from __future__ import annotations

import asyncio
import random
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_nodes import SHORT_LEASE, Node, keys_of, nodes
from redis_servers import FreshRedis, RedisServer, run
from waiting import wait_until

from roomcast.broker.base import UserId
from roomcast.errors import Unavailable


async def test_concurrent_admits_on_three_nodes(redis_server: RedisServer, redis_prefix: str) -> None:
    """Of 50 concurrent connections of each of 20 users on 3 nodes, exactly the limit is admitted."""
    async with nodes(redis_server.url, redis_prefix, 3) as three:
        tries = [(user, number) for user in range(20) for number in range(50)]
        random.shuffle(tries)
        taken = await asyncio.gather(*[three[n % 3].leases.admit(user, n, 5) for user, n in tries])
        for user in range(20):
            admitted = [n for (who, n), was in zip(tries, taken, strict=True) if who == user and was]
            assert len(admitted) == await three[0].count(user) == 5
        for (user, number), was in zip(tries, taken, strict=True):
            if was:
                await three[number % 3].leases.release(user, number)
        assert await keys_of(redis_server, redis_prefix) == {}


async def test_the_same_connection_id_on_two_nodes(redis_server: RedisServer, redis_prefix: str) -> None:
    """Each node numbers its connections: the same id on another node is another connection."""
    async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
        assert [await node.leases.admit(1, 1, 2) for node in (a, b, a, b)] == [True] * 4
        assert await a.count(1) == 2
        await a.leases.release(1, 1)
        assert not await b.leases.admit(1, 2, 1)
        await b.leases.release(1, 1)
        assert await a.count(1) == 0


@pytest.mark.parametrize("user_id", ["7", "", "a}b{c", '"', "é☃", "\0", "\ud800", 2**70, -7])
async def test_any_user_id_is_valid(redis_server: RedisServer, redis_prefix: str, user_id: UserId) -> None:
    """Every user id is separate, and the text of a number is not that number."""
    async with nodes(redis_server.url, redis_prefix, 1) as (node,):
        assert await node.leases.admit(7, 1, 1)
        assert await node.leases.admit(user_id, 2, 1)
        assert not await node.leases.admit(user_id, 3, 1)
        assert await node.count(user_id) == 1
        await node.leases.release(user_id, 2)
        assert (await node.count(user_id), await node.count(7)) == (0, 1)


async def test_leases_of_a_dead_node_expire(redis_server: RedisServer, redis_prefix: str) -> None:
    """Renewed leases stay; those of a dead node expire, and so do their keys."""
    async with nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (alive, dead):
        assert await alive.leases.admit(1, 1, 3)
        assert [await dead.leases.admit(1, n, 3) for n in (1, 2, 3)] == [True, True, False]
        assert await dead.leases.admit(2, 4, 1)
        await dead.die()

        async def is_free() -> bool:
            await alive.leases.renew()
            return await alive.count(1) == 1 and await keys_of(redis_server, redis_prefix) != {}

        await wait_until(is_free)
        assert [await alive.leases.admit(1, n, 3) for n in (2, 3, 4)] == [True, True, False]
        await wait_until(lambda: _holds(redis_server, redis_prefix, keys=0))


async def _holds(server: RedisServer, prefix: str, keys: int) -> bool:
    return len(await keys_of(server, prefix)) == keys


async def test_a_key_expires_with_its_last_lease(redis_server: RedisServer, redis_prefix: str) -> None:
    """A user's key expires with the last lease, even if the first one is released."""
    async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
        for user in range(5):
            for number in range(6):
                await (a, b)[number % 2].leases.admit(user, number, 4)
        await a.leases.renew()
        await a.leases.release(1, 0)
        found = await keys_of(redis_server, redis_prefix)
        assert len(found) == 5
        assert all(25_000 < left <= 30_000 for left in found.values()), found


async def test_a_suspended_node_takes_its_leases_again(redis_server: RedisServer, redis_prefix: str) -> None:
    """Leases that expired though their connections are open are taken again, even above the limit."""
    async with nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (a, suspended):
        assert await suspended.leases.admit(1, 1, 1)
        await wait_until(lambda: a.leases.admit(1, 1, 1))
        await suspended.leases.renew()
        assert await a.count(1) == 2
        await suspended.leases.release(1, 1)
        assert not await a.leases.admit(1, 2, 1)


async def test_an_outage_of_redis(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """During an outage no new connection is admitted, releases count at once, and all is written afterwards."""
    server = await fresh_redis(appendonly="yes", appendfsync="always")
    async with nodes(server.url, redis_prefix, 2) as (a, b):
        assert all([await a.leases.admit(1, n, 5) for n in (1, 2, 3)])
        assert await b.leases.admit(1, 1, 5)
        server.kill()
        await wait_until(lambda: _is_refused(a))
        assert await a.leases.admit(1, 3, 5)
        await a.leases.release(1, 1)
        await a.leases.release(1, 2)
        await a.leases.renew()
        await server.start()
        await wait_until(a.reaches_redis)
        assert await a.count(1) == 4
        await a.leases.restore()
        await a.leases.restore()
        assert await a.count(1) == 2


async def _is_refused(node: Node) -> bool:
    try:
        await node.leases.admit("refused", 99, 5)
    except Unavailable:
        return True
    await node.leases.release("refused", 99)
    return False


async def test_redis_lost_its_data(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """After a restart without data each node writes exactly its own leases again."""
    server = await fresh_redis()
    async with nodes(server.url, redis_prefix, 3) as three:
        for n, node in enumerate(three):
            assert await node.leases.admit(1, n, 5)
            assert await node.leases.admit(f"only {n}", n, 5)
        await three[0].leases.admit(2, 7, 5)
        await three[0].leases.release(2, 7)
        server.kill()
        await server.start()
        for node in three:
            await wait_until(node.reaches_redis)
            await node.leases.restore()
        assert [await three[0].count(user) for user in (1, 2, "only 0", "only 2")] == [3, 0, 1, 1]
        assert not await three[1].leases.admit(1, 9, 3)


async def test_a_cancelled_admission_is_released(redis_server: RedisServer, redis_prefix: str) -> None:
    """A lease whose admission was cancelled before the reply is released, before the next renewal."""
    async with nodes(redis_server.url, redis_prefix, 1) as (node,):
        asking = asyncio.create_task(node.leases.admit(1, 1, 1))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert await node.count(1) == 0
        assert await node.leases.admit(1, 2, 1)
        assert await node.leases.admit(1, 1, 2)
        assert await node.count(1) == 2


async def test_close_releases_all_leases(redis_server: RedisServer, redis_prefix: str) -> None:
    """A node that closes leaves no lease behind, and does not touch those of others."""
    async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
        for n in range(300):
            await a.leases.admit(n, n, 5)
        await b.leases.admit(7, 1, 5)
        await a.leases.close()
        assert await keys_of(redis_server, redis_prefix) == {
            f"{{{redis_prefix}:u:7}}:l": pytest.approx(30_000, abs=5e3)
        }
        await a.leases.close()


async def test_close_without_redis(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """A node can close while Redis is unreachable."""
    server = await fresh_redis()
    async with nodes(server.url, redis_prefix, 1) as (node,):
        await node.leases.admit(1, 1, 5)
        server.kill()
        await wait_until(lambda: _is_refused(node))
        await node.leases.close()


OPERATIONS = st.tuples(
    st.sampled_from(["admit", "release", "renew"]), st.integers(0, 2), st.integers(1, 2), st.integers(1, 4)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(OPERATIONS, max_size=6), max_size=8))
def test_random_operations(redis_server: RedisServer, rounds: list[list[tuple[str, int, int, int]]]) -> None:
    """Random concurrent operations on three nodes never exceed the limit, and match the model in the end."""
    run(_play(redis_server, rounds))


async def _play(server: RedisServer, rounds: list[list[tuple[str, int, int, int]]]) -> None:
    leases: set[tuple[int, int, int]] = set()
    async with nodes(server.url, f"play-{secrets.token_hex(5)}", 3) as three:

        async def run_operation(what: str, node: int, user: int, connection: int) -> None:
            lease = (node, user, connection)
            if what == "admit" and await three[node].leases.admit(user, connection, 3):
                leases.add(lease)
            elif what == "release":
                leases.discard(lease)
                await three[node].leases.release(user, connection)
            elif what == "renew":
                await three[node].leases.renew()

        for operations in rounds:
            distinct = {one[1:]: one for one in operations}  # a connection has one operation at a time
            await asyncio.gather(*[run_operation(*one) for one in distinct.values()])
            for user in (1, 2):
                count = sum(owner == user for _, owner, _ in leases)
                assert count == await three[0].count(user) <= 3
        for node in three:
            await node.leases.close()
        assert [await three[0].count(user) for user in (1, 2)] == [0, 0]
