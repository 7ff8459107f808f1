"""Tests of ``fastpath.eager``: a coroutine started by the runner behaves like one in a task, on both loops."""

import asyncio
import contextvars
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from roomcast.fastpath.eager import EagerRunner, SuspendedCoroutine

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="none")


@pytest.fixture
async def runner():
    """A runner on the running loop. Anything that it leaves behind when it is closed fails the test."""
    runner = EagerRunner(asyncio.get_running_loop())
    yield runner
    runner.close()
    await asyncio.sleep(0)
    gc.collect()


async def call_outside_tasks(function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function`` where no task runs, as a protocol's methods are called; return its result."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def call() -> None:
        try:
            outcome.set_result(function(*args))
        except BaseException as error:
            outcome.set_exception(error)

    loop.call_soon(call)
    return await outcome


async def start(runner: EagerRunner, work: Coroutine[Any, Any, Any]) -> Any:
    """Start ``work`` outside of any task; return what the runner returns."""
    return await call_outside_tasks(runner.start, work)


async def finish(suspended: Any) -> Any:
    """Return the result of a coroutine that suspended."""
    assert isinstance(suspended, SuspendedCoroutine)
    async with asyncio.timeout(10):
        return await suspended.task


async def test_a_coroutine_that_does_not_suspend_returns_its_result(runner):
    """The ready task is not used."""
    ready = runner._ready

    async def handler() -> int:
        return 42

    assert await start(runner, handler()) == 42
    assert runner._ready is ready


async def test_a_suspended_coroutine_continues_in_a_task(runner):
    """Its first part runs at once, the rest when the future is done."""
    future = asyncio.get_running_loop().create_future()
    steps = []

    async def handler() -> str:
        steps.append("first")
        steps.append(await future)
        await asyncio.sleep(0)
        steps.append(await asyncio.sleep(0.001, "slept"))
        return "done"

    suspended = await start(runner, handler())
    assert steps == ["first"]
    future.set_result("told")
    assert await finish(suspended) == "done"
    assert steps == ["first", "told", "slept"]


async def test_a_bare_yield_suspends(runner):
    """``asyncio.sleep(0)`` yields no future."""

    async def handler() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await finish(await start(runner, handler())) == "done"


async def test_many_suspended_coroutines(runner):
    """Each has its own task."""

    async def handler(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 3))
        return number

    waiting = [await start(runner, handler(number)) for number in range(20)]
    assert len({suspended.task for suspended in waiting}) == 20
    assert [await finish(suspended) for suspended in waiting] == list(range(20))


async def test_several_starts_in_one_iteration(runner):
    """The loop has not started the task of the previous one yet."""

    async def handler(number: int) -> int:
        await asyncio.sleep(0)
        return number

    waiting = await call_outside_tasks(lambda: [runner.start(handler(number)) for number in range(5)])
    assert [await finish(suspended) for suspended in waiting] == list(range(5))


async def test_an_exception_before_the_first_suspension_propagates(runner):
    """The caller gets it. The next coroutine is not affected."""

    async def handler() -> None:
        raise KeyError("early")

    with pytest.raises(KeyError, match="early"):
        await start(runner, handler())
    with pytest.raises(KeyError, match="early"):
        await start(runner, handler())


async def test_an_exception_after_the_first_suspension_is_in_the_task(runner):
    """As with any task."""

    async def handler() -> None:
        await asyncio.sleep(0)
        raise KeyError("late")

    suspended = await start(runner, handler())
    with pytest.raises(KeyError, match="late"):
        await finish(suspended)


async def test_an_exception_of_the_awaited_future_is_raised_inside(runner):
    """The coroutine can catch it."""
    future = asyncio.get_running_loop().create_future()

    async def handler() -> str:
        try:
            await future
        except ConnectionError as error:
            return f"caught {error}"
        return "nothing came"

    suspended = await start(runner, handler())
    future.set_exception(ConnectionError("gone"))
    assert await finish(suspended) == "caught gone"


async def test_cancellation_reaches_the_coroutine(runner):
    """It is raised at the ``await``, the coroutine can clean up, and the task is cancelled."""
    cleaned = asyncio.Event()

    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    suspended = await start(runner, handler())
    await asyncio.sleep(0)
    suspended.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish(suspended)
    assert cleaned.is_set()


async def test_a_coroutine_may_ignore_cancellation(runner):
    """Its return value is then the result of the task."""

    async def handler() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "went on"

    suspended = await start(runner, handler())
    await asyncio.sleep(0)
    suspended.task.cancel()
    assert await finish(suspended) == "went on"


async def test_the_current_task_does_not_change_at_a_suspension(runner):
    """Code that keeps the task in the first part cancels the right one."""

    async def handler() -> list[Any]:
        tasks = [asyncio.current_task()]
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0.001)
        return [*tasks, asyncio.current_task()]

    suspended = await start(runner, handler())
    assert await finish(suspended) == [suspended.task] * 3


async def test_no_task_is_current_after_a_start(runner):
    """The coroutine may return, suspend or raise."""

    async def ends() -> None:
        pass

    async def raises() -> None:
        raise KeyError

    def look() -> list[Any]:
        seen = [asyncio.current_task()]
        runner.start(ends())
        seen.append(asyncio.current_task())
        with pytest.raises(KeyError):
            runner.start(raises())
        seen.append(asyncio.current_task())
        runner.start(asyncio.sleep(0))
        return [*seen, asyncio.current_task()]

    assert await call_outside_tasks(look) == [None] * 4


