"""The contract for broadcasts: live payloads that are not stored."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.broker.base import Event, History

from .harness import OTHER, ROOM, Harness


class BroadcastContract:
    """Broadcasts in ROOM."""

    @pytest.mark.parametrize("payload", [b"", b"\0", b"\r\n", b"\xff\xfe", b"x" * 70_000])
    async def test_a_broadcast_is_opaque(self, harness: Harness, payload: bytes) -> None:
        """Any bytes reach the listener of a subscribed room unchanged."""
        await harness.broker.subscribe([ROOM])
        harness.broker.broadcast(ROOM, payload)
        await harness.listener.until(lambda: harness.listener.broadcasts == [(ROOM, payload)])

    async def test_broadcasts_arrive_in_order(self, harness: Harness) -> None:
        """Broadcasts of one loop iteration and of later ones arrive once, in their order."""
        await harness.broker.subscribe([ROOM, OTHER])
        for number in range(100):
            harness.broker.broadcast(ROOM, b"%d" % number)
            harness.broker.broadcast(OTHER, b"%d" % number)
            if number % 7 == 0:
                await asyncio.sleep(0)
        await harness.listener.until(lambda: len(harness.listener.broadcasts) >= 200)
        await harness.received_events()
        for room in (ROOM, OTHER):
            received = [payload for name, payload in harness.listener.broadcasts if name == room]
            assert received == [b"%d" % number for number in range(100)]

    async def test_only_subscribed_rooms_receive_broadcasts(self, harness: Harness) -> None:
        """Broadcasts before ``subscribe``, after ``unsubscribe`` and in other rooms are not reported."""
        harness.broker.broadcast(ROOM, b"before")
        await harness.received_events()
        await harness.broker.subscribe([ROOM])
        harness.broker.broadcast(OTHER, b"other room")
        harness.broker.broadcast(ROOM, b"live")
        await harness.listener.until(lambda: bool(harness.listener.broadcasts))
        await harness.broker.unsubscribe([ROOM])
        harness.broker.broadcast(ROOM, b"after")
        await harness.received_events()
        assert harness.listener.broadcasts == [(ROOM, b"live")]

    async def test_a_broadcast_is_not_stored(self, harness: Harness) -> None:
        """A broadcast takes no id and no place in the history, and is not replayed."""
        await harness.broker.subscribe([ROOM])
        first, second = await harness.fill(2)
        harness.broker.broadcast(ROOM, b"live")
        await harness.listener.until(lambda: harness.listener.broadcasts == [(ROOM, b"live")])
        third = await harness.broker.publish(ROOM, b"2")
        stored = [Event(first, b"0"), Event(second, b"1"), Event(third, b"2")]
        assert await harness.broker.history(ROOM) == History(stored, True, third)
        assert await harness.received_events() == [(ROOM, one.id, one.payload) for one in stored]
        assert third.endswith("-3")

    async def test_a_broadcast_creates_no_room(self, harness: Harness) -> None:
        """A broadcast in a room without members has no effect."""
        harness.broker.broadcast(ROOM, b"live")
        await harness.received_events()
        assert await harness.broker.rooms() == {}
        assert (await harness.broker.history(ROOM)).last_id.endswith("-0")
