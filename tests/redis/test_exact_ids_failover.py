"""Event ids across failovers, also there and back without a restart of any server."""

from __future__ import annotations

import pytest
from broker_contract import ROOM, Harness, split
from redis_groups import Cluster, SentinelTrio
from redis_nodes import StartNode, end_grace, until_connected
from redis_servers import FreshRedis, RedisServer, wait_for_server

from roomcast.broker.redis.receiver import Receiver
from roomcast.broker.redis.router import Router

#: A room that no test publishes in while a replica is cut off.
QUIET = "channel:9"


class Observer:
    """Two nodes with members in two rooms. ``ids`` are those of the events in ROOM, ``lost`` those that were lost."""

    def __init__(self, a: Harness, b: Harness) -> None:
        self.nodes = (a, b)
        self.a = a
        self.b = b
        self.ids: list[str] = []
        self.lost: list[str] = []

    async def begin(self) -> None:
        """Subscribe both nodes, and publish in both rooms."""
        for node in self.nodes:
            await node.broker.subscribe([ROOM, QUIET])
        self.quiet = (await self.a.fill(1, QUIET))[0]
        await self.publish(2)

    async def publish(self, count: int, *, is_lost: bool = False) -> None:
        """Publish, and wait until all nodes have received it. With ``is_lost``, Redis loses it later."""
        ids = await self.a.fill(count)
        (self.lost if is_lost else self.ids).extend(ids)
        for node in self.nodes:
            await node.listener.until(lambda node=node: node.listener.events[-1][1] == ids[-1])

    async def check_no_loss(self) -> None:
        """Check that each event arrived once and in order, that no node was told of a loss, and that all ids resume."""
        end_grace(*self.nodes)
        assert [split(id)[1] for id in self.ids] == list(range(1, len(self.ids) + 1))
        for node in self.nodes:
            assert [id for room, id, _ in node.listener.events if room == ROOM] == self.ids
            assert node.listener.resyncs == []
            for number, since in enumerate(self.ids):
                history = await node.broker.history(ROOM, since)
                assert (history.recovered, [event.id for event in history.events]) == (True, self.ids[number + 1 :])
            assert (await node.broker.history(QUIET, self.quiet)).recovered

    async def check_loss(self, before: int) -> None:
        """Check that the loss after the first ``before`` events was reported once, and only in the room."""
        end_grace(*self.nodes)
        assert len({*self.ids, *self.lost}) == len(self.ids) + len(self.lost), "one id for two events"
        for node in self.nodes:
            ((room, last_id),) = node.listener.resyncs
            assert room == ROOM
            for since in (*self.ids[:before], *self.lost):
                assert not (await node.broker.history(ROOM, since)).recovered, since
            for number, since in enumerate([last_id, *self.ids[before:]], before):
                history = await node.broker.history(ROOM, since)
                assert (history.recovered, [event.id for event in history.events]) == (True, self.ids[number:])
            assert (await node.broker.history(QUIET, self.quiet)).recovered

    async def until_told(self) -> None:
        """Wait until both nodes were told of the loss."""
        for node in self.nodes:
            await node.listener.until(lambda node=node: bool(node.listener.resyncs))


async def test_sentinel_there_and_back(sentinel_trio: SentinelTrio, start_node: StartNode) -> None:
    """Failovers to the replica and back lose nothing, are not noticed, and give no id twice."""
    observer = Observer(await start_node(sentinel_trio.url), await start_node(sentinel_trio.url))
    await observer.begin()
    for _ in range(2):
        server = await sentinel_trio.switch()
        await until_connected(server, *observer.nodes)
        await observer.publish(1)
    await observer.check_no_loss()


async def test_sentinel_there_and_back_with_a_loss(sentinel_trio: SentinelTrio, start_node: StartNode) -> None:
    """A primary that was replaced without its newest events does not give their ids again when it returns."""
    observer = Observer(await start_node(sentinel_trio.url), await start_node(sentinel_trio.url))
    await observer.begin()
    before = await sentinel_trio.primary()
    async with before.client() as client:
        await client.set("marker", 1)
        await client.wait(1, 5000)
    await before.cut_off_replicas()
    try:
        await observer.publish(2, is_lost=True)
        server = await sentinel_trio.switch()
    finally:
        await before.admit_replicas()
    await until_connected(server, *observer.nodes)
    await observer.until_told()
    await observer.publish(1)
    assert await sentinel_trio.switch() is before
    await until_connected(before, *observer.nodes)
    await observer.publish(2)
    await observer.check_loss(2)


async def test_cluster_there_and_back(redis_cluster: Cluster, start_node: StartNode, redis_prefix: str) -> None:
    """Failovers in a Cluster lose nothing, are not noticed, and give no id twice, though connections survive them."""
    observer = Observer(await start_node(redis_cluster.url), await start_node(redis_cluster.url))
    await observer.begin()
    channel = f"{{{redis_prefix}:{ROOM}}}"
    for _ in range(2):
        server = await redis_cluster.switch(channel)
        await observer.publish(1)
        await wait_for_server(redis_cluster.is_ready, "the replica is in sync")
        assert await redis_cluster.primary_of(channel) is server
    await observer.check_no_loss()