async def test_a_timeout_works_in_the_first_part(runner):
    """``asyncio.timeout`` needs the current task, and cancels it."""

    async def handler() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "came"

    assert await finish(await start(runner, handler())) == "timed out"


async def test_an_unused_timeout_has_no_effect(runner):
    """The task that it was set on is used for the next coroutine."""

    async def quick() -> None:
        async with asyncio.timeout(0.001):
            pass

    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "done"

    await start(runner, quick())
    assert await finish(await start(runner, slow())) == "done"


async def test_task_groups_and_gather_work_in_the_first_part(runner):
    """The exception of a child cancels the others and propagates."""

    async def child(value: int) -> int:
        await asyncio.sleep(0)
        if value < 0:
            raise ValueError(value)
        return value

    async def handler() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(value)) for value in (1, 2)]
        return [task.result() for task in tasks] + await asyncio.gather(child(3), child(4))

    async def failing() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child(-1))
                group.create_task(asyncio.sleep(1000))
        except ExceptionGroup as errors:
            return f"failed with {errors.exceptions!r}"
        return "succeeded"

    assert await finish(await start(runner, handler())) == [1, 2, 3, 4]
    assert await finish(await start(runner, failing())) == "failed with (ValueError(-1),)"


async def test_locks_queues_and_wait_for_work(runner):
    """Handlers commonly wait for these."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    lock = asyncio.Lock()

    async def handler() -> str:
        async with lock:
            return await asyncio.wait_for(queue.get(), 10)

    first = await start(runner, handler())
    second = await start(runner, handler())
    queue.put_nowait("one")
    queue.put_nowait("two")
    assert [await finish(first), await finish(second)] == ["one", "two"]


async def test_context_variables_are_separate(runner):
    """A coroutine keeps its variables across suspensions, and does not see those of others."""

    async def handler(value: str, wait: bool) -> list[str]:
        seen = [VARIABLE.get()]
        VARIABLE.set(value)
        if wait:
            await asyncio.sleep(0)
        return [*seen, VARIABLE.get()]

    assert await start(runner, handler("a", wait=False)) == ["none", "a"]
    assert await start(runner, handler("b", wait=False)) == ["none", "b"]
    waiting = await start(runner, handler("c", wait=True))
    assert await start(runner, handler("d", wait=False)) == ["none", "d"]
    assert await finish(waiting) == ["none", "c"]
    assert VARIABLE.get() == "none"


async def test_coroutines_see_the_context_of_the_creation():
    """They see the value from the creation of the runner, not the value that another coroutine set."""
    token = VARIABLE.set("start")
    runner = EagerRunner(asyncio.get_running_loop())
    VARIABLE.reset(token)

    async def handler(value: str) -> str:
        seen = VARIABLE.get()
        VARIABLE.set(value)
        return seen

    async def failing() -> None:
        VARIABLE.set("failed")
        raise KeyError

    assert await start(runner, handler("a")) == "start"
    with pytest.raises(KeyError):
        await start(runner, failing())
    assert await start(runner, handler("b")) == "start"
    runner.close()
    await asyncio.sleep(0)


async def test_a_coroutine_that_cancels_itself_does_not_affect_others(runner):
    """The runner discards the cancelled task."""

    async def cancel_itself() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "ended"

    async def handler() -> str:
        await asyncio.sleep(0.001)
        return "done"

    assert await start(runner, cancel_itself()) == "ended"
    assert await finish(await start(runner, handler())) == "done"
    await asyncio.sleep(0)
    assert await start(runner, cancel_itself()) == "ended"
    assert await finish(await start(runner, handler())) == "done"


async def test_a_start_inside_a_task_uses_another_task(runner):
    """A task cannot start inside another, so the whole coroutine runs in a new task."""
    order = []

    async def handler() -> str:
        order.append("handler")
        await asyncio.sleep(0)
        return "done"

    suspended = runner.start(handler())
    order.append("caller")
    assert await finish(suspended) == "done"
    assert order == ["caller", "handler"]


async def test_a_start_inside_a_first_part_uses_another_task(runner):
    """The running task is the runner's own."""

    async def inner() -> str:
        return VARIABLE.get()

    async def outer() -> Any:
        VARIABLE.set("outer's")
        return runner.start(inner())

    assert await finish(await start(runner, outer())) == "none"


async def test_closing_leaves_nothing_behind():
    """No task is destroyed while it is pending, whether or not the loop has started it."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    fresh = EagerRunner(loop)
    used = EagerRunner(loop)
    await finish(await start(used, asyncio.sleep(0)))
    fresh.close()
    used.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    del fresh, used
    gc.collect()


async def test_a_coroutine_that_is_never_resumed_is_closed(runner):
    """Its cleanup runs if it is cancelled before it resumes. There is no warning about an unawaited coroutine."""
    cleaned = []

    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    def start_and_cancel() -> asyncio.Task[Any]:
        runner._ready.task.cancel()  # the loop has not started it yet
        runner._ready = SuspendedCoroutine(runner._loop, runner._context.copy())
        suspended = runner.start(handler())
        suspended.task.cancel()
        return suspended.task

    task = await call_outside_tasks(start_and_cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert cleaned == [True]
