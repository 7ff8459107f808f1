"""Event ids across restarts of Redis: each loss is reported, to the rooms that lost events, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest
from broker_contract import HISTORY_SIZE, HISTORY_TTL, OTHER, ROOM, Harness, split
from redis_nodes import StartNode, age_state, end_grace, until_connected
from redis_servers import FreshRedis, RedisServer
from tcp_proxy import Proxy

from roomcast.broker.base import Event
from roomcast.broker.redis.options import GRACE_PERIOD


@pytest.fixture
async def server(fresh_redis: FreshRedis) -> RedisServer:
    """A server that writes all data to its append-only file before it acknowledges it."""
    return await fresh_redis(appendonly="yes", appendfsync="always")


async def restart(server: RedisServer, *nodes: Harness) -> None:
    """Kill and start ``server``, and wait until ``nodes`` are connected to it again."""
    server.kill()
    await server.start()
    await until_connected(server, *nodes)


async def received(node: Harness, count: int) -> list[tuple[str, str, bytes]]:
    """Wait until a node has received ``count`` events, and return them."""
    await node.listener.until(lambda: len(node.listener.events) >= count)
    return node.listener.events


async def test_nothing_is_lost(server: RedisServer, start_node: StartNode) -> None:
    """After a restart that lost nothing, events go on live, and every id that is stored is valid."""
    a, b = await start_node(server.url), await start_node(server.url)
    await b.broker.subscribe([ROOM, OTHER])
    ids = await a.fill(2)
    quiet = await a.fill(1, OTHER)
    for _ in range(2):
        await restart(server, a, b)
        ids += await a.fill(1)
    assert [split(id)[1] for id in ids] == [1, 2, 3, 4]
    assert [split(id)[0] for id in ids] == sorted(split(id)[0] for id in ids)
    assert len({split(id)[0] for id in ids}) == 3
    await received(b, 5)
    assert [id for room, id, _ in b.listener.events if room == ROOM] == ids
    for node in (a, b):
        for number, since in enumerate(ids):
            history = await node.broker.history(ROOM, since)
            assert (history.recovered, [event.id for event in history.events]) == (True, ids[number + 1 :])
            assert history.last_id == ids[-1]
        history = await node.broker.history(OTHER, quiet[0])
        assert (history.recovered, list(history.events), history.last_id) == (True, [], quiet[0])
        assert node.listener.resyncs == []


async def test_only_stored_events_count_across_epochs(server: RedisServer, start_node: StartNode) -> None:
    """A resume across epochs returns exactly the events after an id, or reports that one of them is gone."""
    a = await start_node(server.url)
    ids = await a.fill(3)
    await restart(server, a)
    ids += await a.fill(HISTORY_SIZE - 1)
    end_grace(a)
    for number, since in enumerate(ids):
        history = await a.broker.history(ROOM, since)
        is_stored = len(ids) - number - 1 <= HISTORY_SIZE
        assert history.recovered is is_stored
        assert [event.id for event in history.events] == (ids[number + 1 :] if is_stored else [])
    assert [event.id for event in (await a.broker.history(ROOM)).events] == ids[-HISTORY_SIZE:]
    page = await a.broker.history(ROOM, ids[2], 2)
    assert ([event.id for event in page.events], page.recovered) == (ids[3:5], True)


async def test_ids_that_were_never_assigned(server: RedisServer, start_node: StartNode) -> None:
    """Ids between the epochs of a room, or after the newest event, do not resume, and are no loss."""
    a = await start_node(server.url)
    await a.broker.subscribe([ROOM])
    old = await a.fill(2)
    await restart(server, a)
    new = await a.fill(2)
    end_grace(a)
    first, second = split(old[0])[0], split(new[0])[0]
    unknown = [f"{second}-1", f"{second}-5", f"{int(first) + 1}-2", f"{int(second) + 1}-4", f"{int(first) - 1}-1"]
    for since in unknown:
        assert not (await a.broker.history(ROOM, since)).recovered, since
    history = await a.broker.history(ROOM, old[1])
    assert (history.recovered, [event.id for event in history.events]) == (True, new)
    assert (await a.broker.history(ROOM, f"{second}-2")).events == history.events  # the position before its first event
    assert a.listener.resyncs == []


async def test_exactly_the_rooms_that_lost_events_are_told(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """Members and returning clients of the room that lost events are told, on all nodes, and no others."""
    server = await fresh_redis(appendonly="yes", appendfsync="everysec")
    a, b = await start_node(server.url), await start_node(server.url)
    rooms = [ROOM, OTHER, "channel:3"]
    for node in (a, b):
        await node.broker.subscribe(rooms)
    before = {room: (await a.fill(2, room))[-1] for room in rooms}
    copy = await server.copy_data()
    lost = await a.fill(2)
    await received(b, 8)
    server.kill()
    server.lose_data(copy)
    await server.start()
    for node in (a, b):
        await node.listener.until(lambda node=node: bool(node.listener.resyncs))
    await until_connected(server, a, b)
    new = await a.fill(1)
    await received(b, 9)
    assert a.listener.resyncs == b.listener.resyncs
    ((room, last_id),) = b.listener.resyncs
    assert (room, split(last_id)[1]) == (ROOM, 2)
    assert split(new[0]) == (split(last_id)[0], 3)
    assert split(new[0])[0] > split(lost[0])[0]
    for node in (a, b):
        for since in (before[ROOM], *lost):
            assert not (await node.broker.history(ROOM, since)).recovered
        history = await node.broker.history(ROOM, last_id)
        assert (history.recovered, [event.id for event in history.events]) == (True, new)
        for other in rooms[1:]:
            history = await node.broker.history(other, before[other])
            assert (history.recovered, list(history.events), history.last_id) == (True, [], before[other])


async def test_an_event_is_lost_before_it_was_delivered(server: RedisServer, start_node: StartNode) -> None:
    """Members are told of a lost event that only its publisher has seen, on a node without members."""
    async with Proxy("127.0.0.1", server.port) as proxy:
        publisher, member = (
            await start_node(server.url),
            await start_node(f"redis://127.0.0.1:{proxy.port}", timeout=20.0),
        )
        await member.broker.subscribe([ROOM, OTHER])
        ids = await publisher.fill(1)
        await received(member, 1)
        copy = await server.copy_data()
        proxy.stall()
        ids += await publisher.fill(1)
        server.kill()
        server.lose_data(copy)
        await server.start()
        proxy.reset()
        proxy.flow()
        await member.listener.until(lambda: bool(member.listener.resyncs))
        ((room, last_id),) = member.listener.resyncs
        assert (room, split(last_id)[1]) == (ROOM, 1)
        assert [id for _, id, _ in member.listener.events] == ids[:1]
        assert not (await publisher.broker.history(ROOM, ids[0])).recovered


async def test_a_delivered_event_is_lost_after_its_member_left(server: RedisServer, start_node: StartNode) -> None:
    """Clients that return are told of a lost event that was delivered only to a member that has left since."""
    async with Proxy("127.0.0.1", server.port) as proxy:
        publisher, member = await start_node(f"redis://127.0.0.1:{proxy.port}"), await start_node(server.url)
        await member.broker.subscribe([ROOM])
        ids = await publisher.fill(1)
        copy = await server.copy_data()
        ids += await publisher.fill(1)
        await received(member, 2)
        await member.broker.unsubscribe([ROOM])
        await proxy.stop()  # the publisher cannot report it
        server.kill()
        server.lose_data(copy)
        await server.start()
        await until_connected(server, member)
        assert not (await member.broker.history(ROOM, ids[0])).recovered


async def test_a_node_that_reports_late(server: RedisServer, start_node: StartNode) -> None:
    """A node that returns long after the others reports a loss, and then everyone in the room is told."""
    async with Proxy("127.0.0.1", server.port) as proxy:
        late, early = await start_node(f"redis://127.0.0.1:{proxy.port}"), await start_node(server.url)
        await early.broker.subscribe([ROOM, OTHER])
        ids = await late.fill(2)
        await received(early, 2)
        other = (await late.fill(1, OTHER))[0]
        copy = await server.copy_data()
        await early.broker.unsubscribe([ROOM])
        await early.broker.history(ROOM)
        early.broker._receiver._positions.rotate()  # type: ignore[attr-defined]
        early.broker._receiver._positions.rotate()  # type: ignore[attr-defined]
        ids += await late.fill(2)
        await proxy.stop()
        server.kill()
        server.lose_data(copy)
        await server.start()
        await until_connected(server, early)
        await early.broker.subscribe([ROOM])
        history = await early.broker.history(ROOM, ids[0])  # waits until the grace period is over
        assert (history.recovered, [event.id for event in history.events]) == (True, ids[1:2])
        new = await early.fill(2)
        assert early.listener.resyncs == []
        await proxy.start()
        await early.listener.until(lambda: bool(early.listener.resyncs))
        await until_connected(server, late)
        ((room, last_id),) = early.listener.resyncs
        assert (room, split(last_id)[1]) == (ROOM, 4)
        for since in (*ids, *new):  # the clients that resumed in the meantime have missed the lost events as well
            assert not (await late.broker.history(ROOM, since)).recovered, since
        assert (await late.broker.history(ROOM, last_id)).recovered
        assert (await late.broker.history(OTHER, other)).recovered
        assert late.listener.resyncs == []


async def test_only_a_client_has_seen_the_lost_event(server: RedisServer, start_node: StartNode) -> None:
    """A client that presents the id of a lost event is told, and counts as a report, once for each restart."""
    a = await start_node(server.url)
    ids = await a.fill(2)
    copy = await server.copy_data()
    lost = await a.fill(2)
    await a.broker.close()
    server.kill()
    server.lose_data(copy)
    await server.start()
    b, c = await start_node(server.url), await start_node(server.url)
    await c.broker.subscribe([ROOM])
    end_grace(b, c)
    assert (await c.broker.history(ROOM, ids[0])).recovered
    assert not (await b.broker.history(ROOM, lost[0])).recovered
    await c.listener.until(lambda: bool(c.listener.resyncs))
    ((_, last_id),) = c.listener.resyncs
    assert not (await c.broker.history(ROOM, ids[0])).recovered
    # The report of the other lost event, and ids after the end of the current epoch, change nothing.
    new = await b.fill(1)
    for since in (lost[1], f"{split(new[0])[0]}-9", f"{split(last_id)[0]}-9"):
        assert not (await b.broker.history(ROOM, since)).recovered
    await received(c, 1)
    assert len(c.listener.resyncs) == 1
    assert (await c.broker.history(ROOM, last_id)).events == [Event(new[0], b"0")]


async def test_resumes_wait_for_reports(server: RedisServer, start_node: StartNode) -> None:
    """During the grace period, a resume from before the restart waits; others are answered at once."""
    a = await start_node(server.url)
    ids = await a.fill(2)
    empty = (await a.broker.history(OTHER)).last_id
    end_grace(a)
    await restart(server, a)
    reporter = a.broker._receiver._reporter  # type: ignore[attr-defined]
    reporter._used_since.update(dict.fromkeys(reporter._used_since, asyncio.get_running_loop().time()))
    waiting = [
        asyncio.create_task(a.broker.history(room, since))
        for room, since in ((ROOM, ids[0]), (ROOM, ids[1]), (OTHER, empty))
    ]
    assert not (await a.broker.history(ROOM, "1-1")).recovered
    assert not (await a.broker.history(ROOM, "")).recovered
    assert (await a.broker.history(ROOM)).recovered
    new = await a.fill(1)
    assert (await a.broker.history(ROOM, new[0])).recovered
    assert 0 < reporter.seconds_left() < GRACE_PERIOD
    assert not any(task.done() for task in waiting)
    assert all([(await task).recovered for task in waiting])
    assert reporter.seconds_left() <= 0
    assert [event.id for event in (await waiting[0]).events] == [ids[1], *new]


async def test_a_node_that_starts_later_does_not_wait(server: RedisServer, start_node: StartNode) -> None:
    """A new node finds out since when others use the server, and does not wait if that is long enough."""
    a = await start_node(server.url)
    ids = await a.fill(1)
    await restart(server, a)
    reporter = a.broker._receiver._reporter  # type: ignore[attr-defined]
    await asyncio.sleep(max(reporter.seconds_left(), 0))
    b = await start_node(server.url)
    assert b.broker._receiver._reporter.seconds_left() <= 0  # type: ignore[attr-defined]
    assert (await b.broker.history(ROOM, ids[0])).recovered


async def test_redis_restarts_empty(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """Without persistence, all rooms with events are told; rooms that never had an event are not."""
    server = await fresh_redis()
    a, b = await start_node(server.url), await start_node(server.url)
    for node in (a, b):
        await node.broker.subscribe([ROOM, OTHER])
    empty = (await b.broker.history(OTHER)).last_id
    ids = await a.fill(3)
    unread = await a.fill(1, "channel:3")
    await received(b, 3)
    await restart(server, a, b)
    for node in (a, b):
        await node.listener.until(lambda node=node: bool(node.listener.resyncs))
        ((room, last_id),) = node.listener.resyncs
        assert (room, split(last_id)[1]) == (ROOM, 0)
        for lost_room, since in ((ROOM, ids[0]), (ROOM, ids[2]), ("channel:3", unread[0])):
            assert not (await node.broker.history(lost_room, since)).recovered
        history = await node.broker.history(OTHER, empty)
        assert (history.recovered, list(history.events)) == (True, [])
    first = await a.fill(1, OTHER)
    await received(b, 4)
    assert (await b.broker.history(OTHER, empty)).events == [Event(first[0], b"0")]
    assert (len(a.listener.resyncs), len(b.listener.resyncs)) == (1, 1)


async def test_redis_restarts_empty_twice(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """A loss is still known after a second restart without data, which loses nothing more."""
    server = await fresh_redis()
    a = await start_node(server.url)
    empty = (await a.broker.history(ROOM)).last_id
    await a.broker.subscribe([ROOM])
    await a.fill(2)
    await received(a, 2)
    await restart(server, a)
    await a.listener.until(lambda: bool(a.listener.resyncs))
    ((_, last_id),) = a.listener.resyncs
    await restart(server, a)
    end_grace(a)
    assert not (await a.broker.history(ROOM, empty)).recovered
    assert (await a.broker.history(ROOM, last_id)).recovered
    new = await a.fill(1)
    await received(a, 3)
    assert (await a.broker.history(ROOM, last_id)).events == [Event(new[0], b"0")]
    assert len(a.listener.resyncs) == 1


async def test_a_room_is_used_before_its_loss_is_reported(fresh_redis: FreshRedis, start_node: StartNode) -> None:
    """After an empty restart, a publish begins the room again. Its new members and old clients are told as well."""
    server = await fresh_redis()
    async with Proxy("127.0.0.1", server.port) as proxy:
        late, early = await start_node(f"redis://127.0.0.1:{proxy.port}"), await start_node(server.url)
        empty = (await early.broker.history(ROOM)).last_id
        ids = await late.fill(2)
        await proxy.stop()
        await restart(server, early)
        await early.broker.subscribe([ROOM])
        new = await early.fill(1)
        await proxy.start()
        await early.listener.until(lambda: bool(early.listener.resyncs))
        await until_connected(server, late)
        for since in (empty, *ids, *new):
            assert not (await late.broker.history(ROOM, since)).recovered
        ((_, last_id),) = early.listener.resyncs
        assert (await late.broker.history(ROOM, last_id)).recovered


async def test_a_room_that_was_quiet_for_days(server: RedisServer, start_node: StartNode, redis_prefix: str) -> None:
    """A client that returns to a quiet room days later is told that it missed nothing, even across a restart."""
    a = await start_node(server.url)
    ids = await a.fill(2)
    empty = (await a.broker.history(OTHER)).last_id
    await age_state(server, redis_prefix, 3 * 24 * 3600)
    await restart(server, a)
    end_grace(a)
    history = await a.broker.history(ROOM, ids[1])
    assert (history.recovered, list(history.events), history.last_id) == (True, [], ids[1])
    assert not (await a.broker.history(ROOM, ids[0])).recovered
    assert (await a.broker.history(OTHER, empty)).recovered
    new = await a.fill(1)
    assert (await a.broker.history(ROOM, ids[1])).events == [Event(new[0], b"0")]
    # Rooms without events have no keys.
    assert await server("EXISTS", f"{{{redis_prefix}:{OTHER}}}:m") == 0
    assert 6 * 24 * 3600 < await server("TTL", f"{{{redis_prefix}:{ROOM}}}:m") < 8 * 24 * 3600
    assert await server("TTL", f"{{{redis_prefix}:{ROOM}}}:s") < 2 * HISTORY_TTL


async def test_an_id_of_an_empty_room_expires(server: RedisServer, start_node: StartNode, redis_prefix: str) -> None:
    """An id from before the room's first event is invalid once its events may have come and gone."""
    a = await start_node(server.url, id_ttl=1.0)
    empty = (await a.broker.history(ROOM)).last_id
    epoch, _ = split(empty)
    end_grace(a)
    assert (await a.broker.history(ROOM, empty)).recovered
    old = f"{int(epoch) - 1_000_000_000}-0"
    assert not (await a.broker.history(ROOM, old)).recovered
    await a.fill(1)
    assert (await a.broker.history(ROOM, empty)).recovered
    assert not (await a.broker.history(ROOM, old)).recovered


