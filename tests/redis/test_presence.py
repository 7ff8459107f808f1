"""Presence on Redis: all nodes list the same members, and each change is announced once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from redis_nodes import (
    SHORT_LEASE,
    Node,
    StartNode,
    announcements,
    is_empty,
    keys_of,
    leaves_after_renewal,
    nodes,
    until_connected,
)
from redis_servers import FreshRedis, RedisServer, wait_for_server
from waiting import wait_until

from roomcast.broker.base import Member, PresenceChange

ROOM = "channel:1"
OTHER = "channel:2"


async def calls(server: RedisServer) -> int:
    """Return how many scripts the server has executed."""
    stats = await server.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


class TestEnterAndLeave:
    async def test_a_user_on_two_nodes(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """``user_changed`` is True for the first connection on any node, and for the last one."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 2) as (a, b),
        ):
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
            assert await announced.all() == [(ROOM, 1, True), (ROOM, 2, True), (ROOM, 1, False), (ROOM, 2, False)]

    async def test_concurrent_enters_and_leaves(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Of concurrent enters on three nodes exactly one per user reports a change. The same holds for leaves."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 3) as three,
        ):
            connections = [(n % 3, n % 20, n) for n in range(600)]
            random.shuffle(connections)
            came = await asyncio.gather(*[three[k].presence.enter(ROOM, u, f"u{u}", c) for k, u, c in connections])
            assert Counter(
                u for (_, u, _), change in zip(connections, came, strict=True) if change.user_changed
            ) == Counter(range(20))
            assert sorted(await three[0].presence.members(ROOM)) == [Member(u, f"u{u}", 30) for u in range(20)]
            random.shuffle(connections)
            went = await asyncio.gather(*[three[k].presence.leave(ROOM, u, c) for k, u, c in connections])
            assert Counter(
                u for (_, u, _), change in zip(connections, went, strict=True) if change.user_changed
            ) == Counter(range(20))
            assert await keys_of(redis_server, redis_prefix) == {}
            assert Counter(await announced.joined()) == Counter(await announced.left()) == Counter(range(20))

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
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 1) as (node,),
        ):
            enter, leave = node.presence.enter, node.presence.leave
            operations = [enter(ROOM, 1, "a", 1), leave(ROOM, 1, 1), enter(ROOM, 1, "a", 2), enter(ROOM, 1, "a", 3)]
            changes = await asyncio.gather(*operations)
            assert [change.user_changed for change in changes].count(True) == 1
            assert changes[1].user_changed is False
            assert await node.presence.members(ROOM) == [Member(1, "a", 2)]
            again = await asyncio.gather(leave(ROOM, 1, 2), leave(ROOM, 1, 3), enter(ROOM, 1, "a", 4))
            assert [change.user_changed for change in again] == [False] * 3
            assert await node.presence.members(ROOM) == [Member(1, "a", 1)]
            assert await announced.all() == [(ROOM, 1, True)]

    async def test_a_cancelled_enter_is_announced(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A user whose ``enter`` was cancelled before the reply is in the room and is announced."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 1) as (node,),
        ):
            entering = asyncio.create_task(node.presence.enter(ROOM, 1, "alice", 1))
            await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait([entering])
            assert await node.presence.enter(ROOM, 2, "bob", 2) == PresenceChange(True, 2)
            assert await announced.joined() == [1, 2]


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
        """All keys of rooms, and the list of rooms, expire at most four leases after the last renewal."""
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            for n in range(40):
                await (a, b)[n % 2].presence.enter(f"task:{n % 7}", n, "name", n)
            for n in range(0, 40, 3):
                await (a, b)[n % 2].presence.leave(f"task:{n % 7}", n, n)
            await a.renew()
            await b.restore()
            found = await keys_of(redis_server, redis_prefix)
            assert len(found) == 21
            assert all(110_000 < left <= 120_000 for left in found.values()), found
            assert 50_000 < await redis_server("PTTL", f"{redis_prefix}:rooms") <= 60_000
            for key in await redis_server("KEYS", f"{{{redis_prefix}:*:[gj]"):
                assert 0 < await redis_server("PTTL", key) <= 3_600_000

    async def test_an_empty_room_is_soon_forgotten(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """Nothing is kept for more than a minute, and the journal, which takes 4 KB, for 5 seconds."""
        async with nodes(redis_server.url, redis_prefix, 1) as (node,):
            for user_id in (1, 2):
                await node.presence.enter(ROOM, user_id, "name", user_id)
            await node.presence.leave(ROOM, 1, 1)
            assert await redis_server("PTTL", f"{{{redis_prefix}:{ROOM}}}:j") > 500_000  # of the other user
            await node.presence.leave(ROOM, 2, 2)
            assert await redis_server("PTTL", f"{{{redis_prefix}:{ROOM}}}:j") <= 5_000
            assert 0 < await redis_server("PTTL", f"{{{redis_prefix}:{ROOM}}}:g") <= 60_000

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
        """Of three nodes that renew concurrently, one announces each user of a dead node; users on other nodes stay."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 4, SHORT_LEASE) as four,
        ):
            *three, dead = four
            for node in four:
                await node.presence.enter(ROOM, node.name, node.name, 1)
            for n in range(50):
                await dead.presence.enter(ROOM, n, f"u{n}", n)
            await three[0].presence.enter(ROOM, 0, "u0", 7)
            await dead.die()

            async def all_are_lost() -> bool:
                await asyncio.gather(*[node.renew() for node in three])
                return len(await announced.left()) >= 50

            await wait_until(all_are_lost)
            await asyncio.gather(*[node.presence.members(ROOM) for node in three], *[node.renew() for node in three])
            assert Counter(await announced.left()) == Counter([*range(1, 50), dead.name])
            assert len(await three[1].presence.members(ROOM)) == 4
            assert [await node.presence.rooms() for node in three] == [{ROOM: 4}] * 3
            await announced.check()

    async def test_the_journal_of_dead_nodes_is_kept(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """If a node was removed as dead, the joins and leaves that it missed are kept, although the room is empty."""
        async with nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (node, dead):
            await dead.presence.enter(ROOM, 1, "name", 1)
            await dead.die()
            await wait_until(lambda: is_empty(node, ROOM))
            await node.presence.enter(ROOM, 2, "name", 2)
            await node.presence.leave(ROOM, 2, 2)
            assert await redis_server("PTTL", f"{{{redis_prefix}:{ROOM}}}:j") > 500_000
            assert await redis_server("PTTL", f"{{{redis_prefix}:{ROOM}}}:g") > 3_500_000

    async def test_reading_removes_dead_nodes(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node without members in the room also removes dead nodes when it reads the members."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (a, dead),
        ):
            await dead.presence.enter(OTHER, 2, "bob", 1)
            await dead.presence.enter(ROOM, 1, "alice", 1)  # last, because its lease must not expire first
            await dead.die()
            await wait_until(lambda: is_empty(a, ROOM))
            assert await a.presence.rooms() == {}
            assert await announced.left() == [1]

    async def test_users_of_running_nodes_stay(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """No user is removed as long as the nodes renew."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (a, b),
        ):
            await a.presence.enter(ROOM, 1, "alice", 1)
            await b.presence.enter(ROOM, 2, "bob", 1)
            for _ in range(15):
                await asyncio.gather(a.renew(), b.renew(), asyncio.sleep(SHORT_LEASE / 6))
            assert len(await a.presence.members(ROOM)) == 2
            assert await announced.left() == []

    async def test_a_suspended_node_returns(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node that was removed as dead restores its users at its next renewal, and announces the lost ones."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (a, suspended),
        ):
            for user_id in (1, 2):
                await suspended.presence.enter(ROOM, user_id, f"u{user_id}", 5)
            await a.presence.enter(ROOM, 2, "u2", 6)
            await wait_until(lambda: leaves_after_renewal(a, announced, 1))
            assert await announced.left() == [1]
            await suspended.renew()
            assert await announced.joined() == [1, 2, 1]
            assert sorted(await a.presence.members(ROOM)) == [Member(1, "u1", 1), Member(2, "u2", 2)]
            assert await suspended.presence.leave(ROOM, 1, 5) == PresenceChange(True, 1)

    async def test_any_write_restores_a_removed_node(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A node that was removed as dead also restores all its users when one of them enters or leaves."""
        async with (
            announcements(redis_server, redis_prefix) as announced,
            nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE) as (a, suspended),
        ):
            for user_id in range(150):
                await suspended.presence.enter(ROOM, user_id, "name", 5)
            await a.presence.enter(ROOM, "a", "a", 1)
            await wait_until(lambda: leaves_after_renewal(a, announced, 150))
            before = len(await announced.joined())
            assert await suspended.presence.leave(ROOM, 0, 5) == PresenceChange(False, 1)
            await wait_until(lambda: _has(a, 150))
            assert Counter((await announced.joined())[before:]) == Counter(range(1, 150))
            assert Counter(await announced.left()) == Counter(range(150))


async def _has(node: Node, users: int) -> bool:
    return len(await node.presence.members(ROOM)) == users


async def test_a_restart_with_an_older_state(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """Users who left or came after the state that Redis restarts with are listed correctly, and not announced again."""
    server = await fresh_redis(appendonly="yes", appendfsync="always")
    a, b = await start_node(server.url), await start_node(server.url)
    await a.broker.enter(ROOM, 1, "alice", 1)
    await a.broker.enter(ROOM, 2, "bob", 2)
    await b.broker.enter(ROOM, 3, "carol", 1)
    await a.broker.enter(OTHER, 2, "bob", 2)
    copy = await server.copy_data()
    for room in (ROOM, OTHER):
        assert (await a.broker.leave(room, 2, 2)).user_changed
    await b.broker.enter(ROOM, 1, "alice", 2)
    await b.broker.enter(ROOM, 4, "dave", 3)
    server.kill()
    server.lose_data(copy)
    await server.start()
    await until_connected(server, a, b)
    expected = [Member(1, "alice", 2), Member(3, "carol"), Member(4, "dave")]

    async def is_listed() -> bool:
        return all([await one.broker.members(ROOM) == expected for one in (a, b)])

    await wait_for_server(is_listed, "the members are listed")
    for one in (a, b):
        assert one.listener.announced == []
