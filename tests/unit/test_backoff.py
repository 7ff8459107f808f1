"""Exponential back-off."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.backoff import Backoff, wait_at_most


def test_pauses_double_up_to_the_maximum() -> None:
    """Each pause is twice the one before, and none is longer than the maximum, however many follow."""
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_pause() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert {backoff.next_pause() for _ in range(2000)} == {3.0}


def test_reset_begins_with_the_first_pause() -> None:
    """After a success the next failure waits for the first pause."""
    backoff = Backoff(0.5, 3.0)
    backoff.next_pause()
    backoff.next_pause()
    backoff.reset()
    assert backoff.next_pause() == 0.5


def test_immediate_retries_have_no_pause() -> None:
    """The first ``immediate`` retries do not wait, after a reset as well."""
    backoff = Backoff(0.5, 3.0, immediate=2)
    assert [backoff.next_pause() for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
    backoff.reset()
    assert backoff.next_pause() == 0.0


@pytest.mark.parametrize("jitter", [0.5, 1.0])
def test_jitter_shortens_pauses(jitter: float) -> None:
    """A pause with jitter lies between its shortest and its full length, and varies."""
    pauses = [Backoff(1.0, 1.0, jitter=jitter).next_pause() for _ in range(200)]
    assert all(1 - jitter <= pause <= 1 for pause in pauses)
    assert len(set(pauses)) > 100


async def test_an_event_ends_the_wait() -> None:
    """The wait ends when the event is set, and returns False if that does not happen in time."""
    event = asyncio.Event()
    assert not await wait_at_most(event, 0.01)
    waiting = asyncio.create_task(wait_at_most(event, 3600.0))
    await asyncio.sleep(0)
    event.set()
    assert await waiting
    assert await wait_at_most(event, 0)


async def test_a_wait_can_be_cancelled() -> None:
    """A cancellation is not taken for the end of the time."""
    waiting = asyncio.create_task(wait_at_most(asyncio.Event(), 3600.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
