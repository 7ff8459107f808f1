"""Presence after a failover to a replica that lacks the last writes: no user stays listed who has left."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence

from broker_contract import Harness
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis_nodes import SHORT_LEASE, Node, broker_for, is_empty, keys_of, nodes, redis_broker
from redis_servers import RedisServer, run
from waiting import wait_until

from roomcast.broker.base import Announcements, Member
from roomcast.broker.redis.presence import Presence

ROOM = "channel:1"


class Copy:
    """A copy of all keys under a prefix, which a replica would have if it received no later write."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self._server = server
        self._pattern = f"{{{prefix}:*"
        self._values: dict[bytes, tuple[bytes, int]] = {}

    async def take(self) -> None:
        """Copy the current state."""
        async with self._server.client(decode_responses=False) as client:
            keys = await client.keys(self._pattern)
            self._values = {key: (await client.dump(key), await client.pexpiretime(key)) for key in keys}

    async def restore(self, *connected: Presence) -> None:
        """Restore the copy, and report a new generation to nodes, as after a failover."""
        async with self._server.client(decode_responses=False) as client:
            if keys := await client.keys(self._pattern):
                await client.delete(*keys)
            for key, (value, expiry) in self._values.items():
                await client.restore(key, expiry, value, absttl=True)
        for presence in connected:
            presence.on_new_generation("server", b"another one")

    async def lose_a_leave(self, users: Sequence[int], *connected: Node) -> None:
        """Lose the leave of the first of ``users``, who have joined on the first of all nodes, in a failover."""
        presence = connected[0].presence
        for user_id in users:
            await presence.enter(ROOM, user_id, "name", 1)
        await self.take()
        await presence.leave(ROOM, users[0], 1)
        await self.restore(*(node.presence for node in connected))

    async def keep(self) -> None:
        """Store the copied keys without a TTL, because those of followed rooms are stored for a day."""
        for key in self._values:
            await self._server("PERSIST", key)


async def _lists(node: Node, *users: int) -> bool:
    return {member.user_id for member in await node.presence.members(ROOM)} == set(users)


