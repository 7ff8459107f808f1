"""Reading the queue into lanes: rooms that fail do not stop others, and later epochs follow earlier ones."""

from __future__ import annotations

import asyncio

import pytest
from waiting import wait_until
from webhook_site import FAST, Start

from roomcast.plugins.webhook import reader

A, B = "channel:1", "channel:2"


async def test_a_room_that_fails_does_not_stop_the_reading(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many events wait behind one that is refused: other rooms go on, and later the room does, in order."""
    monkeypatch.setattr(reader, "_MAX_HELD", 20)
    monkeypatch.setattr(reader, "_PAGE", 10)
    site = await start()
    receiver = site.receiver
    is_fixed = False
    receiver.answer = lambda events: 422 if not is_fixed and any(e["id"] == f"{A}/e-1" for e in events) else None
    await receiver.stop()
    await asyncio.gather(*[site.publish(A, offset) for offset in range(1, 101)])
    await wait_until(lambda: site.delivery._lanes.count >= 20)
    await receiver.start()
    for offset in range(1, 61):
        await site.publish(B, offset)
    await receiver.until(lambda: len(receiver.events) == 60)
    assert receiver.published() == [(B, f"e-{offset}") for offset in range(1, 61)]
    assert site.delivery._lanes.count < 60, "events that must wait long are left in the queue"
    is_fixed = True
    await receiver.until(lambda: len(receiver.events) == 160, 60)
    assert [id for room, id in receiver.published() if room == A] == [f"e-{offset}" for offset in range(1, 101)]


async def test_the_order_of_epochs(start: Start) -> None:
    """Events of a room arrive by their epochs, also if another room was in the later epoch first."""
    site = await start()
    receiver = site.receiver
    await receiver.stop()
    for room, epoch, offset in ((B, "10", 1), (A, "9", 1), (A, "10", 2)):
        await site.publish(room, offset, epoch=epoch)
    await receiver.start()
    await receiver.until(lambda: len(receiver.events) == 3)
    assert [id for room, id in receiver.published() if room == A] == ["9-1", "10-2"]


async def test_an_event_waits_for_missing_ones(start: Start) -> None:
    """An event that arrives late is delivered before later ones, also by a consumer that has delivered none yet."""
    site = await start(timing=FAST._replace(gap=60.0))
    receiver = site.receiver
    await asyncio.gather(*[site.publish(A, offset) for offset in (1, 2, 4)])
    await receiver.until(lambda: len(receiver.events) == 2)
    await site.publish(B, 1)
    await receiver.until(lambda: len(receiver.events) == 3)
    await site.publish(A, 3)
    await receiver.until(lambda: len(receiver.events) == 5)
    assert [id for room, id in receiver.published() if room == A] == ["e-1", "e-2", "e-3", "e-4"]


async def test_an_event_waits_for_missing_ones_of_an_earlier_epoch(start: Start) -> None:
    """Offsets count on over the epochs of a room, so an event that is missing at the end of one shows."""
    site = await start(timing=FAST._replace(gap=60.0))
    receiver = site.receiver
    await site.publish(A, 1, epoch="9")
    await asyncio.gather(*[site.publish(A, 3, epoch="10"), site.publish(B, 1)])
    await receiver.until(lambda: len(receiver.events) == 2)
    await site.publish(B, 2)
    await receiver.until(lambda: len(receiver.events) == 3)
    await site.publish(A, 2, epoch="9")
    await receiver.until(lambda: len(receiver.events) == 5)
    assert [id for room, id in receiver.published() if room == A] == ["9-1", "9-2", "10-3"]
