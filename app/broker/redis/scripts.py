"""Lua scripts: operations that must be atomic on the server. The files are in the folder ``lua``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha1
from importlib.resources import files
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

_T = TypeVar("_T")

#: How many calls ``in_batches`` starts in one loop iteration. 50 take about 1 ms.
BATCH: Final = 50


class Script:
    """A Lua script: its ``text``, and the ``sha`` with which EVALSHA runs it.

    ``names`` are the files it consists of, without ``.lua``, in order; shared functions come first. A ``stamped``
    script gets two arguments before its own: the generation of the server, and how often this call was sent before.
    """

    __slots__ = ("sha", "stamped", "text")

    def __init__(self, *names: str, stamped: bool = False) -> None:
        self.stamped: Final = stamped
        folder = files("roomcast.broker.redis.lua")
        self.text: Final = "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self.sha: Final = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class ScriptRunner(Protocol):
    """Runs scripts: the part of ``Router`` that ``Leases`` and ``Presence`` use."""

    def run(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Awaitable[Any]:
        """Run ``script`` on the server of ``keys``. Raises ``Unavailable``, at once or from the result."""


async def in_batches(work: Callable[[_T], Awaitable[None]], items: Iterable[_T]) -> None:
    """Run ``work`` for each of ``items``, ``BATCH`` at a time, so that the loop is not blocked.

    ``items`` is iterated meanwhile, so pass a copy of a collection that may change.
    """
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        await asyncio.gather(*[work(item) for item in batch])
