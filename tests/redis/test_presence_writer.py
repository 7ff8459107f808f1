"""Presence on Redis: outages and random operations. This node and the server agree in the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_nodes import SHORT_LEASE, Node, announcements, is_empty, keys_of, leaves_after_renewal, nodes
from redis_servers import FreshRedis, RedisServer, run
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.broker.base import Member, PresenceChange
from roomcast.errors import Unavailable

ROOM = "channel:1"
OTHER = "channel:2"


async def _is_cut_off(node: Node) -> bool:
    try:
        await node.presence.members(ROOM)
    except Unavailable:
        return True
    return False


class TestOutages:
    async def test_changes_during_an_outage(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """Users who came or left during an outage with data loss are announced afterwards; others are not."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 2) as (a, b):
            await a.presence.enter(ROOM, 1, "stays", 1)
            await a.presence.enter(ROOM, 2, "goes", 1)
            await a.presence.enter(ROOM, 3, "goes from a", 1)
            await b.presence.enter(ROOM, 3, "stays on b", 1)
            await a.presence.enter(ROOM, 5, "goes and comes", 1)
            server.kill()
            for node in (a, b):
                await wait_until(lambda node=node: _is_cut_off(node))  # type: ignore[misc]
            for user_id in (2, 3, 5):
                assert await a.presence.leave(ROOM, user_id, 1) == PresenceChange(False, 4)
            with pytest.raises(Unavailable):
                await a.presence.enter(ROOM, 4, "comes", 1)
            with pytest.raises(Unavailable):
                await a.presence.enter(ROOM, 5, "goes and comes", 2)
            with pytest.raises(Unavailable):
                await a.presence.enter(ROOM, 6, "was never seen", 2)
            await a.presence.leave(ROOM, 6, 2)
            await server.start()
            async with announcements(server, redis_prefix) as announced:
                for node in (b, a):
                    await wait_until(node.reaches_redis)
                    await node.restore()
                assert Counter(await announced.all()) == Counter([(ROOM, 2, False), (ROOM, 4, True)])
            assert await b.presence.members(ROOM) == [
                Member(3, "stays on b"),
                Member(1, "stays"),
                Member(4, "comes"),
                Member(5, "goes and comes"),
            ]
            assert await a.presence.rooms() == {ROOM: 4}

    async def test_leaving_all_nodes_during_an_outage(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """A user who left all nodes during an outage with data loss is announced once."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 3) as three:
            for node in three:
                await node.presence.enter(ROOM, 1, "alice", 1)
            server.kill()
            for node in three:
                await wait_until(lambda node=node: _is_cut_off(node))  # type: ignore[misc]
                await node.presence.leave(ROOM, 1, 1)
            await server.start()
            async with announcements(server, redis_prefix) as announced:
                for node in three:
                    await wait_until(node.reaches_redis)
                await asyncio.gather(*[node.restore() for node in three])
                assert await announced.all() == [(ROOM, 1, False)]
            assert await is_empty(three[0], ROOM)

    async def test_no_node_is_removed_right_after_an_outage(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """After an outage longer than a lease, other nodes have one lease of time to renew."""
        lease = 1.5
        server = await fresh_redis()
        async with (
            announcements(server, redis_prefix) as announced,
            nodes(server.url, redis_prefix, 3, lease) as three,
        ):
            for n, node in enumerate(three):
                await node.presence.enter(ROOM, n, "name", 1)
            await asyncio.sleep(lease)  # from now on they may remove dead nodes
            for node in three:
                await node.renew()
            server.pause()
            await asyncio.sleep(lease * 1.2)
            server.resume()
            for node in three:
                await wait_until(node.reaches_redis)
            await three[0].renew()
            assert len(await three[0].presence.members(ROOM)) == 3
            for node in three[1:]:
                await node.renew()
            assert await three[1].presence.rooms() == {ROOM: 3}
            assert await announced.all() == [(ROOM, n, True) for n in range(3)]

    async def test_a_single_node_is_cut_off(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node that cannot reach Redis is removed as dead; users who left it meanwhile are announced once."""
        async with (
            Proxy("127.0.0.1", redis_server.port) as proxy,
            nodes(redis_server.url, redis_prefix, 1, SHORT_LEASE) as (a,),
            nodes(f"redis://127.0.0.1:{proxy.port}", redis_prefix, 1, SHORT_LEASE, "cut") as (cut,),
            announcements(redis_server, redis_prefix) as announced,
        ):
            await a.presence.enter(ROOM, "a", "a", 1)
            for user_id in (1, 2):
                await cut.presence.enter(ROOM, user_id, "name", 1)
            await proxy.stop()
            await wait_until(lambda: _is_cut_off(cut))
            await cut.presence.leave(ROOM, 1, 1)
            await wait_until(lambda: leaves_after_renewal(a, announced, 2))
            await proxy.start()
            await wait_until(cut.reaches_redis)
            await cut.restore()
            assert Counter(await announced.left()) == Counter([1, 2])
            assert await announced.joined() == ["a", 1, 2, 2]

    async def test_data_is_lost_while_connected(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """Data lost without a reconnect is written again at the next renewal, and no user is announced."""
        server = await fresh_redis()
        async with announcements(server, redis_prefix) as announced, nodes(server.url, redis_prefix, 2) as two:
            for node in two:
                for n in range(250):
                    await node.presence.enter(ROOM, f"{node.name}-{n}", "name", n)
            await server("FLUSHALL")
            for node in two:
                await node.renew()
            assert [member.user_id for member in await two[0].presence.members(ROOM)] == [
                f"{node.name}-{n}" for node in two for n in range(250)
            ]
            assert await two[1].presence.rooms() == {ROOM: 500}
            assert len(await announced.all()) == 500

    async def test_close_without_redis(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """A node can close while Redis is unreachable."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 1) as (node,):
            await node.presence.enter(ROOM, 1, "alice", 1)
            server.kill()
            await wait_until(lambda: _is_cut_off(node))
            await node.presence.close()


OPERATIONS = st.tuples(
    st.sampled_from(["enter", "enter", "leave", "leave", "renew", "restore", "lose"]),
    st.integers(0, 2),
    st.sampled_from([ROOM, OTHER]),
    st.sampled_from([1, "1"]),
    st.integers(1, 2),
)


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(st.lists(OPERATIONS, max_size=8), max_size=8), abrupt=st.booleans())
def test_random_operations(
    redis_server: RedisServer, rounds: list[list[tuple[str, int, str, int | str, int]]], abrupt: bool
) -> None:
    """Random concurrent operations on three nodes match the model in the end, and each change is announced once."""
    run(_play(redis_server, rounds, abrupt))


class _Model:
    """The actual members."""

    def __init__(self) -> None:
        self.truth: set[tuple[int, str, int | str, int]] = set()

    def present(self) -> set[tuple[str, int | str]]:
        return {(room, user_id) for _, room, user_id, _ in self.truth}

    def members(self, room: str) -> list[Member]:
        found = Counter(user_id for _, where, user_id, _ in self.truth if where == room)
        return sorted((Member(user_id, "name", n) for user_id, n in found.items()), key=repr)


async def _play(server: RedisServer, rounds: list[list[tuple[str, int, str, int | str, int]]], abrupt: bool) -> None:
    prefix, model = f"play-{secrets.token_hex(5)}", _Model()
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        nodes(f"redis://127.0.0.1:{proxy.port}", prefix, 3) as three,
        announcements(server, prefix) as announced,
    ):

        async def run_operation(what: str, node: int, room: str, user_id: int | str, connection: int) -> None:
            presence = three[node].presence
            if what == "lose" and abrupt:
                proxy.reset()
            elif what == "enter":
                model.truth.add((node, room, user_id, connection))
                await _quiet(presence.enter(room, user_id, "name", connection))
            elif what == "leave":
                model.truth.discard((node, room, user_id, connection))
                await _quiet(presence.leave(room, user_id, connection))
            elif what in ("renew", "restore"):
                await getattr(presence, what)()

        for operations in rounds:
            await asyncio.gather(*[run_operation(*one) for one in operations])
        for node in three:
            await wait_until(node.reaches_redis)
            await node.restore()
        for room in (ROOM, OTHER):
            assert sorted(await three[0].presence.members(room), key=repr) == model.members(room)
        rooms = Counter(room for room, _ in model.present())
        assert await three[1].presence.rooms() == dict(rooms)
        assert {key for key, is_in in (await announced.check()).items() if is_in} == model.present()
        for node in three:
            assert not node.presence._writer.writes
            await node.presence.close()
        assert await keys_of(server, prefix) == {}


async def _quiet(change: Awaitable[PresenceChange]) -> None:
    with contextlib.suppress(Unavailable):
        await change
