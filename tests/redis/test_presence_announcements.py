"""Announcements of joins and leaves on several nodes: random operations match a model, also when nodes end."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from contextlib import AsyncExitStack

import pytest
from broker_contract import ROOM, Harness
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_nodes import SHORT_LEASE, Announced, Node, age_state, announcements, broker_for, keys_of, nodes
from redis_servers import FreshRedis, RedisServer, run
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.broker.base import Announcements
from roomcast.errors import Unavailable

#: The time of the server that passes in a test is far less than the difference between the grace and whole steps.
GRACE, STEP = 60.0, 25.0
NODES, USERS, CONNECTIONS = 3, 2, 2

OPERATIONS = st.tuples(
    st.sampled_from(
        ["enter"] * 4 + ["leave"] * 2 + ["lose"] * 2 + ["step"] * 4 + ["stop", "crash", "expire", "suspend"]
    ),
    st.integers(0, NODES - 1),
    st.integers(1, USERS),
    st.integers(1, CONNECTIONS),
)
Operation = tuple[str, int, int, int]


class _User:
    """The model of one user: what the members were told, and what is to follow."""

    def __init__(self) -> None:
        self.connections: set[tuple[str, int]] = set()
        self.announced: list[bool] = []
        self.joined_at = self.leave_at = float("-inf")

    @property
    def is_in(self) -> bool:
        """True if the members were told of a join, and of no leave since."""
        return bool(self.announced) and self.announced[-1]

    def enter(self, connection: tuple[str, int], now: float) -> None:
        self.connections.add(connection)
        self.settle(now)

    def remove(self, connection: tuple[str, int], now: float, *, is_lost: bool) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            if not self.connections:
                self.leave_at = now + GRACE if is_lost else now
                self.settle(now)

    def settle(self, now: float) -> None:
        """Announce what is due."""
        if self.connections and not self.is_in and now >= self.joined_at + GRACE:
            self.announced.append(True)
            self.joined_at = now
        elif not self.connections and self.is_in and now >= self.leave_at:
            self.announced.append(False)


class _World:
    """Three nodes, and the model. Time passes by moving the server's state into the past."""

    def __init__(self, server: RedisServer, prefix: str, running: list[Node], announced: Announced) -> None:
        self._server = server
        self._prefix = prefix
        self._nodes = running
        self._announced = announced
        self._crashed: set[str] = set()
        self._started = len(running)
        self._now = 0.0
        self._users: defaultdict[int, _User] = defaultdict(_User)
        for node in running:
            node.presence._store._remove_from = 0.0

    async def perform(self, what: str, number: int, user_id: int, connection: int) -> None:
        """Perform one operation on a node and in the model, and compare what was announced."""
        node, user = self._nodes[number], self._users[user_id]
        if what == "enter":
            await node.presence.enter(ROOM, user_id, "name", connection)
            user.enter((node.name, connection), self._now)
        elif what in ("leave", "lose"):
            node, connection = self._choose(user, node, connection)
            await node.presence.leave(ROOM, user_id, connection, is_lost=what == "lose")
            user.remove((node.name, connection), self._now, is_lost=what == "lose")
        elif what == "step":
            await self._step()
        elif what == "stop":
            await node.presence.close()
            self._lose({node.name})
            self._replace(number)
        elif what == "crash":
            self._crashed.add(node.name)
            self._replace(number)
        elif what == "expire":
            await self._expire(self._crashed, by=node)
            self._lose(self._crashed)
        else:
            await self._suspend(node, steps=connection * user_id - 1)
        await self._check()

    def _choose(self, user: _User, node: Node, connection: int) -> tuple[Node, int]:
        """Return a connection that the user has on a running node, if there is one."""
        by_name = {one.name: one for one in self._nodes}
        found = sorted(one for one in user.connections if one[0] in by_name)
        if found:
            name, connection = found[connection % len(found)]
            node = by_name[name]
        return node, connection

    async def _step(self) -> None:
        await age_state(self._server, self._prefix, STEP)
        self._now += STEP
        await self._nodes[0].presence.members(ROOM)
        for user in self._users.values():
            user.settle(self._now)

    def _replace(self, number: int) -> None:
        old = self._nodes[number]
        self._started += 1
        self._nodes[number] = Node(f"n{self._started}", old.router, self._prefix, 30.0, GRACE)
        self._nodes[number].presence._store._remove_from = 0.0

    def _lose(self, ended: set[str]) -> None:
        for user in self._users.values():
            for connection in [one for one in user.connections if one[0] in ended]:
                user.remove(connection, self._now, is_lost=True)

    async def _expire(self, names: set[str], by: Node) -> None:
        """Let the leases of nodes expire, and another node notice that."""
        for name in names:
            await self._server("ZADD", f"{{{self._prefix}:{ROOM}}}:n", "XX", 1, name)
        await by.presence.members(ROOM)

    async def _suspend(self, node: Node, steps: int) -> None:
        """Suspend a node until it counts as dead and for some steps more; then it continues."""
        connections = [(user, one) for user in self._users.values() for one in user.connections if one[0] == node.name]
        await self._expire({node.name}, by=next(one for one in self._nodes if one is not node))
        self._lose({node.name})
        for _ in range(steps):
            await self._step()
        await node.renew()
        for user, connection in connections:
            user.enter(connection, self._now)

    async def _check(self) -> None:
        found: defaultdict[int | str, list[bool]] = defaultdict(list)
        for _, user_id, has_joined in await self._announced.all():
            found[user_id].append(has_joined)
        assert found == {user_id: user.announced for user_id, user in self._users.items() if user.announced}
        members = [member.user_id for member in await self._nodes[0].presence.members(ROOM)]
        assert sorted(members, key=str) == [n for n, user in sorted(self._users.items()) if user.connections]

    async def finish(self) -> None:
        """Wait until nothing is to be announced any more, and end all nodes; check that nothing is left."""
        for _ in range(3):
            await self._step()
        await self._check()
        assert all(user.is_in is bool(user.connections) for user in self._users.values())
        await self._expire(self._crashed, by=self._nodes[0])
        for node in self._nodes:
            await node.presence.close()
        for _ in range(3):
            await age_state(self._server, self._prefix, STEP)
            await self._nodes[0].presence.members(ROOM)
        assert not any((await self._announced.check()).values())
        assert await keys_of(self._server, self._prefix) == {}