async def test_a_publish_is_repeated_after_a_restart(server: RedisServer, start_node: StartNode) -> None:
    """A batch whose reply was lost is published once, whether the restart has lost it or not, with or without keys."""
    async with Proxy("127.0.0.1", server.port) as proxy:
        a, b = await start_node(f"redis://127.0.0.1:{proxy.port}"), await start_node(server.url)
        await b.broker.subscribe([ROOM])
        ids = await a.fill(1)
        for number, is_lost in enumerate((False, True)):
            copy = await server.copy_data()
            proxy.stall(to_server=False)
            publishing = [
                asyncio.create_task(a.broker.publish(ROOM, b"keyed", f"key {number}")),
                asyncio.create_task(a.broker.publish(ROOM, b"plain")),
            ]
            await received(b, len(ids) + 2)
            server.kill()
            if is_lost:
                server.lose_data(copy)
            await server.start()
            proxy.reset()
            proxy.flow()
            ids += await asyncio.gather(*publishing)
            assert await a.broker.publish(ROOM, b"keyed", f"key {number}") == ids[-2]
        stored = [event.id for event in (await a.broker.history(ROOM)).events]
        assert stored == ids
        assert [split(id)[1] for id in ids] == [1, 2, 3, 4, 5]


async def test_more_restarts_than_kept_epochs(server: RedisServer, start_node: StartNode, redis_prefix: str) -> None:
    """Ids of the last epochs stay valid; ids that are older are reported, and nothing grows without a limit."""
    a = await start_node(server.url, history_size=100)
    meta = f"{{{redis_prefix}:{ROOM}}}:m"
    ids = []
    for number in range(20):
        ids += await a.fill(1)
        await server("HSET", meta, "g", f"older {number}")  # as if the server had been replaced
    end_grace(a)
    recovered = [(await a.broker.history(ROOM, id)).recovered for id in ids]
    assert recovered == [False] * 4 + [True] * 16
    assert [event.id for event in (await a.broker.history(ROOM, ids[4])).events] == ids[5:]
    assert await server("HLEN", meta) <= 6 + 16  # the fields of room.lua, and the epochs


