"""The history of a subscribed room is consistent with the events that the listener received."""

from __future__ import annotations

import asyncio

from broker_contract import ROOM, split
from redis_nodes import StartNode
from redis_servers import RedisServer


async def test_history_matches_the_received_events(node: StartNode) -> None:
    """During concurrent publishes, history contains exactly the events that the listener has received."""
    a, b = await node(history_size=500), await node(history_size=500)
    await b.broker.subscribe([ROOM])
    first = await a.broker.publish(ROOM, b"first")
    publishing = asyncio.gather(*[a.broker.publish(ROOM, b"%d" % i) for i in range(400)])
    for _ in range(20):
        history = await b.broker.history(ROOM, first)
        before = len(b.listener.events)
        assert history.recovered
        assert [split(event.id)[1] for event in history.events] == list(range(2, before + 1))
        assert history.last_id == b.listener.events[-1][1]
    await publishing
    assert len(await b.received_events()) == 401


async def test_history_since_an_event_not_received_yet(node: StartNode, redis_server: RedisServer) -> None:
    """History since an event that this node has not received yet waits for it, so it is not delivered twice."""
    a, b = await node(), await node()
    await b.broker.subscribe([ROOM])
    ids = await a.fill(4)
    history = await b.broker.history(ROOM, ids[3])
    assert (history.recovered, list(history.events), history.last_id) == (True, [], ids[3])
    assert [id for _, id, _ in b.listener.events] == ids