async def _play(server: RedisServer, operations: list[Operation]) -> None:
    prefix = f"play-{secrets.token_hex(5)}"
    async with AsyncExitStack() as stack:
        announced = await stack.enter_async_context(announcements(server, prefix))
        three = await stack.enter_async_context(nodes(server.url, prefix, NODES, grace=GRACE))
        world = _World(server, prefix, three, announced)
        for operation in operations:
            await world.perform(*operation)
        await world.finish()


@settings(max_examples=20, deadline=None)
@given(operations=st.lists(OPERATIONS, min_size=30, max_size=60))
def test_random_operations(redis_server: RedisServer, operations: list[Operation]) -> None:
    """After each join, leave, loss, stop, crash and suspension, exactly what the model says was announced."""
    run(_play(redis_server, operations))


async def test_a_node_announces_what_is_due(redis_server: RedisServer, redis_prefix: str) -> None:
    """The node that lost a connection announces that after the grace, without any other call."""
    async with (
        announcements(redis_server, redis_prefix) as announced,
        nodes(redis_server.url, redis_prefix, 1, grace=0.2) as (node,),
    ):
        await node.presence.enter(ROOM, 1, "alice", 1)
        await node.presence.leave(ROOM, 1, 1, is_lost=True)

        await wait_until(lambda: _has_left(node, announced, [1]))
        await wait_until(lambda: not node.presence._writer.due)
        assert await keys_of(redis_server, redis_prefix) == {}


async def test_a_redis_without_memory(fresh_redis: FreshRedis, redis_prefix: str) -> None:
    """Joins and leaves while Redis refuses writes are announced once it accepts them; members can be read meanwhile."""
    server = await fresh_redis()
    async with (
        announcements(server, redis_prefix) as announced,
        nodes(server.url, redis_prefix, 1, grace=0.1) as (node,),
    ):
        for user_id in (1, 2, 3):
            await node.presence.enter(ROOM, user_id, "name", 1)
        await node.presence.leave(ROOM, 1, 1, is_lost=True)
        await server("CONFIG", "SET", "maxmemory", 1)
        await node.presence.leave(ROOM, 2, 1)
        with pytest.raises(Unavailable):
            await node.presence.enter(ROOM, 4, "name", 1)
        await wait_until(lambda: node.presence._writer.due[ROOM] < time.monotonic())
        node.presence.announce_due()
        assert [member.user_id for member in await node.presence.members(ROOM)] == [2, 3]
        assert await announced.joined() == [1, 2, 3]
        assert await announced.left() == []
        await server("CONFIG", "SET", "maxmemory", 0)
        await node.renew()
        await wait_until(lambda: _has_left(node, announced, [1, 2]))
        assert (await announced.check()) == {(ROOM, 1): False, (ROOM, 2): False, (ROOM, 3): True, (ROOM, 4): True}


async def _has_left(node: Node, announced: Announced, users: list[int]) -> bool:
    node.presence.announce_due()
    return sorted(await announced.left(), key=str) == users


async def test_a_node_that_missed_announcements(redis_server: RedisServer, redis_prefix: str) -> None:
    """A node whose connections break again and again receives each join and leave once, in order."""
    async with Proxy("127.0.0.1", redis_server.port) as proxy, AsyncExitStack() as stack:
        whole, cut = [
            Harness(broker_for(url, redis_prefix), asyncio.sleep)
            for url in (redis_server.url, f"redis://127.0.0.1:{proxy.port}")
        ]
        for one in (whole, cut):
            await one.broker.start(one.listener, Announcements(grace=0))
            stack.push_async_callback(one.broker.close)
            await one.broker.subscribe([ROOM])
        await whole.broker.enter(ROOM, 0, "name", 1)
        await cut.listener.until(lambda: len(cut.listener.announced) == 1)
        for connection in range(200):
            user_id = connection % 3 + 1
            await whole.broker.enter(ROOM, user_id, f"name {connection}", connection)
            if connection % 20 == 0:
                proxy.reset()
            await whole.broker.leave(ROOM, user_id, connection)
        await cut.listener.until(lambda: len(cut.listener.announced) == 401)
        assert cut.listener.announced == whole.listener.announced


async def test_another_node_announces_what_a_dead_node_held(redis_server: RedisServer, redis_prefix: str) -> None:
    """A user who was lost shortly before the node died is announced by the next renewal of another node."""
    async with (
        announcements(redis_server, redis_prefix) as announced,
        nodes(redis_server.url, redis_prefix, 2, SHORT_LEASE, grace=0.2) as (a, dead),
    ):
        await a.presence.enter(ROOM, 1, "alice", 1)
        for user_id in (2, 3):
            await dead.presence.enter(ROOM, user_id, "name", 1)
        await dead.presence.leave(ROOM, 2, 1, is_lost=True)
        await dead.die()

        async def are_announced() -> bool:
            await a.renew()
            return sorted(await announced.left(), key=str) == [2, 3]

        await wait_until(are_announced)
