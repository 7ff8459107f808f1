"""The contract for turns."""

from __future__ import annotations

import asyncio

import pytest

from .harness import Harness


class TurnContract:
    """Turns."""

    async def test_one_holder_gets_a_turn(self, harness: Harness) -> None:
        """Of many callers one gets the turn, and the others get the time until it ends. Other turns are free."""
        broker = harness.broker
        waits = await asyncio.gather(*[broker.take_turn("t", f"holder {number}", 30) for number in range(10)])
        assert sorted(waits)[0] == 0
        assert all(29 < wait <= 30 for wait in sorted(waits)[1:])
        assert await broker.take_turn("other", "x", 30) == 0

    async def test_a_turn_ends(self, harness: Harness) -> None:
        """It ends after its time, and callers that do not get it do not change that."""
        broker = harness.broker
        assert await broker.take_turn("t", "a", 60) == 0
        await harness.pass_time(20)
        assert await broker.take_turn("t", "b", 600) == pytest.approx(40, abs=1)
        await harness.pass_time(41)
        assert await broker.take_turn("t", "b", 60) == 0
        assert await broker.take_turn("t", "a", 60) == pytest.approx(60, abs=1)

    async def test_a_holder_extends_its_turn(self, harness: Harness) -> None:
        """The turn then lasts for the given time from now."""
        broker = harness.broker
        assert await broker.take_turn("t", "a", 60) == 0
        await harness.pass_time(40)
        assert await broker.take_turn("t", "a", 60) == 0
        await harness.pass_time(40)
        assert await broker.take_turn("t", "b", 60) == pytest.approx(20, abs=1)

    async def test_any_name(self, harness: Harness) -> None:
        """Names may have any characters."""
        for name in ("polls/close", "{a}", "a b", "é"):
            assert await harness.broker.take_turn(name, "a", 30) == 0
            assert await harness.broker.take_turn(name, "b", 30) > 0
