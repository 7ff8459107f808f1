"""Presence on Redis: all nodes list the same members, and each change is announced once, after any failure."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_nodes import Node, nodes, until
from redis_servers import FreshRedis, RedisServer, run
from tcp_proxy import Proxy

from roomcast.broker.base import Member, PresenceChange
from roomcast.errors import Unavailable

ROOM = "channel:1"
OTHER = "channel:2"
#: A lease that expires within a test, in seconds.
SHORT = 0.4


async def keys_of(server: RedisServer, prefix: str) -> dict[str, int]:
    """Return the keys of rooms under ``prefix``, and their TTLs in ms."""
    return {key: await server("PTTL", key) for key in await server("KEYS", f"{{{prefix}:*")}


async def calls(server: RedisServer) -> int:
    """Return how many scripts the server has executed."""
    stats = await server.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


class TestEnterAndLeave:
    async def test_a_user_on_two_nodes(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """``user_changed`` is True for the first connection on any node, and for the last one."""
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            assert await a.presence.enter(ROOM, 1, "alice", 10) == PresenceChange(True, 1)
            assert await b.presence.enter(ROOM, 1, "alice", 10) == PresenceChange(False, 1)
            assert await b.presence.enter(ROOM, 2, "bob", 11) == PresenceChange(True, 2)
            assert await a.presence.enter(ROOM, 1, "alice", 12) == PresenceChange(False, 2)
            for node in (a, b):
                assert await node.presence.members(ROOM) == [Member(1, "alice", 3), Member(2, "bob")]
            assert await a.presence.leave(ROOM, 1, 10) == PresenceChange(False, 2)
            assert await a.presence.leave(ROOM, 1, 12) == PresenceChange(False, 2)
            assert await b.presence.members(ROOM) == [Member(1, "alice", 1), Member(2, "bob")]
            assert await b.presence.leave(ROOM, 1, 10) == PresenceChange(True, 1)
            assert await b.presence.leave(ROOM, 2, 11) == PresenceChange(True, 0)
            assert await keys_of(redis_server, redis_prefix) == {}
            assert a.lost == a.returned == b.lost == b.returned == []

    async def test_concurrent_enters_and_leaves(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Of concurrent enters on three nodes exactly one per user reports a change, and so of the leaves."""
        async with nodes(redis_server.url, redis_prefix, 3) as three:
            everyone = [(n % 3, n % 20, n) for n in range(600)]
            random.shuffle(everyone)
            came = await asyncio.gather(*[three[k].presence.enter(ROOM, u, f"u{u}", c) for k, u, c in everyone])
            assert Counter(
                u for (_, u, _), change in zip(everyone, came, strict=True) if change.user_changed
            ) == Counter(range(20))
            assert sorted(await three[0].presence.members(ROOM)) == [Member(u, f"u{u}", 30) for u in range(20)]
            random.shuffle(everyone)
            went = await asyncio.gather(*[three[k].presence.leave(ROOM, u, c) for k, u, c in everyone])
            assert Counter(
                u for (_, u, _), change in zip(everyone, went, strict=True) if change.user_changed
            ) == Counter(range(20))
            assert await keys_of(redis_server, redis_prefix) == {}

    async def test_names(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """The last name counts on all nodes; leaving or writing all users again does not restore an old one."""
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            await a.presence.enter(ROOM, 1, "alice", 10)
            await a.presence.enter(ROOM, 1, "alice", 11)
            await b.presence.enter(ROOM, 1, "Alice \u2603 \ud800\0{}", 12)
            await a.presence.leave(ROOM, 1, 10)
            await a.presence.restore()
            assert await a.presence.members(ROOM) == [Member(1, "Alice \u2603 ?\0{}", 2)]
            assert await a.presence.enter(ROOM, 1, "Al", 11) == PresenceChange(False, 1)
            assert await b.presence.members(ROOM) == [Member(1, "Al", 2)]

    async def test_any_user_id_and_room_is_valid(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """The text of a number is another user than the number; no character in ids and rooms is special."""
        ids = [1, "1", "", 'a"}', "é☃", "\0", 2**70, -1]
        room = "task:{x}:*\r\n☃"
        async with nodes(redis_server.url, redis_prefix, 1) as (node,):
            for user_id in ids:
                assert (await node.presence.enter(room, user_id, "name", 5)).user_changed
            assert [member.user_id for member in await node.presence.members(room)] == ids
            assert await node.presence.rooms() == {room: len(ids)}
            for user_id in ids:
                assert (await node.presence.leave(room, user_id, 5)).user_changed

    async def test_members_are_in_order_of_arrival(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Members are listed in order of arrival over all nodes; a user who returns is last."""
        async with nodes(redis_server.url, redis_prefix, 2) as two:
            for n in range(20):
                await two[n % 2].presence.enter(ROOM, n, "name", n)
            await two[0].presence.leave(ROOM, 4, 4)
            await two[1].presence.enter(ROOM, 4, "name", 99)
            found = [member.user_id for member in await two[0].presence.members(ROOM)]
            assert found == [n for n in range(20) if n != 4] + [4]

    async def test_repeats_cause_no_call(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """Entering again, and leaving without having entered, calls no script."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 1) as (node,):
            await node.presence.enter(ROOM, 1, "alice", 10)
            before = await calls(server)
            assert await node.presence.enter(ROOM, 1, "alice", 10) == PresenceChange(False, 1)
            assert await node.presence.leave(ROOM, 1, 11) == PresenceChange(False, 1)
            assert await node.presence.leave(ROOM, 2, 10) == PresenceChange(False, 1)
            assert await node.presence.leave(OTHER, 1, 10) == PresenceChange(False, 0)
            assert await calls(server) == before > 0

    async def test_concurrent_enters_share_calls(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """Users who enter a room concurrently are written together."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 1) as (node,):
            changes = await asyncio.gather(*[node.presence.enter(ROOM, n, "name", n) for n in range(1000)])
            assert all(change.user_changed for change in changes)
            assert await calls(server) < 30
            assert [member.user_id for member in await node.presence.members(ROOM)] == list(range(1000))

    async def test_overlapping_changes_of_one_user(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Overlapping changes are reported in order, or not at all if they cancel each other out."""
        async with nodes(redis_server.url, redis_prefix, 1) as (node,):
            enter, leave = node.presence.enter, node.presence.leave
            operations = [enter(ROOM, 1, "a", 1), leave(ROOM, 1, 1), enter(ROOM, 1, "a", 2), enter(ROOM, 1, "a", 3)]
            changes = await asyncio.gather(*operations)
            assert [change.user_changed for change in changes].count(True) == 1
            assert changes[1].user_changed is False
            assert await node.presence.members(ROOM) == [Member(1, "a", 2)]
            again = await asyncio.gather(leave(ROOM, 1, 2), leave(ROOM, 1, 3), enter(ROOM, 1, "a", 4))
            assert [change.user_changed for change in again] == [False] * 3
            assert await node.presence.members(ROOM) == [Member(1, "a", 1)]
            assert node.lost == node.returned == []

    async def test_a_cancelled_enter_is_announced(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A user whose ``enter`` was cancelled before the reply is in the room and is announced."""
        async with nodes(redis_server.url, redis_prefix, 1) as (node,):
            entering = asyncio.create_task(node.presence.enter(ROOM, 1, "alice", 1))
            await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait([entering])
            assert await node.presence.enter(ROOM, 2, "bob", 2) == PresenceChange(True, 2)
            assert node.returned == [(ROOM, Member(1, "alice"), 1)]


class TestRooms:
    async def test_rooms_on_all_nodes(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Every node counts the users of all rooms on all nodes, and lists no empty room."""
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            for n in range(120):
                await (a, b)[n % 2].presence.enter(f"task:{n % 60}", n, "name", n)
            await a.presence.enter(ROOM, 1, "alice", 1)
            await b.presence.enter(ROOM, 1, "alice", 1)
            expected = {f"task:{n}": 2 for n in range(60)} | {ROOM: 1}
            assert await a.presence.rooms() == await b.presence.rooms() == expected
            await a.presence.leave(ROOM, 1, 1)
            await b.presence.leave(ROOM, 1, 1)
            del expected[ROOM]
            assert await a.presence.rooms() == expected

    async def test_every_key_expires(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """All keys of rooms expire at most four leases after the last renewal, and so does the list of rooms."""
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            for n in range(40):
                await (a, b)[n % 2].presence.enter(f"task:{n % 7}", n, "name", n)
            for n in range(0, 40, 3):
                await (a, b)[n % 2].presence.leave(f"task:{n % 7}", n, n)
            await a.renew()
            await b.restore()
            found = await keys_of(redis_server, redis_prefix)
            assert len(found) == 14
            assert all(110_000 < left <= 120_000 for left in found.values()), found
            assert 50_000 < await redis_server("PTTL", f"{redis_prefix}:rooms") <= 60_000

    async def test_close_removes_all_users(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node that closes removes all its users, and none of other nodes."""
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            for n in range(300):
                await a.presence.enter(f"task:{n % 100}", n, "name", n)
            await b.presence.enter("task:7", 7, "name", 1)
            await a.presence.close()
            assert await b.presence.rooms() == {"task:7": 1}
            assert await b.presence.members("task:7") == [Member(7, "name", 1)]
            await b.presence.close()
            await b.presence.close()
            assert await keys_of(redis_server, redis_prefix) == {}


class TestDeadNodes:
    async def test_users_of_a_dead_node_are_removed_once(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Of three nodes that renew concurrently, one reports each user of a dead node; users on other nodes stay."""
        async with nodes(redis_server.url, redis_prefix, 4, SHORT) as four:
            *three, dead = four
            for node in four:
                await node.presence.enter(ROOM, node.name, node.name, 1)
            for n in range(50):
                await dead.presence.enter(ROOM, n, f"u{n}", n)
            await three[0].presence.enter(ROOM, 0, "u0", 7)
            await dead.die()

            async def all_told() -> bool:
                await asyncio.gather(*[node.renew() for node in three])
                return sum(len(node.lost) for node in three) >= 50

            await until(all_told)
            await asyncio.gather(*[node.presence.members(ROOM) for node in three], *[node.renew() for node in three])
            told = Counter(event for node in three for event in node.lost)
            expected = [Member(n, f"u{n}", 0) for n in range(1, 50)] + [Member(dead.name, dead.name, 0)]
            assert told == Counter({(ROOM, member, 4): 1 for member in expected})
            assert len(await three[1].presence.members(ROOM)) == 4
            assert [await node.presence.rooms() for node in three] == [{ROOM: 4}] * 3
            assert not any(node.returned for node in three)

    async def test_reading_removes_dead_nodes(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node without members in the room also removes dead nodes when it reads the members."""
        async with nodes(redis_server.url, redis_prefix, 2, SHORT) as (a, dead):
            await dead.presence.enter(ROOM, 1, "alice", 1)
            await dead.presence.enter(OTHER, 2, "bob", 1)
            await dead.die()
            await until(lambda: _is_empty(a))
            assert await a.presence.rooms() == {}
            assert a.lost[0] == (ROOM, Member(1, "alice", 0), 0)

    async def test_users_of_running_nodes_stay(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """No user is removed as long as the nodes renew."""
        async with nodes(redis_server.url, redis_prefix, 2, SHORT) as (a, b):
            await a.presence.enter(ROOM, 1, "alice", 1)
            await b.presence.enter(ROOM, 2, "bob", 1)
            for _ in range(15):
                await asyncio.gather(a.renew(), b.renew(), asyncio.sleep(SHORT / 6))
            assert len(await a.presence.members(ROOM)) == 2
            assert a.lost == b.lost == []

    async def test_a_suspended_node_returns(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Users of a node that was removed as dead return at its next renewal, and are announced if they were gone."""
        async with nodes(redis_server.url, redis_prefix, 2, SHORT) as (a, suspended):
            for user_id in (1, 2):
                await suspended.presence.enter(ROOM, user_id, f"u{user_id}", 5)
            await a.presence.enter(ROOM, 2, "u2", 6)
            await until(lambda: _renewed(a, lost=1))
            assert a.lost == [(ROOM, Member(1, "u1", 0), 1)]
            await suspended.renew()
            assert suspended.returned == [(ROOM, Member(1, "u1", 1), 2)]
            assert sorted(await a.presence.members(ROOM)) == [Member(1, "u1", 1), Member(2, "u2", 2)]
            assert await suspended.presence.leave(ROOM, 1, 5) == PresenceChange(True, 1)

    async def test_any_write_restores_a_removed_node(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node that was removed as dead also restores all its users when one of them enters or leaves."""
        async with nodes(redis_server.url, redis_prefix, 2, SHORT) as (a, suspended):
            for user_id in range(150):
                await suspended.presence.enter(ROOM, user_id, "name", 5)
            await a.presence.enter(ROOM, "a", "a", 1)
            await until(lambda: _renewed(a, lost=150))
            assert await suspended.presence.leave(ROOM, 0, 5) == PresenceChange(False, 1)
            await until(lambda: _has(a, 150))
            assert Counter(member.user_id for _, member, _ in suspended.returned) == Counter(range(1, 150))
            assert suspended.lost == []


async def _is_empty(node: Node, room: str = ROOM) -> bool:
    return not await node.presence.members(room)


async def _has(node: Node, users: int) -> bool:
    return len(await node.presence.members(ROOM)) == users


async def _renewed(node: Node, lost: int) -> bool:
    await node.renew()
    return len(node.lost) >= lost


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
                await until(lambda node=node: _is_cut_off(node))  # type: ignore[misc]
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
            for node in (b, a):
                await until(node.reaches_redis)
                await node.restore()
            assert await b.presence.members(ROOM) == [
                Member(3, "stays on b"),
                Member(1, "stays"),
                Member(4, "comes"),
                Member(5, "goes and comes"),
            ]
            assert [(room, member.user_id) for room, member, _ in a.lost] == [(ROOM, 2)]
            assert [(room, member.user_id) for room, member, _ in a.returned] == [(ROOM, 4)]
            assert b.lost == b.returned == []
            assert await a.presence.rooms() == {ROOM: 4}

    async def test_leaving_all_nodes_during_an_outage(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """A user who left all nodes during an outage with data loss is reported as lost once."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 3) as three:
            for node in three:
                await node.presence.enter(ROOM, 1, "alice", 1)
            server.kill()
            for node in three:
                await until(lambda node=node: _is_cut_off(node))  # type: ignore[misc]
                await node.presence.leave(ROOM, 1, 1)
            await server.start()
            for node in three:
                await until(node.reaches_redis)
            await asyncio.gather(*[node.restore() for node in three])
            assert sum(len(node.lost) for node in three) == 1
            assert await _is_empty(three[0])

    async def test_no_node_is_removed_right_after_an_outage(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """After an outage longer than a lease, other nodes have one lease of time to renew."""
        lease = 1.5
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 3, lease) as three:
            for n, node in enumerate(three):
                await node.presence.enter(ROOM, n, "name", 1)
            await asyncio.sleep(lease)  # from now on they may remove dead nodes
            for node in three:
                await node.renew()
            server.pause()
            await asyncio.sleep(lease * 1.2)
            server.resume()
            for node in three:
                await until(node.reaches_redis)
            await three[0].renew()
            assert len(await three[0].presence.members(ROOM)) == 3
            for node in three[1:]:
                await node.renew()
            assert await three[1].presence.rooms() == {ROOM: 3}
            assert not any(node.lost or node.returned for node in three)

    async def test_a_single_node_is_cut_off(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node that cannot reach Redis is removed as dead; users who left it meanwhile are announced once."""
        async with (
            Proxy("127.0.0.1", redis_server.port) as proxy,
            nodes(redis_server.url, redis_prefix, 1, SHORT) as (a,),
            nodes(f"redis://127.0.0.1:{proxy.port}", redis_prefix, 1, SHORT, "cut") as (cut,),
        ):
            await a.presence.enter(ROOM, "a", "a", 1)
            for user_id in (1, 2):
                await cut.presence.enter(ROOM, user_id, "name", 1)
            await proxy.stop()
            await until(lambda: _is_cut_off(cut))
            await cut.presence.leave(ROOM, 1, 1)
            await until(lambda: _renewed(a, lost=2))
            await proxy.start()
            await until(cut.reaches_redis)
            await cut.restore()
            assert sorted(member.user_id for _, member, _ in a.lost) == [1, 2]
            assert cut.lost == []
            assert cut.returned == [(ROOM, Member(2, "name", 1), 2)]

    async def test_data_is_lost_while_connected(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """Data lost without a reconnect is written again at the next renewal, and no user is announced."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 2) as two:
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
            assert not any(node.lost or node.returned for node in two)

    async def test_close_without_redis(self, fresh_redis: FreshRedis, redis_prefix: str) -> None:
        """A node can close while Redis is unreachable."""
        server = await fresh_redis()
        async with nodes(server.url, redis_prefix, 1) as (node,):
            await node.presence.enter(ROOM, 1, "alice", 1)
            server.kill()
            await until(lambda: _is_cut_off(node))
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
    """Random concurrent operations on three nodes match the model in the end, and each change is reported once."""
    run(_play(redis_server, rounds, abrupt))


class _Model:
    """The actual members, and how often each user was announced."""

    def __init__(self) -> None:
        self.truth: set[tuple[int, str, int | str, int]] = set()
        self.announced: Counter[tuple[str, int | str]] = Counter()

    def present(self) -> set[tuple[str, int | str]]:
        return {(room, user_id) for _, room, user_id, _ in self.truth}

    def members(self, room: str) -> list[Member]:
        found = Counter(user_id for _, where, user_id, _ in self.truth if where == room)
        return sorted((Member(user_id, "name", n) for user_id, n in found.items()), key=repr)


async def _play(server: RedisServer, rounds: list[list[tuple[str, int, str, int | str, int]]], abrupt: bool) -> None:
    prefix, model = f"play-{secrets.token_hex(5)}", _Model()
    async with Proxy("127.0.0.1", server.port) as proxy, nodes(f"redis://127.0.0.1:{proxy.port}", prefix, 3) as three:

        async def run_operation(what: str, node: int, room: str, user_id: int | str, connection: int) -> None:
            presence = three[node].presence
            if what == "lose" and abrupt:
                proxy.reset()
            elif what == "enter":
                model.truth.add((node, room, user_id, connection))
                came = await _quiet(presence.enter(room, user_id, "name", connection))
                model.announced[room, user_id] += came
            elif what == "leave":
                model.truth.discard((node, room, user_id, connection))
                went = await _quiet(presence.leave(room, user_id, connection))
                model.announced[room, user_id] -= went
            elif what in ("renew", "restore"):
                await getattr(presence, what)()

        for operations in rounds:
            await asyncio.gather(*[run_operation(*one) for one in operations])
        for node in three:
            await until(node.reaches_redis)
            await node.restore()
        for room in (ROOM, OTHER):
            assert sorted(await three[0].presence.members(room), key=repr) == model.members(room)
        rooms = Counter(room for room, _ in model.present())
        assert await three[1].presence.rooms() == dict(rooms)
        for node in three:
            model.announced.update((room, member.user_id) for room, member, _ in node.returned)
            model.announced.subtract((room, member.user_id) for room, member, _ in node.lost)
        if not abrupt:
            assert {key for key, n in model.announced.items() if n} == model.present()
            assert set(model.announced.values()) <= {0, 1}
        for node in three:
            assert not node.presence._writer.writes
            await node.presence.close()
        assert {key for key in await keys_of(server, prefix) if not key.endswith(":g")} == set()


async def _quiet(change: object) -> bool:
    try:
        return (await change).user_changed  # type: ignore[misc, no-any-return]
    except Unavailable:
        return False
