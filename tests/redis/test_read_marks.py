"""Marks in Redis: the model with two nodes, lost events, and the number of commands."""

from __future__ import annotations

import asyncio
import secrets

from broker_contract import ROOM, Harness, split
from hypothesis import HealthCheck, given, settings
from redis_groups import SentinelTrio
from redis_nodes import StartNode, broker_for, end_grace, until_connected, until_repaired
from redis_servers import RedisServer
from unread_model import STEPS, Step, play


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_marks_and_counts_match_a_naive_model(redis_server: RedisServer, redis_prefix: str, steps: list[Step]) -> None:
    """With two nodes, the counts are those of a model that looks at each event."""

    async def run() -> None:
        nodes = [Harness(broker_for(redis_server.url, redis_prefix), asyncio.sleep) for _ in range(2)]
        room = f"channel:{secrets.token_hex(6)}"
        for node in nodes:
            await node.broker.start(node.listener)
        try:
            await play(nodes, room, steps)
        finally:
            for node in nodes:
                await node.broker.close()

    asyncio.run(run())


async def send(node: Harness, count: int) -> list[str]:
    """Publish messages in ROOM; return their ids."""
    return [await node.broker.publish(ROOM, b"%d" % i, None, True) for i in range(count)]


async def unread(node: Harness, user_id: int = 1) -> int:
    """Return the number of unread messages of a user in ROOM, when the node has received all events."""
    await node.broker.history(ROOM)
    return node.broker.marks.count_all(ROOM) - await node.broker.marks.count_read(ROOM, user_id)