class TestALostLeave:
    """Redis loses the leave of the last user whom a node had in the room."""

    async def test_another_user_joins_on_the_node(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """The user does not stay for as long as the node has others in the room, nor after they left."""
        copy = Copy(redis_server, redis_prefix)
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            await copy.lose_a_leave([20], a, b)
            await a.restore()
            await a.presence.enter(ROOM, 7, "new", 2)
            await a.renew()
            assert await _lists(b, 7)
            await a.presence.leave(ROOM, 7, 2)
            assert await is_empty(b, ROOM)

    async def test_a_user_joins_and_leaves_at_once(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """A join and a leave in one write do not remove the lease of the node, which other users would need."""
        copy = Copy(redis_server, redis_prefix)
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            await copy.lose_a_leave([20], a, b)
            await a.restore()
            await asyncio.gather(a.presence.enter(ROOM, 7, "new", 2), a.presence.leave(ROOM, 7, 2))
            await a.renew()
            assert await is_empty(b, ROOM)
            assert await keys_of(redis_server, redis_prefix) == {}

    async def test_another_user_leaves_before_the_check(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """The leave of the last user, known or pending after the failover, does not hide the restored one."""
        copy = Copy(redis_server, redis_prefix)
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            await copy.lose_a_leave([20, 21], a, b)
            await a.presence.leave(ROOM, 21, 1)
            await a.restore()
            assert await is_empty(b, ROOM)
            assert await keys_of(redis_server, redis_prefix) == {}

    async def test_a_renewal_checks_as_well(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """If the members could not be read after the failover, the next renewal removes the user."""
        copy = Copy(redis_server, redis_prefix)
        async with nodes(redis_server.url, redis_prefix, 2) as (a, b):
            await copy.lose_a_leave([20, 21], a, b)
            await a.renew()
            assert await _lists(b, 21)

    async def test_no_other_node_reads(self, redis_server: RedisServer, redis_prefix: str) -> None:
        """The node itself removes its restored users when the lease has expired, if it has no members in the room."""
        copy = Copy(redis_server, redis_prefix)
        async with nodes(redis_server.url, redis_prefix, 1, SHORT_LEASE) as (a,):
            await copy.lose_a_leave([20], a)
            await copy.keep()
            await a.restore()
            await wait_until(lambda: is_empty(a, ROOM))

    async def test_a_user_who_was_lost_meanwhile_is_announced(
        self, redis_server: RedisServer, redis_prefix: str
    ) -> None:
        """The removal of a user whose connection was lost after the members were read does not end the grace."""
        async with nodes(redis_server.url, redis_prefix, 1, grace=60.0) as (a,):
            for user_id in (1, 2):
                await a.presence.enter(ROOM, user_id, "name", 1)
            await a.presence.leave(ROOM, 1, 1, is_lost=True)
            await a.presence._writer.remove_restored(ROOM, [1])
            assert await a.presence.members(ROOM) == [Member(1, "name", 0), Member(2, "name")]


async def test_the_hooks_of_a_lost_leave(redis_server: RedisServer, redis_prefix: str) -> None:
    """If Redis loses the leave of a user whose join is being processed, the leave is reported after the join."""
    copy, node = Copy(redis_server, redis_prefix), Harness(broker_for(redis_server.url, redis_prefix), asyncio.sleep)
    await node.broker.start(node.listener, Announcements(followed_types=frozenset({"channel"})))
    presence = redis_broker(node)._presence
    try:
        node.listener.is_busy = True
        await node.broker.enter(ROOM, 20, "gone", 1)
        await wait_until(lambda: node.listener.changes == [(ROOM, 20, "gone", True)])
        await copy.take()
        await node.broker.leave(ROOM, 20, 1)
        await copy.restore(presence)
        node.listener.is_busy = False
        for future in node.listener.futures:
            future.set_result(None)
        await node.broker.enter(ROOM, 7, "new", 1)
        await presence.renew()
        await wait_until(lambda: (ROOM, 20, "gone", False) in node.listener.changes)
    finally:
        await node.broker.close()


async def test_the_leases_expire_with_the_users(redis_server: RedisServer, redis_prefix: str) -> None:
    """While users are stored, so are the leases of their nodes: otherwise users of a dead node could not be removed."""
    async with nodes(redis_server.url, redis_prefix, 1, grace=5.0) as (a,):
        await a.presence.enter(ROOM, 1, "alice", 1)
        leases, users = [f"{{{redis_prefix}:{ROOM}}}:{letter}" for letter in "np"]
        assert await redis_server("PEXPIRETIME", leases) == await redis_server("PEXPIRETIME", users)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "leave", "leave", "leave", "renew", "restore"]),
        st.integers(0, 1),
        st.sampled_from([20, 21]),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@example(before=[("enter", 0, 20)], lost=[("leave", 0, 20)], after=[])
@given(before=OPERATIONS, lost=OPERATIONS, after=OPERATIONS)
def test_random_losses(
    redis_server: RedisServer,
    before: list[tuple[str, int, int]],
    lost: list[tuple[str, int, int]],
    after: list[tuple[str, int, int]],
) -> None:
    """If any operations are lost, the members are right when each node has written to the room again."""
    run(_play(redis_server, before, lost, after))


async def _play(server: RedisServer, *phases: list[tuple[str, int, int]]) -> None:
    prefix = f"older-{secrets.token_hex(5)}"
    copy, truth = Copy(server, prefix), set[tuple[int, int]]()
    async with nodes(server.url, prefix, 2) as two:

        async def run_operation(what: str, node: int, user_id: int) -> None:
            presence = two[node].presence
            if what == "enter":
                truth.add((node, user_id))
                await presence.enter(ROOM, user_id, "name", 1)
            elif what == "leave":
                truth.discard((node, user_id))
                await presence.leave(ROOM, user_id, 1)
            else:
                await getattr(presence, what)()

        for number, operations in enumerate(phases):
            await asyncio.gather(*[run_operation(*one) for one in operations])
            if number == 0:
                await copy.take()
            elif number == 1:
                await copy.restore(*[node.presence for node in two])
        for node in two:
            await node.restore()
            await node.presence.enter(ROOM, 9, "name", 1)
            await node.presence.leave(ROOM, 9, 1)
            await node.renew()
        members = {member.user_id: member.connections for member in await two[0].presence.members(ROOM)}
        assert members == Counter(user_id for _, user_id in truth)
