"""Turns: work that one node of all does in each interval.

A turn belongs to its holder until it ends by the clock of the shared part. If the holder dies, the others wait for that
moment, so nothing has to notice the death.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class Turns(ABC):
    """The part of a broker that gives out turns."""

    @abstractmethod
    async def take_turn(self, name: str, holder: str, seconds: float) -> float:
        """Take the turn ``name`` for ``seconds``, or extend it if ``holder`` has it.

        Return 0 if ``holder`` has the turn now, otherwise in how many seconds the current one ends. Then nothing has
        changed. A holder that lost the answer may call this again.
        """
