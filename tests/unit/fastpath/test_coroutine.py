"""Tests of ``fastpath.coroutine`` and its C twin."""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Generator
from typing import Any

import pytest
from twins import Twin, both

from roomcast import fastpath

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outside")


@types.coroutine
def suspend(value: Any) -> Generator[Any, Any, Any]:
    """Yield ``value`` as a future yields itself; return what is sent."""
    return (yield value)


@both
def test_a_started_coroutine_returns_suspends_or_raises(twin: Twin) -> None:
    """A coroutine that suspended can be continued from where it stopped."""

    async def work(value: Any) -> Any:
        VARIABLE.set("inside")
        if isinstance(value, BaseException):
            raise value
        return value if value is None or isinstance(value, tuple) else ("sent", await suspend(value))

    context = contextvars.copy_context()
    for result in (None, (1, 2)):
        assert twin.start_coroutine(work(result), context, pytest.fail) is result
    unfinished = work("future")
    assert twin.start_coroutine(unfinished, context, lambda awaited: ["awaits", awaited]) == ["awaits", "future"]
    with pytest.raises(StopIteration) as end:
        unfinished.send("there")
    assert end.value.value == ("sent", "there")
    for error in (ValueError("mine"), asyncio.CancelledError(), StopAsyncIteration(), SystemExit(3)):
        with pytest.raises(type(error)) as raised:
            twin.start_coroutine(work(error), context, pytest.fail)
        assert raised.value is error
    assert (context[VARIABLE], VARIABLE.get()) == ("inside", "outside")


@both
def test_a_context_that_is_entered_already_is_refused(twin: Twin) -> None:
    """The coroutine does not start then. One that is finished cannot be started again."""

    async def work() -> str:
        return "done"

    context = contextvars.copy_context()
    unstarted = work()
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(twin.start_coroutine, unstarted, context, pytest.fail)
    assert twin.start_coroutine(unstarted, context, pytest.fail) == "done"
    with pytest.raises(RuntimeError, match="cannot reuse"):
        twin.start_coroutine(unstarted, context, pytest.fail)
    with pytest.raises(ZeroDivisionError):
        twin.start_coroutine(suspend(1), context, lambda awaited: awaited / 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastpath.start_coroutine(1, None, print),
        lambda: fastpath.start_coroutine(1, contextvars.copy_context()),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(call: Callable[[], Any]) -> None:
    """C raises ``TypeError`` for arguments of the wrong type."""
    if fastpath.IS_NATIVE:
        with pytest.raises(TypeError):
            call()
