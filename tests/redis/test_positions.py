"""The positions that a node reports: the newest id of each room that it has seen recently."""

from __future__ import annotations

import itertools

import pytest
from broker_contract import OTHER, ROOM, split
from redis_nodes import StartNode
from redis_servers import RedisServer

from roomcast.broker.base import Publication
from roomcast.broker.redis.positions import RecentPositions

EARLY, LATE = "1795979575361884", "1795979575361999"


@pytest.mark.parametrize("offsets", list(itertools.permutations((9, 10, 99))))
def test_the_newest_id_counts(offsets: tuple[int, ...]) -> None:
    """Ids are compared as numbers, in any order of arrival, and a newer epoch counts more than a higher offset."""
    positions = RecentPositions()
    for offset in offsets:
        positions.record(ROOM, b"%b-%d" % (EARLY.encode(), offset))
    assert positions.get(ROOM) == (EARLY, 99)
    positions.record(ROOM, f"{LATE}-3".encode())
    positions.record(ROOM, f"{EARLY}-100".encode())
    assert positions.get(ROOM) == (LATE, 3)
    assert positions.get(OTHER) == ("", 0)


def test_positions_are_dropped_after_two_rotations() -> None:
    """A position is kept for at least the time between two rotations, and for at most twice that time."""
    positions = RecentPositions()
    positions.record(ROOM, f"{LATE}-5".encode())
    positions.rotate()
    positions.record(ROOM, f"{EARLY}-4".encode())
    positions.record(OTHER, f"{EARLY}-1".encode())
    assert (positions.get(ROOM), sorted(positions.rooms())) == ((LATE, 5), [ROOM, OTHER])
    positions.rotate()
    assert positions.get(ROOM) == (EARLY, 4)
    positions.rotate()
    assert (positions.get(ROOM), positions.rooms()) == (("", 0), [])


@pytest.mark.parametrize("ids", [(7,), (7, 8), (7, 3), (3, 7), (7, 8, 3), (7, 7)])
def test_a_batch_may_contain_repeated_events(ids: tuple[int, ...]) -> None:
    """Of a batch the newest id counts. Events with a known key have older ids."""
    positions = RecentPositions()
    found = [b"%b-%d" % (EARLY.encode(), offset) for offset in (1, *ids, 99)]
    positions.record_batch(ROOM, found, 1, 1 + len(ids))
    assert positions.get(ROOM) == (EARLY, max(ids))


async def test_acknowledged_and_delivered_events(start_node: StartNode, redis_server: RedisServer) -> None:
    """A node records what it has published, in batches and lists, and what it has received in rooms that it left."""
    a, b = await start_node(redis_server.url), await start_node(redis_server.url)
    await b.broker.subscribe([OTHER])
    ids = [await a.broker.publish(ROOM, b"1", "key"), await a.broker.publish(ROOM, b"2")]
    await a.broker.publish(ROOM, b"1", "key")
    ids += await a.broker.publish_many([Publication(OTHER, b"3"), Publication(ROOM, b"4"), Publication(OTHER, b"5")])
    ours, theirs = (one.broker._receiver._positions for one in (a, b))  # type: ignore[attr-defined]
    assert (ours.get(ROOM), ours.get(OTHER)) == (split(ids[3]), split(ids[4]))
    await b.listener.until(lambda: len(b.listener.events) == 2)
    assert theirs.rooms() == []
    await b.broker.unsubscribe([OTHER])
    assert theirs.get(OTHER) == split(ids[4])