async def test_the_keys_of_version_0_1(server: RedisServer, start_node: StartNode, redis_prefix: str) -> None:
    """A room that a node of version 0.1 has written keeps its ids."""
    tag = f"{{{redis_prefix}:{ROOM}}}"
    epoch = 1_795_979_575_361_884
    now = int((await server("TIME"))[0]) * 1000
    for offset in (1, 2):
        await server("XADD", f"{tag}:s", f"{epoch}-{offset}", "t", now, "p", f"{offset}")
    await server("HSET", f"{tag}:m", "e", epoch, "o", 2, "r", (await server.info("server"))["run_id"], "x", now)
    for key in (f"{tag}:s", f"{tag}:m"):
        await server("PEXPIRE", key, 60_000)
    a = await start_node(server.url)
    await a.broker.subscribe([ROOM])
    end_grace(a)
    assert (await a.broker.history(ROOM, f"{epoch}-1")).events == [Event(f"{epoch}-2", b"2")]
    new = await a.fill(1)
    assert split(new[0])[1] == 3
    assert [event.id for event in (await a.broker.history(ROOM, f"{epoch}-1")).events] == [f"{epoch}-2", *new]
    assert await received(a, 1) == [(ROOM, new[0], b"0")]
    assert a.listener.resyncs == []


@pytest.mark.parametrize("is_lost", [False, True])
async def test_signals(server: RedisServer, start_node: StartNode, is_lost: bool) -> None:
    """A restart reports lost signals only if it has lost one."""
    a, b = await start_node(server.url), await start_node(server.url)
    await a.broker.signal(b"one")
    await b.listener.until(lambda: bool(b.listener.signals))
    copy = await server.copy_data()
    await a.broker.signal(b"two")
    for node in (a, b):  # also its own node, before the server is killed
        await node.listener.until(lambda node=node: len(node.listener.signals) == 2)
    server.kill()
    if is_lost:
        server.lose_data(copy)
    await server.start()
    await until_connected(server, a, b)
    await a.broker.signal(b"three")
    for node in (a, b):
        await node.listener.until(lambda node=node: node.listener.signals == [b"one", b"two", b"three"])
        assert node.listener.signals_lost == is_lost
