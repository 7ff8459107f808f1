"""Webhooks of two nodes on Sentinel and on a Cluster, while a primary is replaced by its replica."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from brokers import Start, on_redis
from redis_groups import Cluster, SentinelTrio
from redis_servers import RedisServer
from serving import Serve, call, connect, task_created
from waiting import wait_until
from webhook_receiver import SECRET, WebhookReceiver

from roomcast.web.server import Server

ROOMS = [f"task:{i}" for i in range(4)]


class Group:
    """Sentinel or a Cluster, whose server of the queue can be killed."""

    def __init__(self, servers: SentinelTrio | Cluster, prefix: str) -> None:
        self.servers = servers
        self.url = servers.url
        self.queue = f"{{{prefix}:!queue:webhook}}"

    async def kill(self, key: str) -> RedisServer:
        """Kill the primary of ``key``, whose replica has everything."""
        await self.servers.replicate()
        if isinstance(self.servers, Cluster):
            return await self.servers.kill_primary_of(key)
        return await self.servers.kill_primary()

    async def failed_over(self, key: str, killed: RedisServer) -> None:
        """Wait until another server is the primary, and start the killed one again."""
        if isinstance(self.servers, Cluster):
            await self.servers.failed_over(key, killed)
        else:
            await self.servers.failed_over(killed)
        await killed.start()


@pytest.fixture(params=["sentinel_trio", "redis_cluster"])
def group(request: pytest.FixtureRequest, redis_prefix: str) -> Group:
    """Both kinds of groups."""
    return Group(request.getfixturevalue(request.param), redis_prefix)


@pytest.fixture
def start(group: Group, serve: Serve, redis_prefix: str, webhook_receiver: WebhookReceiver) -> Start:
    """``await start()`` starts a node with webhooks."""
    begin = on_redis(serve, group, redis_prefix)  # type: ignore[arg-type]
    variables = {"WEBHOOK_URL": webhook_receiver.url, "WEBHOOK_SECRET": SECRET}

    async def start_(**settings: object) -> Server:
        return await begin(plugin_variables=variables, presence_grace=0.2, **settings)

    return start_


async def publish(nodes: list[Server], first: int, last: int) -> list[tuple[str, str]]:
    """Publish events on the nodes in turn until all are acknowledged; return their rooms and ids in order."""
    published = []
    for number in range(first, last):
        room = ROOMS[number % len(ROOMS)]
        event = task_created(str(number), room)
        for _ in range(60):
            headers = {"Idempotency-Key": str(number)}
            status, reply = await call(nodes[number % 2], "POST", "/api/v1/events", event, headers=headers)
            if status < 300:
                break
            await asyncio.sleep(0.5)
        published.append((room, reply["id"]))
    return published


async def test_a_failover_while_events_wait(group: Group, start: Start, webhook_receiver: WebhookReceiver) -> None:
    """The primary of the queue is killed while the receiver is down: all arrives, in the order of each room."""
    nodes = [await start(), await start()]
    receiver = webhook_receiver
    async with connect(nodes[0], 1) as alice, connect(nodes[1], 2) as bob:
        await alice.join(ROOMS[0])
        await bob.join(ROOMS[1])
        here = {1: "user.online", 2: "user.online", ROOMS[0]: "room.occupied", ROOMS[1]: "room.occupied"}
        await receiver.until(lambda: receiver.told() == here)
        await receiver.stop()
        expected = await publish(nodes, 0, 40)
        killed = await group.kill(group.queue)
        await bob.socket.close()
        expected += await publish(nodes, 40, 80)
        await group.failed_over(group.queue, killed)
        expected += await publish(nodes, 80, 100)
        await receiver.start()
        await receiver.until(lambda: set(receiver.published()) >= set(expected), 60)
        for room in ROOMS:
            ids = [id for where, id in receiver.published() if where == room]
            assert list(dict.fromkeys(ids)) == [id for where, id in expected if where == room]
        now = here | {2: "user.offline", ROOMS[1]: "room.vacated"}
        await receiver.until(lambda: receiver.told() == now, 60)


@pytest.mark.parametrize("is_present", [True, False])
async def test_another_node_takes_over_without_the_newest_states(
    redis_server: RedisServer, serve: Serve, redis_prefix: str, webhook_receiver: WebhookReceiver, is_present: bool
) -> None:
    """After a failover the states lack the newest, and the lease is free: the node that knows them tells the others."""
    begin = on_redis(serve, redis_server, redis_prefix)
    variables = {"WEBHOOK_URL": webhook_receiver.url, "WEBHOOK_SECRET": SECRET}
    nodes = [await begin(plugin_variables=variables, presence_grace=0.2) for _ in range(2)]
    receiver = webhook_receiver
    tag = f"{{{redis_prefix}:!queue:webhook}}"
    kinds = {True: "user.online", False: "user.offline"}

    async def state(user_id: int) -> str | None:
        found: str | None = await redis_server("HGET", f"{tag}:t", f"user:{user_id}")
        return found

    async with AsyncExitStack() as stack:
        if is_present:  # the receiver knows that the user is offline, and the stored state says otherwise
            async with connect(nodes[0], 7):
                await receiver.until(lambda: receiver.told().get(7) == kinds[True])
            await receiver.until(lambda: receiver.told().get(7) == kinds[False])
        else:
            alice = await stack.enter_async_context(connect(nodes[0], 7))
            await receiver.until(lambda: receiver.told().get(7) == kinds[True])
        expected = None if is_present else "present"

        async def is_stored() -> bool:
            return await state(7) == expected

        await wait_until(is_stored)
        await redis_server("SET", f"{tag}:l", "another node", "PX", 3000)
        if is_present:
            await redis_server("HSET", f"{tag}:t", "user:7", "present")
            await stack.enter_async_context(connect(nodes[1], 7))
        else:
            await redis_server("HDEL", f"{tag}:t", "user:7")
            await alice.socket.close()
        await receiver.until(lambda: receiver.told().get(7) == kinds[is_present], 60)
