"""The online status of users on Redis: several nodes, nodes that die, outages, and what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time

import pytest
from broker_contract import Harness, ManualClock
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_groups import Cluster, SentinelTrio
from redis_nodes import SHORT_LEASE, Node, StartNode, age_state, broker_for, keys_of, nodes
from redis_servers import FreshRedis, RedisServer, run
from waiting import wait_until

from roomcast.broker.base import LAST_SEEN_TTL, UserStatus
from roomcast.broker.memory_leases import MemoryLeases
from roomcast.broker.redis.broker import RedisBroker
from roomcast.errors import Unavailable

#: How much two times may differ that a test compares, in seconds.
_CLOSE = 10.0


def now() -> object:
    """Return what equals the Unix time of a moment ago."""
    return pytest.approx(time.time(), abs=_CLOSE)


async def seen_times(node: Node, user_id: int) -> UserStatus | None:
    """Return the status of a user who is offline, otherwise None."""
    status = await node.leases.status(user_id)
    return None if status.connections else status


async def test_connections_on_several_nodes(redis_server: RedisServer, redis_prefix: str) -> None:
    """The status counts the connections of all nodes, and names the nodes once each."""
    async with nodes(redis_server.url, redis_prefix, 3, keep=60.0) as (a, b, c):
        for node, connection in ((a, 1), (a, 2), (b, 1)):
            assert await node.leases.admit(7, connection, 5)
        first = await c.leases.status(7)
        assert (first.connections, set(first.nodes), first.since) == (3, {"n0", "n1"}, now())
        await a.leases.release(7, 1)
        await a.leases.release(7, 2)
        assert await c.leases.status(7) == UserStatus(1, first.since, None, ("n1",))
        await b.leases.close()
        assert await c.leases.status(7) == UserStatus(0, None, now(), ())


async def test_a_node_that_dies(redis_server: RedisServer, redis_prefix: str) -> None:
    """Its users are offline after the lease, and were last seen when it last renewed them, for any later reader."""
    async with nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE, keep=60.0) as (alive, dead):
        await dead.leases.admit(1, 1, 5)
        await dead.leases.admit(2, 2, 5)
        await alive.leases.admit(2, 1, 5)
        online = await alive.leases.status(1)
        await dead.leases.renew()
        renewed = time.time()
        await dead.die()

        async def is_offline() -> bool:
            await alive.leases.renew()
            return await seen_times(alive, 1) is not None

        await wait_until(is_offline)
        offline = await alive.leases.status(1)
        assert offline.last_seen == pytest.approx(renewed, abs=SHORT_LEASE)
        assert (online.connections, online.nodes) == (1, ("n1",))
        assert (await alive.leases.status(2)).nodes == ("n0",)
        # An admission removes the lease that has expired, and leaves the times.
        assert await alive.leases.admit(1, 5, 5)
        back = await alive.leases.status(1)
        assert (back.connections, back.since is not None and back.since >= renewed) == (1, True)
        await alive.leases.release(1, 5)
        assert (await alive.leases.status(1)).last_seen == now()


async def test_a_suspended_node(redis_server: RedisServer, redis_prefix: str) -> None:
    """Its users were online all the time if it renews leases that had expired."""
    async with nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE, keep=60.0) as (a, suspended):
        await suspended.leases.admit(1, 1, 5)
        before = await a.leases.status(1)
        await wait_until(lambda: seen_times(a, 1))
        await suspended.leases.renew()
        assert await a.leases.status(1) == before


async def test_redis_lost_its_data(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """Users who are online are so since their node has written its leases again. Others are unknown."""
    server = await fresh_redis()
    async with nodes(server.url, redis_prefix, 1, keep=60.0) as (node,):
        await node.leases.admit(1, 1, 5)
        await node.leases.admit(2, 2, 5)
        await node.leases.release(2, 2)
        server.kill()
        await server.start()
        await wait_until(node.reaches_redis)
        await node.leases.restore()
        assert await node.leases.status(1) == UserStatus(1, now(), None, ("n0",))
        assert await node.leases.status(2) == UserStatus()
        await node.leases.release(1, 1)
        assert await node.leases.status(1) == UserStatus(last_seen=now())


async def test_what_is_stored(redis_server: RedisServer, redis_prefix: str) -> None:
    """One key for each user, which expires when ``last_seen`` does. A status changes nothing."""
    async with nodes(redis_server.url, redis_prefix, 1, keep=60.0) as (node,):
        for user_id in (1, 2):
            await node.leases.admit(user_id, user_id, 5)
        await node.leases.release(1, 1)
        await node.leases.status(3)
        found = await keys_of(redis_server, redis_prefix)
        assert found == {
            f"{{{redis_prefix}:u:1}}:l": pytest.approx(60_000, abs=5e3),
            f"{{{redis_prefix}:u:2}}:l": pytest.approx(90_000, abs=5e3),
        }
        assert await redis_server("ZRANGE", f"{{{redis_prefix}:u:1}}:l", 0, -1) == ["seen", "since"]


async def test_without_storing_times(redis_server: RedisServer, redis_prefix: str) -> None:
    """With ``keep`` 0 the connections are known, and nothing else is stored."""
    async with nodes(redis_server.url, redis_prefix, 1) as (node,):
        await node.leases.admit(1, 1, 5)
        assert await node.leases.status(1) == UserStatus(1, None, None, ("n0",))
        assert await redis_server("ZRANGE", f"{{{redis_prefix}:u:1}}:l", 0, -1) == ["n0:1"]
        await node.leases.release(1, 1)
        assert await node.leases.status(1) == UserStatus()
        assert await keys_of(redis_server, redis_prefix) == {}


async def test_times_that_are_no_longer_stored(redis_server: RedisServer, redis_prefix: str) -> None:
    """A node that stores no times counts correctly, and removes those of a node with other options."""
    async with (
        nodes(redis_server.url, redis_prefix, 1, keep=60.0) as (old,),
        nodes(redis_server.url, redis_prefix, 1, stem="m") as (new,),
    ):
        await old.leases.admit(1, 1, 2)
        assert [await new.leases.admit(1, n, 2) for n in (1, 2)] == [True, False]
        await old.leases.release(1, 1)
        await new.leases.release(1, 1)
        assert await keys_of(redis_server, redis_prefix) == {}


async def test_the_default_is_30_days(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
    """``last_seen`` is stored for 30 days."""
    a = await node()
    await a.broker.admit(1, 1, 5)
    await a.broker.release(1, 1)
    left = await redis_server("PTTL", f"{{{redis_prefix}:u:1}}:l")
    assert LAST_SEEN_TTL == 30 * 86400
    assert left == pytest.approx(LAST_SEEN_TTL * 1000, abs=60e3)


async def test_the_status_of_1000_users_on_a_cluster(redis_cluster: Cluster, redis_prefix: str) -> None:
    """The users of all servers are found."""
    a, b = (Harness(broker_for(redis_cluster.url, redis_prefix), asyncio.sleep) for _ in range(2))
    for harness in (a, b):
        await harness.broker.start(harness.listener)
    for user_id in range(0, 1000, 10):
        await a.broker.admit(user_id, user_id, 5)
    found = await b.broker.statuses(range(1000))
    assert [status.connections for status in found] == [int(user_id % 10 == 0) for user_id in range(1000)]
    for harness in (a, b):
        await harness.broker.close()


async def test_after_a_failover(start_node: StartNode, sentinel_trio: SentinelTrio) -> None:
    """After Sentinel has exchanged the primary and its replica, the times are the same, and nodes answer again."""
    a, b = await start_node(sentinel_trio.url), await start_node(sentinel_trio.url)
    await a.broker.admit(1, 1, 5)
    await a.broker.admit(2, 2, 5)
    await a.broker.release(2, 2)
    before = await b.broker.statuses([1, 2])
    await sentinel_trio.switch()
    answers: dict[str, bytes] = {}
    after: list[UserStatus] = []
    async with asyncio.timeout(30):
        while not answers or not after:
            with contextlib.suppress(Unavailable):
                after = await b.broker.statuses([1, 2])
                answers = await b.broker.ask({_name(a): b"?"}, 1.0)
            await asyncio.sleep(0.05)
    assert (after, answers) == (before, {_name(a): b"answer to ?"})


class TestQuestions:
    """Questions between nodes."""

    async def test_on_a_cluster(self, redis_cluster: Cluster, redis_prefix: str) -> None:
        """Every node can ask every other one, wherever their channels are."""
        harnesses = [Harness(broker_for(redis_cluster.url, redis_prefix), asyncio.sleep) for _ in range(4)]
        for harness in harnesses:
            await harness.broker.start(harness.listener)
        names = [_name(harness) for harness in harnesses]
        for harness in harnesses:
            assert set(await harness.broker.ask(dict.fromkeys(names, b"?"), 10.0)) == set(names)
        for harness in harnesses:
            assert harness.listener.questions == [b"?"] * 4
            await harness.broker.close()

    async def test_only_the_asked_node_receives_a_question(self, node: StartNode) -> None:
        """Several questions at once get their own answers; other nodes receive none."""
        a, b, c = await node(), await node(), await node()
        asked = [{_name(b): b"%d" % n} for n in range(50)]
        answers = await asyncio.gather(*[a.broker.ask(one, 10.0) for one in asked])
        assert answers == [{_name(b): b"answer to %d" % n} for n in range(50)]
        assert (len(b.listener.questions), a.listener.questions, c.listener.questions) == (50, [], [])

    async def test_a_node_that_is_gone(self, node: StartNode) -> None:
        """A node without a connection to Redis is not waited for."""
        a, b, c = await node(), await node(), await node()
        gone = _name(c)
        await c.broker.close()
        async with asyncio.timeout(10):
            assert set(await a.broker.ask({_name(b): b"?", gone: b"?"}, 3600.0)) == {_name(b)}

    async def test_a_node_that_does_not_answer(self, node: StartNode) -> None:
        """The answers of the others are returned when the time is over."""
        a, b, c = await node(), await node(), await node()
        answers = await a.broker.ask({_name(a): b"?", _name(b): b"?", _name(c): b"fail"}, 0.5)
        assert set(answers) == {_name(a), _name(b)}

    async def test_forged_messages(self, node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
        """A program without the secret of the signature gets no answer, and cannot answer for a node."""
        a, b = await node(), await node()
        channel = f"{redis_prefix}:!echo:{_name(b)}"
        for message in (b"?x 1\nwho is here?", b"?x 1\n" + b"0" * 16, b"!", b"\xff" * 40, b"?" + b"0" * 16):
            assert await redis_server("PUBLISH", channel, message) == 1
        assert await a.broker.ask({_name(b): b"?"}, 10.0) == {_name(b): b"answer to ?"}
        assert b.listener.questions == [b"?"]
        await b.broker.ping()


def _name(harness: Harness) -> str:
    assert isinstance(harness.broker, RedisBroker)
    return harness.broker.node


#: The grace of the random operations, and times that tests pass: some of the short ones are within the grace together.
GRACE, SHORT, LONG = 50.0, 9.0, 1000.0
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["admit", "release"]), st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.just("pass"), st.sampled_from([SHORT, LONG, LAST_SEEN_TTL / 2 + 60]), st.none()),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(OPERATIONS, max_size=14))
def test_random_operations_as_on_the_embedded_broker(
    redis_server: RedisServer, operations: list[tuple[str, float, int | None]]
) -> None:
    """After any admissions, releases and times, the status is the one of the embedded broker."""
    run(_play(redis_server, operations))


async def _play(server: RedisServer, operations: list[tuple[str, float, int | None]]) -> None:
    prefix = f"play-{secrets.token_hex(5)}"
    clock = ManualClock()
    embedded = MemoryLeases(clock, LAST_SEEN_TTL, GRACE)
    async with nodes(server.url, prefix, 1, 3600.0, grace=GRACE, keep=LAST_SEEN_TTL) as (node,):
        for what, number, connection in operations:
            if what == "pass":
                clock.now += number
                await age_state(server, prefix, number)
            elif what == "admit":
                expected = embedded.admit(int(number), connection or 0, 2)
                assert await node.leases.admit(int(number), connection or 0, 2) == expected
            else:
                embedded.release(int(number), connection or 0)
                await node.leases.release(int(number), connection or 0)
            for user_id in (1, 2):
                found, wanted = await node.leases.status(user_id), embedded.status(user_id)
                assert found.connections == wanted.connections
                assert found.since == (wanted.since and pytest.approx(wanted.since, abs=SHORT / 2))
                assert found.last_seen == (wanted.last_seen and pytest.approx(wanted.last_seen, abs=SHORT / 2))
