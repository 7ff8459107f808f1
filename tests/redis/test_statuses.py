"""Statuses and lists of members on Redis: several nodes, outages, lost data, and the cost of a page."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest
from broker_contract import Harness
from redis_nodes import SHORT_LEASE, Announced, Node, announcements, broker_for, leaves_after_renewal, nodes
from redis_servers import FreshRedis, RedisServer
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.broker.base import MAX_MEMBERS_BYTES, Announcements
from roomcast.broker.redis.presence_writer import LocalStatus
from roomcast.errors import Unavailable

ROOM = "channel:1"


async def statuses(node: Node) -> dict[int | str, str]:
    """Return the listed users and their statuses."""
    page, _ = await node.presence.list_members(ROOM, 0, 100, 100_000, None)
    return {member.user_id: member.status for member in page.members}


def known(node: Node, user_id: int) -> LocalStatus:
    """Return the status that a node knows of a user."""
    found = node.presence._rooms[ROOM].statuses
    assert found is not None
    return found[user_id]


async def test_the_last_status_of_all_nodes_counts(redis_server: RedisServer, redis_prefix: str) -> None:
    """Also after the node that set it has no connection of the user any more, and the server has lost its data."""
    async with nodes(redis_server.url, redis_prefix, 2, grace=60.0) as (a, b):
        for node in (a, b):
            await node.presence.enter(ROOM, 1, "alice", 1)
        for number in range(6):
            await (a, b)[number % 2].presence.set_status(ROOM, 1, f"{number}")
            assert await statuses(a) == {1: f"{number}"}
        await asyncio.gather(a.presence.set_status(ROOM, 1, "x"), b.presence.set_status(ROOM, 1, "y"))
        last = (await statuses(a))[1]
        assert last in ("x", "y")
        await b.presence.leave(ROOM, 1, 1, is_lost=True)
        await b.presence.enter(ROOM, 1, "alice", 2)
        assert known(b, 1).text == last
        await redis_server("DEL", *await redis_server("KEYS", f"{{{redis_prefix}:*"))
        for node in (a, b):
            await node.renew()
        assert await statuses(a) == {1: last}


async def test_nodes_learn_a_status_of_a_large_room(redis_server: RedisServer, redis_prefix: str) -> None:
    """It is not announced to the members, but to the other nodes of the user, which write it after a loss of data."""
    async with AsyncExitStack() as stack:
        a, b = [Harness(broker_for(redis_server.url, redis_prefix), asyncio.sleep) for _ in range(2)]
        for one in (a, b):
            await one.broker.start(one.listener, Announcements(max_users=0))
            stack.push_async_callback(one.broker.close)
            await one.broker.subscribe([ROOM])
            await one.broker.enter(ROOM, 1, "alice", 1)
        await b.broker.set_status(ROOM, 1, "away")
        presence = a.broker._presence  # type: ignore[attr-defined]
        await wait_until(lambda: bool(presence._rooms[ROOM].statuses))
        assert presence._rooms[ROOM].statuses[1].text == "away"
        await b.broker.leave(ROOM, 1, 1)
        await redis_server("DEL", *await redis_server("KEYS", f"{{{redis_prefix}:{ROOM}}}:[a-z]"))
        await presence.renew()
        assert [one.status for one in (await a.broker.list_members(ROOM)).members] == ["away"]
        assert a.listener.statuses == b.listener.statuses == []


async def test_a_status_during_an_outage(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """A status that could not be set is set and announced when the server returns, unless a later one was set."""
    server = await fresh_redis()
    async with (
        nodes(server.url, redis_prefix, 1) as (b,),
        Proxy("127.0.0.1", server.port) as proxy,
        nodes(f"redis://127.0.0.1:{proxy.port}", redis_prefix, 1, stem="cut") as (a,),
    ):
        for node in (a, b):
            await node.presence.enter(ROOM, 1, "alice", 1)
            await node.presence.enter(ROOM, 2, "bob", 2)
        await proxy.stop()
        for user_id in (1, 2):
            with pytest.raises(Unavailable):
                await a.presence.set_status(ROOM, user_id, "early")
        await asyncio.sleep(0.05)
        await b.presence.set_status(ROOM, 2, "late")
        await proxy.start()
        await wait_until(a.reaches_redis)
        async with announcements(server, redis_prefix) as announced:
            await a.restore()
            assert await statuses(b) == {1: "early", 2: "late"}
            assert known(a, 2).text == "late"
            assert [one[1:] for one in await announced.everything()] == [(1, "~", "early")]


async def test_a_status_that_waited_when_data_was_lost(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """It is announced after it was written again; others are not announced again."""
    server = await fresh_redis()
    async with nodes(server.url, redis_prefix, 1) as (node,), announcements(server, redis_prefix) as announced:
        for user_id in (1, 2):
            await node.presence.enter(ROOM, user_id, "name", user_id)
            await node.presence.set_status(ROOM, user_id, "first")
        await node.presence.set_status(ROOM, 1, "waits")
        await server("FLUSHALL")
        await node.renew()
        found = [one[1:] for one in await announced.everything()]
        assert found[2:] == [(1, "~", "first"), (2, "~", "first"), (1, "~", "waits")] or found[-1] == (1, "~", "waits")
        assert found.count((2, "~", "first")) == 1
        assert await statuses(node) == {1: "waits", 2: "first"}


async def test_a_node_that_was_removed_as_dead_restores_statuses(redis_server: RedisServer, redis_prefix: str) -> None:
    """Its users are announced as joined again, and so are their statuses."""
    async with (
        announcements(redis_server, redis_prefix) as announced,
        nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (a, suspended),
    ):
        await suspended.presence.enter(ROOM, 1, "alice", 5)
        await suspended.presence.set_status(ROOM, 1, "away")
        await a.presence.enter(ROOM, 2, "bob", 6)
        await wait_until(lambda: leaves_after_renewal(a, announced, 1))
        await suspended.renew()
        assert [one[2:] for one in await announced.everything() if one[1] == 1] == [
            ("+", ""),
            ("~", "away"),
            ("-", ""),
            ("+", ""),
            ("~", "away"),
        ]
        assert await statuses(a) == {2: "", 1: "away"}


async def test_a_server_without_memory(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """A status is refused as a whole, members can be listed meanwhile, and the status is set afterwards."""
    server = await fresh_redis()
    async with nodes(server.url, redis_prefix, 1) as (node,), announcements(server, redis_prefix) as announced:
        await node.presence.enter(ROOM, 1, "alice", 1)
        await server("DEL", f"{{{redis_prefix}:{ROOM}}}:o")
        await server("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(Unavailable):
            await node.presence.set_status(ROOM, 1, "away")
        assert await statuses(node) == {1: ""}
        await server("CONFIG", "SET", "maxmemory", 0)
        await node.renew()
        assert await statuses(node) == {1: "away"}
        assert [one[2:] for one in await announced.everything()][-1] == ("~", "away")


@pytest.mark.parametrize("how", ["missing", "partial", "stale", "equal numbers"])
async def test_the_order_is_rebuilt(redis_server: RedisServer, redis_prefix: str, how: str) -> None:
    """If the order is missing, or does not fit the users, the list is complete and in order."""
    users, order = f"{{{redis_prefix}:{ROOM}}}:p", f"{{{redis_prefix}:{ROOM}}}:o"
    async with nodes(redis_server.url, redis_prefix, 1) as (node,):
        for n in range(30):
            await node.presence.enter(ROOM, n, "name", n)
        if how == "missing":
            await redis_server("DEL", order)
        elif how == "partial":
            await redis_server("ZREM", order, *[str(n) for n in range(0, 30, 3)])
        elif how == "stale":
            await redis_server("ZREM", order, "5")
            await redis_server("ZADD", order, 1, "77")
        else:
            for n in range(30):
                value = json.loads(await redis_server("HGET", users, str(n)))
                await redis_server("HSET", users, str(n), json.dumps(value | {"at": str(1764471180123456 + n // 10)}))
            await redis_server("DEL", order)
        found: list[int | str] = []
        cursor = 0
        while True:
            page, _ = await node.presence.list_members(ROOM, cursor, 7, 100_000, 3)
            assert (page.total, page.has_user) == (30, True)
            found += [member.user_id for member in page.members]
            if page.cursor is None:
                break
            cursor = int(page.cursor)
        assert sorted(found, key=int) == list(range(30))
        if how != "equal numbers":
            assert found == list(range(30))
        assert await redis_server("ZCARD", order) == 30
        assert 0 < await redis_server("PTTL", order) <= await redis_server("PTTL", users) + 1000


async def test_users_who_are_away_and_not_due(redis_server: RedisServer, redis_prefix: str) -> None:
    """If the server evicted the key of due users, the leave of an absent user is announced after the next list."""
    async with (
        announcements(redis_server, redis_prefix) as announced,
        nodes(redis_server.url, redis_prefix, 1, grace=0.1) as (node,),
    ):
        for user_id in (1, 2):
            await node.presence.enter(ROOM, user_id, "name", user_id)
        await node.presence.leave(ROOM, 1, 1, is_lost=True)
        await redis_server("DEL", *[f"{{{redis_prefix}:{ROOM}}}:{letter}" for letter in "ad"])
        assert await statuses(node) == {1: "", 2: ""}
        assert node.presence._writer.due[ROOM] <= time.monotonic()
        await wait_until(lambda: _is_told(node, announced))
        assert await statuses(node) == {2: ""}


async def _is_told(node: Node, announced: Announced) -> bool:
    node.presence.announce_due()
    return await announced.left() == [1]


async def test_a_page_of_a_room_of_10000_reads_100_users(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """A page costs Redis one read for each of its users, and the node at most 64 KB, whatever the size of the room."""
    server = await fresh_redis()
    async with nodes(server.url, redis_prefix, 1) as (node,):
        await asyncio.gather(*[node.presence.enter(ROOM, n, f"user{n}", n) for n in range(10_000)])

        async def count(name: str) -> int:
            return int((await server.info("commandstats")).get(f"cmdstat_{name}", {"calls": 0})["calls"])

        before = {name: await count(name) for name in ("hget", "hgetall", "zrangebyscore", "evalsha")}
        page, _ = await node.presence.list_members(ROOM, 0, 100, MAX_MEMBERS_BYTES, 9_999)
        calls = {name: await count(name) - before[name] for name in before}
        assert (len(page.members), page.total, page.has_user) == (100, 10_000, True)
        assert calls["hgetall"] == 0
        assert calls["hget"] <= 101
        assert calls["evalsha"] <= 2  # the first one may be unknown to the server
        reply = await node.presence._store.read_page(ROOM, 0, 100, MAX_MEMBERS_BYTES, "")
        assert sum(len(one) for one in reply[6]) <= MAX_MEMBERS_BYTES


async def test_a_node_that_missed_statuses(redis_server: RedisServer, redis_prefix: str) -> None:
    """A node whose connections break again and again shows the members the last status of each user in the end."""
    async with Proxy("127.0.0.1", redis_server.port) as proxy, AsyncExitStack() as stack:
        whole, cut = [
            Harness(broker_for(url, redis_prefix), asyncio.sleep)
            for url in (redis_server.url, f"redis://127.0.0.1:{proxy.port}")
        ]
        for one in (whole, cut):
            await one.broker.start(one.listener)
            stack.push_async_callback(one.broker.close)
            await one.broker.subscribe([ROOM])
        await cut.broker.list_members(ROOM)
        users = range(30)
        for user_id in users:
            await whole.broker.enter(ROOM, user_id, "name", user_id)
        for number in range(90):
            if number % 20 == 10:
                proxy.reset()
            await whole.broker.set_status(ROOM, number % 30, f"{number}")

        async def is_told() -> bool:
            await whole.broker.announce_due()
            shown = {user_id: status for _, user_id, _, status in cut.listener.statuses}
            return shown == {n: f"{60 + n}" for n in users}

        await wait_until(is_told)
        assert cut.listener.announced == whole.listener.announced
