"""Start a coroutine without a task.

``native/coroutine.c`` is the C twin of ``start_coroutine``. It needs no exception to find out that the coroutine is
done.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import Any


class Awaited:
    """The ``value`` that a coroutine yielded when it suspended: the future it waits for."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def start_coroutine(
    unstarted: Coroutine[Any, Any, Any], context: contextvars.Context, on_suspend: Callable[[Any], Any]
) -> Any:
    """Run ``unstarted`` in ``context`` until it returns or suspends.

    Return its result if it is done, otherwise ``on_suspend(value)`` for the value it yielded. Its exceptions propagate.
    """
    try:
        awaited = context.run(unstarted.send, None)
    except StopIteration as end:
        return end.value
    return on_suspend(awaited)
