"""Presence on Sentinel and in a Cluster: failovers to replicas and back change no member and announce nothing."""

from __future__ import annotations

import asyncio

import pytest
from broker_contract import ROOM, Harness
from redis_groups import Cluster, SentinelTrio
from redis_nodes import StartNode, until_connected
from redis_servers import wait_for_server
from waiting import wait_until

from roomcast.broker.base import UserId

ALICE, BOB = 1, "bob"


class Expected:
    """What the nodes list, and what they have announced."""

    def __init__(self) -> None:
        self.members: dict[UserId, str] = {}
        self.joins: list[tuple[UserId, bool]] = []
        self.statuses: list[tuple[UserId, str]] = []

    def join(self, user_id: UserId) -> None:
        """Expect a user."""
        self.members[user_id] = ""
        self.joins.append((user_id, True))

    def leave(self, user_id: UserId) -> None:
        """Expect that a user leaves."""
        del self.members[user_id]
        self.joins.append((user_id, False))

    def set_status(self, user_id: UserId, status: str) -> None:
        """Expect a status."""
        self.members[user_id] = status
        self.statuses.append((user_id, status))

    async def holds(self, node: Harness) -> bool:
        """Return True if a node has announced and lists exactly this."""
        await node.broker.announce_due()
        page = await node.broker.list_members(ROOM)
        listed = {one.user_id: one.status for one in page.members}
        joins = [(user_id, has_joined) for _, user_id, _, has_joined in node.listener.announced]
        statuses = [(user_id, status) for _, user_id, _, status in node.listener.statuses]
        return (listed, joins, statuses) == (self.members, self.joins, self.statuses)


class Group:
    """The servers of a test, whose room moves to another server."""

    def __init__(self, servers: SentinelTrio | Cluster, prefix: str) -> None:
        self._servers = servers
        self._channel = f"{{{prefix}:{ROOM}}}"
        self.url = servers.url

    async def switch(self, *nodes: Harness) -> None:
        """Exchange the primary of the room and its replica. ``nodes`` use the new primary when this returns."""
        await self._servers.replicate()
        if isinstance(self._servers, SentinelTrio):
            await until_connected(await self._servers.switch(), *nodes)
        else:
            await self._servers.switch(self._channel)
            await wait_for_server(self._servers.is_ready, "the replica is in sync")
            await asyncio.gather(*[node.broker.members(ROOM) for node in nodes])  # follows the room to its server


@pytest.fixture(params=["sentinel", "cluster"])
def group(
    request: pytest.FixtureRequest, sentinel_trio: SentinelTrio, redis_cluster: Cluster, redis_prefix: str
) -> Group:
    """The servers."""
    return Group(sentinel_trio if request.param == "sentinel" else redis_cluster, redis_prefix)


async def test_there_and_back(group: Group, start_node: StartNode) -> None:
    """Two nodes list the same members and statuses after each failover, and later changes are announced once."""
    nodes = [await start_node(group.url) for _ in range(2)]
    a, b = nodes
    expected = Expected()
    for node in nodes:
        await node.broker.subscribe([ROOM])
    await a.broker.enter(ROOM, ALICE, "alice", 1)
    await b.broker.enter(ROOM, BOB, "bob", 1)
    await a.broker.set_status(ROOM, ALICE, "away")
    expected.join(ALICE)
    expected.join(BOB)
    expected.set_status(ALICE, "away")
    for visitor in (3, 4):
        for node in nodes:
            await wait_until(lambda node=node: expected.holds(node))
        await group.switch(*nodes)
        for node in nodes:
            assert await expected.holds(node)
        await b.broker.set_status(ROOM, BOB, f"back {visitor}")
        await a.broker.enter(ROOM, visitor, "visitor", 1)
        await b.broker.enter(ROOM, visitor, "visitor", 2)
        await a.broker.leave(ROOM, visitor, 1)
        await b.broker.leave(ROOM, visitor, 2)
        expected.set_status(BOB, f"back {visitor}")
        expected.join(visitor)
        expected.leave(visitor)
    for node in nodes:
        await wait_until(lambda node=node: expected.holds(node))
