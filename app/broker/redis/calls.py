"""What leases and presence need of the way to Redis, and how they use it without holding up the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

from .scripts import Script

_T = TypeVar("_T")

#: How many calls are begun in one turn of the loop: 50 cost it about 1 ms.
BATCH = 50


class ScriptRunner(Protocol):
    """What runs scripts: the router."""

    def run(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Awaitable[Any]:
        """Run ``script`` where ``keys`` are; raises ``Unavailable``, now or from the result."""


async def in_batches(work: Callable[[_T], Awaitable[None]], items: Iterable[_T]) -> None:
    """Do ``work`` for each of ``items``, ``BATCH`` at a time; ``items`` are looked at as it goes on, so give a copy."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        await asyncio.gather(*[work(item) for item in batch])