async def test_events_that_a_server_has_lost(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
    """After a server lost events, the messages since then are unread for users who had read the lost ones."""
    a = await node(history_size=100)
    await a.broker.subscribe([ROOM])
    kept = await send(a, 3)
    await a.broker.marks.move(ROOM, 2, kept[1])
    tag = f"{{{redis_prefix}:{ROOM}}}"
    async with redis_server.client(decode_responses=False) as client:
        saved = {key: await client.dump(f"{tag}:{key}") for key in ("m", "s")}
        lost = await send(a, 5)
        assert await a.broker.marks.move(ROOM, 1, lost[4]) == (lost[4], 8)
        for key, value in saved.items():
            await client.restore(f"{tag}:{key}", 600_000, value, replace=True)
    assert await unread(a) in (0, -5)  # nothing has noticed the loss; the gateway shows 0
    await redis_server("HSET", f"{tag}:m", "g", "a server that was replaced")
    new = await send(a, 4)
    assert split(new[0])[0] > split(lost[0])[0]
    await a.received_events()
    await until_repaired(a)
    assert [await unread(a, user) for user in (1, 2, 3)] == [4, 5, 7]
    assert await a.broker.marks.move(ROOM, 1, lost[4]) is None
    assert await a.broker.marks.move(ROOM, 1, new[1]) == (new[1], 5)
    assert await unread(a) == 2


async def test_a_room_that_begins_again(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
    """A room that has lost its state counts from 0; marks from before do not hide its messages."""
    a = await node()
    await a.broker.subscribe([ROOM])
    ids = await send(a, 30)
    await a.broker.marks.move(ROOM, 1, ids[29])
    await a.broker.unsubscribe([ROOM])
    tag = f"{{{redis_prefix}:{ROOM}}}"
    await redis_server("DEL", f"{tag}:m", f"{tag}:s")
    new = await send(a, 2)
    await a.broker.subscribe([ROOM])
    assert await unread(a) == 2
    assert await a.broker.marks.move(ROOM, 1, new[0]) == (new[0], 1)
    assert await unread(a) == 1


async def test_the_count_after_a_repaired_gap(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
    """Messages whose announcements were lost count as soon as they are delivered, page by page."""
    a, b = await node(history_size=1000), await node(history_size=1000)
    await b.broker.subscribe([ROOM])
    await send(a, 1)
    await b.listener.until(lambda: len(b.listener.events) == 1)
    on_message = b.broker._receiver.subscriptions._on_message  # type: ignore[attr-defined]
    b.broker._receiver.subscriptions._on_message = lambda *_: None  # type: ignore[attr-defined]
    await asyncio.gather(*[a.broker.publish(ROOM, b"x", None, i % 2 == 0) for i in range(600)])
    b.broker._receiver.subscriptions._on_message = on_message  # type: ignore[attr-defined]
    await send(a, 1)
    await b.listener.until(lambda: len(b.listener.events) == 602)
    assert b.broker.marks.count_all(ROOM) == 302


async def test_the_keys_expire(node: StartNode, redis_server: RedisServer, redis_prefix: str) -> None:
    """The marks of a user, and the state of a room with messages, live for ``READ_TTL``."""
    a = await node(read_ttl=10_000.0, id_ttl=10.0, history_ttl=10.0)
    ids = await send(a, 1)
    await a.broker.publish("channel:2", b"no message")
    await a.broker.marks.move(ROOM, 1, ids[0])
    of_marks, with_messages, without = [
        await redis_server("PTTL", f"{{{redis_prefix}:{name}") for name in ("u:1}:r", f"{ROOM}}}:m", "channel:2}:m")
    ]
    assert 9_900_000 < of_marks <= 10_000_000
    assert 10_000_000 <= with_messages < 10_500_000
    assert 0 < without < 1_000_000


async def test_many_messages_of_one_user_move_the_mark_a_few_times(
    node: StartNode, redis_server: RedisServer, redis_prefix: str
) -> None:
    """Own messages cost at most two commands for the first second, and none for each message; the newest is kept."""
    a, b = await node(), await node()
    for one in (a, b):
        await one.broker.subscribe([ROOM])
    before = (await redis_server.info("commandstats"))["cmdstat_hset"]["calls"]
    await asyncio.gather(*[a.broker.publish(ROOM, b"x", None, True, 1) for _ in range(500)])
    assert await unread(a) == 0
    batches = -(-500 // 128) + 1
    calls = (await redis_server.info("commandstats"))["cmdstat_hset"]["calls"] - before
    assert calls <= 2 * batches + 3 + 4
    assert await unread(b) == 0


async def test_joins_at_the_same_time_share_the_state_of_the_room(node: StartNode, redis_server: RedisServer) -> None:
    """A join reads one field. The script for the room runs once for all users who join at the same time."""
    a = await node()
    await a.broker.subscribe([ROOM])
    await send(a, 3)
    await unread(a)
    before = await redis_server.info("commandstats")
    counts = await asyncio.gather(*[a.broker.marks.count_read(ROOM, user) for user in range(200)])
    after = await redis_server.info("commandstats")
    assert counts == [0] * 200
    assert after["cmdstat_hget"]["calls"] - before["cmdstat_hget"]["calls"] == 200
    assert after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"] <= 2


async def test_after_failovers(start_node: StartNode, sentinel_trio: SentinelTrio) -> None:
    """Failovers to the replica and back change no marks and no counts, and marks of earlier events can be set."""
    nodes = [await start_node(sentinel_trio.url, history_size=100) for _ in range(2)]
    a, b = nodes
    for node in nodes:
        await node.broker.subscribe([ROOM])
    ids = await send(a, 4)
    assert await a.broker.marks.move(ROOM, 1, ids[0]) == (ids[0], 1)
    assert await b.broker.marks.move(ROOM, 2, ids[3]) == (ids[3], 4)
    for count in (1, 2):
        server = await sentinel_trio.switch()
        await until_connected(server, *nodes)
        end_grace(*nodes)
        ids += await send(b, 1)
        for node in nodes:
            await node.listener.until(lambda node=node, last=ids[-1]: node.listener.events[-1][1] == last)
            assert [await unread(node, user) for user in (1, 2, 3)] == [4, count, 4 + count]
            assert node.listener.resyncs == []
        assert await a.broker.marks.move(ROOM, 1, ids[count]) == (ids[count], count + 1)
        assert await b.broker.marks.move(ROOM, 1, ids[0]) == (ids[count], count + 1)