async def test_cluster_there_and_back_with_a_loss(
    redis_cluster: Cluster, start_node: StartNode, redis_prefix: str
) -> None:
    """A primary in a Cluster that was replaced without its newest events does not give their ids again."""
    observer = Observer(await start_node(redis_cluster.url), await start_node(redis_cluster.url))
    await observer.begin()
    channel = f"{{{redis_prefix}:{ROOM}}}"
    before = await redis_cluster.primary_of(channel)
    async with before.client() as client:
        await client.execute_command("PUBLISH", "marker", 1)
        await client.wait(1, 5000)
    await before.cut_off_replicas()
    try:
        await observer.publish(2, is_lost=True)
        await redis_cluster.switch(channel, "TAKEOVER")
    finally:
        await before.admit_replicas()
    await wait_for_server(redis_cluster.is_ready, "the old primary is a replica in sync")
    await observer.until_told()
    await observer.publish(1)
    assert await redis_cluster.switch(channel) is before
    await observer.publish(2)
    await observer.check_loss(2)


async def until_in_sync(replica: RedisServer) -> None:
    """Wait until ``replica`` has the data of its primary."""

    async def is_in_sync() -> bool:
        return (await replica.info("replication")).get("master_link_status") == "up"

    await wait_for_server(is_in_sync, "the replica is in sync")


async def there_and_back(server: RedisServer, replica: RedisServer) -> None:
    """Promote ``replica``, make ``server`` its replica, and promote ``server`` again. No process is restarted."""
    await replica("REPLICAOF", "NO", "ONE")
    await server("REPLICAOF", "127.0.0.1", replica.port)
    await until_in_sync(server)
    await server("REPLICAOF", "NO", "ONE")


async def test_ids_that_no_node_remembers(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """A server that is promoted again gives no id twice, even if no node reports the events that it has lost."""
    server = await fresh_redis()
    replica = await fresh_redis(replicaof=f"127.0.0.1 {server.port}")
    await until_in_sync(replica)
    a = await start_node(server.url)
    ids = await a.fill(2)
    async with server.client() as client:
        await client.set("marker", 1)
        await client.wait(1, 5000)
    await server.cut_off_replicas()
    lost = await a.fill(2)
    await a.broker.close()
    await there_and_back(server, replica)
    b = await start_node(server.url)
    end_grace(b)
    new = await b.fill(2)
    assert not {*new} & {*ids, *lost}, "one id for two events"
    for since in (*lost, *ids):  # a client presents the lost id, and is a report for the others
        assert not (await b.broker.history(ROOM, since)).recovered, since


@pytest.mark.parametrize("is_lossy", [False, True])
async def test_connections_survive_a_promotion(
    fresh_redis: FreshRedis, start_node: StartNode, monkeypatch: pytest.MonkeyPatch, is_lossy: bool
) -> None:
    """A server that was a replica for a moment does not assign ids again, although its connections stayed open."""
    if is_lossy:  # the push that the server sends when it replaces its data is enough

        async def do_not_refresh(router: Router) -> None:
            """Do not compare the generation periodically."""

        monkeypatch.setattr(Router, "_refresh", do_not_refresh)
        monkeypatch.setattr(Receiver, "check", lambda *_: None)
    server = await fresh_redis()
    replica = await fresh_redis(replicaof=f"127.0.0.1 {server.port}")
    await until_in_sync(replica)
    observer = Observer(await start_node(server.url), await start_node(server.url))
    await observer.begin()
    async with server.client() as client:
        await client.set("marker", 1)
        await client.wait(1, 5000)
    if is_lossy:
        await server.cut_off_replicas()
        await observer.publish(2, is_lost=True)
    await there_and_back(server, replica)
    if is_lossy:
        await observer.until_told()
        await observer.publish(2)
        await until_connected(server, *observer.nodes)
        await observer.check_loss(2)
    else:
        await observer.publish(2)
        await until_connected(server, *observer.nodes)
        await observer.publish(2)
        await observer.check_no_loss()


async def test_a_server_gets_its_first_replica(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """The first replica changes the replication id as well. Nodes notice that at different times, and lose nothing."""
    server = await fresh_redis()
    observer = Observer(await start_node(server.url), await start_node(server.url))
    await observer.begin()
    await until_in_sync(await fresh_redis(replicaof=f"127.0.0.1 {server.port}"))
    await observer.publish(1)
    for queue in observer.a.broker._router._queues.values():  # type: ignore[attr-defined]
        queue.check_generation()
    await until_connected(server, observer.a)
    for node in observer.nodes:  # the second one still uses the older generation
        observer.ids += await node.fill(1)
    await until_connected(server, *observer.nodes)
    await observer.publish(1)
    assert len({split(id)[0] for id in observer.ids}) == 2
    await observer.check_no_loss()
