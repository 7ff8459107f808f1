"""One step of a coroutine in a context. ``hot`` has it in C, too, which needs no exception to tell that it is over."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import Any


class Awaited:
    """What a coroutine waits for: the ``value`` that it yielded."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def step(unstarted: Coroutine[Any, Any, Any], context: contextvars.Context, waits: Callable[[Any], Any]) -> Any:
    """Run ``unstarted`` in ``context`` to its end, and return its result; or to its first wait: return ``waits`` of it.

    What it raises is raised.
    """
    try:
        awaited = context.run(unstarted.send, None)
    except StopIteration as end:
        return end.value
    return waits(awaited)
