"""Announcements of joins and leaves on several nodes: random operations match a model, also when nodes end."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack

import pytest
from broker_contract import ROOM, Harness
from hypothesis import given, settings
from presence_model import GRACE, LISTS, NODES, STEP, Operation, Told, World, examples
from redis_nodes import SHORT_LEASE, Announced, Node, age_state, announcements, broker_for, keys_of, nodes
from redis_servers import FreshRedis, RedisServer, run
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.broker.base import Announcements, UserId
from roomcast.errors import Unavailable


class _RedisWorld(World):
    """Three nodes. Time passes by moving the server's state into the past.

    The time of the server that passes in a test is far less than the difference between the grace and whole steps.
    """

    def __init__(self, server: RedisServer, prefix: str, running: list[Node], announced: Announced) -> None:
        super().__init__([node.name for node in running])
        self._server = server
        self._prefix = prefix
        self._nodes = running
        self._announced = announced
        self._crashed: set[str] = set()
        self._started = len(running)
        for node in running:
            node.presence._store._remove_from = 0.0

    async def enter(self, number: int, user_id: int, connection: int) -> None:
        await self._nodes[number].presence.enter(ROOM, user_id, "name", connection)

    async def leave(self, number: int, user_id: int, connection: int, *, is_lost: bool) -> None:
        await self._nodes[number].presence.leave(ROOM, user_id, connection, is_lost=is_lost)

    async def set_status(self, number: int, user_id: int, status: str) -> None:
        await self._nodes[number].presence.set_status(ROOM, user_id, status)

    async def pass_time(self, seconds: float) -> None:
        await age_state(self._server, self._prefix, seconds)
        await self._nodes[0].presence.members(ROOM)

    async def end(self, what: str, number: int, steps: int) -> None:
        node = self._nodes[number]
        if what == "stop":
            await node.presence.close()
            self.lose({node.name})
            self._replace(number)
        elif what == "crash":
            self._crashed.add(node.name)
            self._replace(number)
        elif what == "expire":
            await self._expire(self._crashed, by=node)
            self.lose(self._crashed)
        elif what == "restore":
            await node.restore()
            node.presence._store._remove_from = 0.0
        else:
            await self._suspend(number, steps)

    def _replace(self, number: int) -> None:
        old = self._nodes[number]
        self._started += 1
        self._nodes[number] = Node(f"n{self._started}", old.router, self._prefix, 30.0, GRACE, 60.0)
        self._nodes[number].presence._store._remove_from = 0.0
        self.names[number] = self._nodes[number].name

    async def _expire(self, names: set[str], by: Node) -> None:
        """Let the leases of nodes expire, and another node notice that."""
        for name in names:
            await self._server("ZADD", f"{{{self._prefix}:{ROOM}}}:n", "XX", 1, name)
        await by.presence.members(ROOM)

    async def _suspend(self, number: int, steps: int) -> None:
        """Suspend a node until it counts as dead and for some steps more; then it continues."""
        node = self._nodes[number]
        users = [(user, one) for user in self.users.values() for one in user.connections if one[0] == node.name]
        local = node.presence._rooms.get(ROOM)
        statuses = {} if local is None or local.statuses is None else dict(local.statuses)
        await self._expire({node.name}, by=next(one for one in self._nodes if one is not node))
        self.lose({node.name})
        for _ in range(steps):
            await self.step()
        was_gone = {user_id for user_id, user in self.users.items() if not user.connections and not user.is_in}
        await node.renew()
        for user, connection in users:
            user.enter(connection, self.now)
        for user_id in was_gone:  # the node restores what it knows of users who were removed with it
            if self.users[user_id].connections and user_id in statuses:
                self.users[user_id].status = statuses[user_id].text

    async def told(self) -> Told:
        told = Told()
        for _, user_id, sign, status in await self._announced.everything():
            if sign == "~":
                told.on_status(user_id, status)
            else:
                told.on_presence(user_id, sign == "+")
        return told

    async def listed(self) -> dict[UserId, str]:
        page, _ = await self._nodes[0].presence.list_members(ROOM, 0, 100, 100_000, None)
        assert page.total == len(page.members)
        return {member.user_id: member.status for member in page.members}

    async def members(self) -> set[UserId]:
        return {member.user_id for member in await self._nodes[0].presence.members(ROOM)}

    async def finish(self) -> None:
        """End all nodes, and check that nothing is left."""
        await self.settle()
        await self._expire(self._crashed, by=self._nodes[0])
        for node in self._nodes:
            await node.presence.close()
        for _ in range(3):
            await self.pass_time(STEP)
        assert not any((await self._announced.check()).values())
        assert await keys_of(self._server, self._prefix) == {}


async def _play(server: RedisServer, operations: list[Operation]) -> None:
    prefix = f"play-{secrets.token_hex(5)}"
    async with AsyncExitStack() as stack:
        announced = await stack.enter_async_context(announcements(server, prefix))
        three = await stack.enter_async_context(nodes(server.url, prefix, NODES, grace=GRACE))
        world = _RedisWorld(server, prefix, three, announced)
        for operation in operations:
            await world.perform(*operation)
        await world.finish()


@settings(max_examples=examples(20), deadline=None)
@given(operations=LISTS)
def test_random_operations(redis_server: RedisServer, operations: list[Operation]) -> None:
    """After each operation, exactly what the model says was announced, and the list agrees."""
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
        assert [member.user_id for member in await node.presence.members(ROOM)] == [1, 2, 3]
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
