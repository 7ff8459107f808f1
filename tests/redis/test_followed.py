"""Tests of ``followed``: what a node has not processed when it dies is reported to another node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from broker_contract import Harness
from redis_nodes import SHORT_LEASE
from redis_servers import RedisServer
from waiting import wait_until

from roomcast.broker.base import Announcements
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse

FOLLOWED = "followed:1"
JOINED, LEFT = (FOLLOWED, 1, "alice", True), (FOLLOWED, 1, "alice", False)
POLICY = Announcements(grace=0.2, followed_types=frozenset({"followed"}))


class Nodes:
    """Nodes on one server, which do their periodic work."""

    def __init__(self, redis: RedisServer, prefix: str) -> None:
        self.redis = redis
        self.prefix = prefix
        self.running: list[Harness] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, policy: Announcements = POLICY) -> Harness:
        """Start a node."""
        options = RedisOptions(prefix=self.prefix, lease=SHORT_LEASE)
        node = Harness(RedisBroker(parse(self.redis.url), options), asyncio.sleep)
        await node.broker.start(node.listener, policy)
        self.running.append(node)
        self._tasks.append(asyncio.create_task(self._tick(node)))
        return node

    async def _tick(self, node: Harness) -> None:
        while True:
            await node.broker.announce_due()
            await asyncio.sleep(0.05)

    async def kill(self, node: Harness) -> None:
        """End a node without any clean-up, as kill -9 does."""
        index = self.running.index(node)
        self._tasks.pop(index).cancel()
        self.running.pop(index)
        broker = node.broker
        assert isinstance(broker, RedisBroker)
        assert broker._renewer is not None
        broker._renewer.cancel()
        broker._followed._is_closing = True
        for task in broker._followed._tasks:
            task.cancel()
        broker._is_running = False
        await broker._stop()

    async def close(self) -> None:
        """Stop all nodes."""
        for task in self._tasks:
            task.cancel()
        for node in self.running:
            await node.broker.close()

    async def keys(self) -> list[str]:
        """Return the kinds of keys for followed rooms and events that exist."""
        found = await self.redis("KEYS", f"*{self.prefix}*")
        names = [str(key) for key in found]
        return sorted(
            {name[-2:] for name in names if name[-2:] in (":h", ":c", ":e", ":f")}
            | {name for name in names if name.endswith(":followed")}
        )


@pytest.fixture
async def nodes(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Nodes]:
    """Nodes that are stopped after the test."""
    found = Nodes(redis_server, redis_prefix)
    yield found
    await found.close()


async def test_nothing_is_stored_without_hooks(nodes: Nodes) -> None:
    """Rooms and events that are not followed leave no key, and run no script for it."""
    node = await nodes.start(Announcements(grace=0.2))
    await node.broker.enter(FOLLOWED, 1, "alice", 1)
    await node.broker.publish(FOLLOWED, b"{}")
    await node.broker.leave(FOLLOWED, 1, 1)
    assert isinstance(node.broker, RedisBroker)
    assert node.broker._followed._sweeping is None
    assert not node.broker._followed._is_used
    assert await nodes.keys() == []


async def test_processed_entries_are_removed(nodes: Nodes) -> None:
    """When everything was processed and the room is empty, no key is left."""
    node = await nodes.start()
    await node.broker.enter(FOLLOWED, 1, "alice", 1)
    await node.broker.publish(FOLLOWED, b"{}", is_followed=True)
    await node.broker.leave(FOLLOWED, 1, 1, is_lost=True)
    await wait_until(lambda: node.listener.changes == [JOINED, LEFT] and len(node.listener.published) == 1)
    for _ in range(200):
        if not await nodes.keys():
            break
        await asyncio.sleep(0.05)
    assert await nodes.keys() == []
    await asyncio.sleep(2 * SHORT_LEASE)
    assert len(node.listener.changes) == 2
    assert len(node.listener.published) == 1


async def test_the_only_member_s_node_dies(nodes: Nodes) -> None:
    """The leave of a user whose node has died is reported once, by a node that has no members in the room."""
    first, second, third = [await nodes.start() for _ in range(3)]
    await first.broker.enter(FOLLOWED, 1, "alice", 1)
    await wait_until(lambda: first.listener.changes == [JOINED])
    await nodes.kill(first)
    await wait_until(lambda: bool(second.listener.changes + third.listener.changes))
    await asyncio.sleep(2 * SHORT_LEASE)
    assert second.listener.changes + third.listener.changes == [LEFT]


async def test_a_node_that_starts_later(nodes: Nodes) -> None:
    """If no node is left, the next one that starts reports the leave."""
    first = await nodes.start()
    await first.broker.enter(FOLLOWED, 1, "alice", 1)
    await wait_until(lambda: first.listener.changes == [JOINED])
    await nodes.kill(first)
    await asyncio.sleep(5 * SHORT_LEASE)
    second = await nodes.start()
    await wait_until(lambda: second.listener.changes == [LEFT])


async def test_a_node_dies_while_it_processes(nodes: Nodes) -> None:
    """A join and an event that a node has not finished are reported to another node, in the order of the user."""
    first = await nodes.start()
    first.listener.is_busy = True
    await first.broker.enter(FOLLOWED, 1, "alice", 1)
    id = await first.broker.publish(FOLLOWED, b"{}", is_followed=True)
    await wait_until(lambda: first.listener.changes == [JOINED] and len(first.listener.published) == 1)
    second = await nodes.start()
    await nodes.kill(first)
    await wait_until(lambda: len(second.listener.changes) == 2 and len(second.listener.published) == 1)
    await asyncio.sleep(2 * SHORT_LEASE)
    assert second.listener.changes == [JOINED, LEFT]
    assert second.listener.published == [(FOLLOWED, id, b"{}")]


async def test_a_slow_listener_keeps_its_claims(nodes: Nodes) -> None:
    """A node that takes longer than a lease keeps its claims, and gets the next change of the user after that."""
    first, second = await nodes.start(), await nodes.start()
    first.listener.is_busy = True
    await first.broker.enter(FOLLOWED, 1, "alice", 1)
    await first.broker.publish(FOLLOWED, b"{}", is_followed=True)
    await second.broker.enter(FOLLOWED, 1, "alice", 1)
    await first.broker.leave(FOLLOWED, 1, 1)
    await second.broker.leave(FOLLOWED, 1, 1)
    await asyncio.sleep(4 * SHORT_LEASE)
    assert (first.listener.changes, second.listener.changes, second.listener.published) == ([JOINED], [], [])
    first.listener.is_busy = False
    for future in first.listener.futures:
        future.set_result(None)
    await wait_until(lambda: first.listener.changes == [JOINED, LEFT])
    await asyncio.sleep(2 * SHORT_LEASE)
    assert (second.listener.changes, second.listener.published) == ([], [])


async def test_another_member_s_node_takes_over(nodes: Nodes) -> None:
    """If living nodes are in the room too, one of them reports the leave of the dead node's user, and its events."""
    first, second = await nodes.start(), await nodes.start()
    await second.broker.enter(FOLLOWED, 2, "bob", 1)
    await second.broker.publish(FOLLOWED, b"0", is_followed=True)
    await wait_until(lambda: len(second.listener.published) == 1)
    first.listener.is_busy = True
    await first.broker.publish(FOLLOWED, b"1", is_followed=True)
    first.listener.is_busy = False
    await first.broker.enter(FOLLOWED, 1, "alice", 1)
    await wait_until(lambda: first.listener.changes == [JOINED] and len(first.listener.published) == 1)
    await nodes.kill(first)
    await wait_until(lambda: LEFT in second.listener.changes and len(second.listener.published) == 2)
    assert second.listener.changes == [(FOLLOWED, 2, "bob", True), LEFT]


async def test_a_node_that_stops(nodes: Nodes) -> None:
    """A node that stops gives back what its listener has not processed, and another node reports it at once."""
    first, second = await nodes.start(), await nodes.start()
    first.listener.is_busy = True
    await first.broker.enter(FOLLOWED, 1, "alice", 1)
    await first.broker.publish(FOLLOWED, b"{}", is_followed=True)
    await wait_until(lambda: len(first.listener.futures) == 2)
    for future in first.listener.futures:
        future.cancel()
    await first.broker.close()
    await wait_until(lambda: second.listener.changes == [JOINED, LEFT] and len(second.listener.published) == 1)
