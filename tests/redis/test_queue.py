"""Queues on Redis: several nodes, nodes that die, and servers that restart or fail over."""

from __future__ import annotations

import asyncio

from redis_groups import SentinelTrio
from redis_nodes import StartNode
from redis_servers import FreshRedis, RedisServer, wait_for_server

from roomcast.broker.queue import Queue
from roomcast.broker.redis.options import QUEUE_LIMITS
from roomcast.errors import Unavailable

#: No queue drops anything.
LARGE = {"queue_limits": QUEUE_LIMITS}


async def payloads(queue: Queue) -> list[bytes]:
    """Read everything."""
    found: list[bytes] = []
    while page := await queue.read(100, 10**6):
        found += [entry.payload for entry in page]
    return found


async def take_over(queue: Queue, lease: float = 30.0) -> None:
    """Wait until the node has the lease."""

    async def has_lease() -> bool:
        try:
            return await queue.acquire(lease) is not None
        except Unavailable:
            return False

    await wait_for_server(has_lease, "the lease is not given to another node")


async def test_one_node_has_the_lease(node: StartNode) -> None:
    """Another node neither gets the lease nor reads nor writes states, until the lease is given back."""
    a, b = [(await node()).broker.queue("q") for _ in range(2)]
    assert await a.acquire(30) == "taken"
    assert await b.acquire(30) is None
    await b.append([b"1"])
    await b.release()
    assert await b.read(1, 1) is None
    assert not await b.write_states({"a": "1"})
    assert await payloads(a) == [b"1"]
    await a.release()
    assert await b.acquire(30) == "taken"
    assert await payloads(b) == [b"1"]
    assert await a.read(1, 1) is None


async def test_the_entries_of_a_dead_node(node: StartNode) -> None:
    """If the consumer dies, its lease ends, and another node reads what was not removed, then later entries."""
    dead, other = await node(), await node()
    queue = dead.broker.queue("q")
    await queue.acquire(0.5)
    await queue.append([b"1", b"2", b"3"])
    entries = await queue.read(2, 1000)
    assert entries is not None
    await queue.remove(entries[:1])
    assert await queue.write_states({"room": "told"})
    await dead.broker.close()
    successor = other.broker.queue("q")
    assert await successor.acquire(0.5) is None
    await successor.append([b"4"])
    await take_over(successor)
    assert await payloads(successor) == [b"2", b"3", b"4"]
    assert await successor.read_states() == {"room": "told"}


async def test_the_order_of_several_nodes(node: StartNode) -> None:
    """Entries of each node are read in its order, whatever the others append meanwhile."""
    queues = [(await node(**LARGE)).broker.queue("q") for _ in range(3)]

    async def append(number: int) -> None:
        for i in range(100):
            await queues[number].append([b"%d %d" % (number, i)])

    await asyncio.gather(*map(append, range(3)))
    await queues[0].acquire(30)
    found = await payloads(queues[0])
    assert len(found) == 300
    for number in range(3):
        own = [payload for payload in found if payload.startswith(b"%d " % number)]
        assert own == [b"%d %d" % (number, i) for i in range(100)]


async def test_a_restart_with_a_file(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """Redis with an append-only file is killed: entries, dead letters and states are kept."""
    server = await fresh_redis(appendonly="yes", appendfsync="always")
    node = await start_node(server.url)
    queue = node.broker.queue("q")
    await queue.acquire(30)
    await queue.append([b"1", b"2"])
    entries = await queue.read(1, 1000)
    assert entries is not None
    await queue.bury(entries, "r")
    await queue.write_states({"room": "told"})
    server.kill()
    waiting = asyncio.create_task(queue.append([b"3"]))
    await server.restart()
    await waiting
    await take_over(queue)
    assert await payloads(queue) == [b"2", b"3"]
    assert [letter.payload for letter in await queue.dead_letters(None, 10)] == [b"1"]
    assert await queue.read_states() == {"room": "told"}


async def test_a_restart_without_a_file(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """Redis without persistence is killed: the queue is empty, works again, and the node takes the lease again."""
    server = await fresh_redis()
    node = await start_node(server.url)
    queue = node.broker.queue("q")
    await queue.acquire(30)
    await queue.append([b"1"])
    assert await payloads(queue) == [b"1"]
    server.kill()
    await server.restart()
    await take_over(queue)
    assert (await queue.info())[:2] == (0, 0)
    await queue.append([b"2"])
    assert await payloads(queue) == [b"2"]


async def test_a_failover(sentinel_trio: SentinelTrio, start_node: StartNode) -> None:
    """After a failover by Sentinel, the promoted replica has the queue."""
    node = await start_node(sentinel_trio.url)
    queue = node.broker.queue("q")
    await queue.acquire(30)
    await queue.append([b"1", b"2"])
    entries = await queue.read(1, 1000)
    assert entries is not None
    await sentinel_trio.switch()
    await queue.append([b"3"])
    await take_over(queue)
    assert (await payloads(queue))[-1:] == [b"3"]


async def test_all_keys_expire(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
    """A queue that is not used any more leaves no key."""
    queue = (await node()).broker.queue("q")
    await queue.append([b"1", b"2"])
    await queue.acquire(30)
    entries = await queue.read(1, 1000)
    assert entries is not None
    await queue.bury(entries, "r")
    await queue.write_states({"room": "told"})
    keys = await redis_server("KEYS", f"*{redis_prefix}:!queue:*")
    assert len(keys) == 5
    assert all([await redis_server("PTTL", key) > 0 for key in keys])
