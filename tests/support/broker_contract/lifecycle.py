"""The contract for a broker that is running or closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from roomcast.broker.base import Broker, Publication
from roomcast.errors import Unavailable

from .harness import ROOM, Harness


async def _broadcast(broker: Broker) -> None:
    broker.broadcast(ROOM, b"x")


#: A call of every method of a broker except start and close.
CALLS: dict[str, Callable[[Broker], Awaitable[object]]] = {
    "ping": lambda broker: broker.ping(),
    "publish": lambda broker: broker.publish(ROOM, b"x"),
    "publish_many": lambda broker: broker.publish_many([Publication(ROOM, b"x")]),
    "publish_many of nothing": lambda broker: broker.publish_many([]),
    "broadcast": _broadcast,
    "subscribe": lambda broker: broker.subscribe([ROOM]),
    "unsubscribe": lambda broker: broker.unsubscribe([ROOM]),
    "history": lambda broker: broker.history(ROOM),
    "admit": lambda broker: broker.admit(1, 1, 5),
    "release": lambda broker: broker.release(1, 1),
    "statuses": lambda broker: broker.statuses([1]),
    "statuses of no users": lambda broker: broker.statuses([]),
    "connections": lambda broker: broker.connections(1),
    "enter": lambda broker: broker.enter(ROOM, 1, "alice", 1),
    "leave": lambda broker: broker.leave(ROOM, 1, 1),
    "members": lambda broker: broker.members(ROOM),
    "list_members": lambda broker: broker.list_members(ROOM),
    "set_status": lambda broker: broker.set_status(ROOM, 1, "x"),
    "rooms": lambda broker: broker.rooms(),
    "take_turn": lambda broker: broker.take_turn("t", "a", 30),
    "claim": lambda broker: broker.claim("k", 30),
    "settle": lambda broker: broker.settle("k", b""),
    "put": lambda broker: broker.put("k", b"", 1),
    "take": lambda broker: broker.take("k"),
    "revoke_all": lambda broker: broker.revoke_all(1, 1.0, 1),
    "revoke_one": lambda broker: broker.revoke_one(1, "t", 1),
    "is_revoked": lambda broker: broker.is_revoked(1, None, None),
    "signal": lambda broker: broker.signal(b""),
    "ask": lambda broker: broker.ask({}, 1.0),
    "append to a queue": lambda broker: broker.queue("q").append([b"x"]),
    "read a queue": lambda broker: broker.queue("q").read(1, 1),
    "dead letters of a queue": lambda broker: broker.queue("q").dead_letters(None, 1),
}


class LifecycleContract:
    """Ping and close."""

    async def test_ping(self, harness: Harness) -> None:
        """A running broker answers a ping."""
        await harness.broker.ping()

    @pytest.mark.parametrize("name", CALLS)
    async def test_calls_after_close(self, harness: Harness, name: str) -> None:
        """After ``close`` every method raises Unavailable with a sentence, and nothing is delivered."""
        await harness.broker.subscribe([ROOM])
        await harness.broker.close()
        with pytest.raises(Unavailable, match=r"\w+ \w+"):
            await CALLS[name](harness.broker)
        assert (harness.listener.events, harness.listener.signals, harness.listener.broadcasts) == ([], [], [])

    async def test_closing_twice(self, harness: Harness) -> None:
        """Closing a closed broker has no effect."""
        await harness.broker.close()
        await harness.broker.close()
