"""The runner: a coroutine begun by hand behaves as one in a task, on both loops."""

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
    """A runner on the running loop; what it leaves behind at its closing would fail the test."""
    runner = EagerRunner(asyncio.get_running_loop())
    yield runner
    runner.close()
    await asyncio.sleep(0)
    gc.collect()


async def called(function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function`` from the loop, where no task runs, as a protocol's methods are; its outcome is the result."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def call() -> None:
        try:
            outcome.set_result(function(*args))
        except BaseException as error:
            outcome.set_exception(error)

    loop.call_soon(call)
    return await outcome


async def begun(runner: EagerRunner, work: Coroutine[Any, Any, Any]) -> Any:
    """What the runner returns for ``work``, begun outside of any task."""
    return await called(runner.start, work)


async def ended(suspended: Any) -> Any:
    """The result of what had to wait."""
    assert isinstance(suspended, SuspendedCoroutine)
    async with asyncio.timeout(10):
        return await suspended.task


async def test_what_does_not_wait_ends_at_once(runner):
    """Its result is returned, and no task is used up."""
    ready = runner._ready

    async def handler() -> int:
        return 42

    assert await begun(runner, handler()) == 42
    assert runner._ready is ready


async def test_what_waits_goes_on_in_a_task(runner):
    """Its first step is done at once, the rest when what it waits for is there."""
    future = asyncio.get_running_loop().create_future()
    steps = []

    async def handler() -> str:
        steps.append("first")
        steps.append(await future)
        await asyncio.sleep(0)
        steps.append(await asyncio.sleep(0.001, "slept"))
        return "done"

    suspended = await begun(runner, handler())
    assert steps == ["first"]
    future.set_result("told")
    assert await ended(suspended) == "done"
    assert steps == ["first", "told", "slept"]


async def test_a_bare_yield_to_the_loop_is_a_wait_too(runner):
    """asyncio.sleep(0) yields no future."""

    async def handler() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await ended(await begun(runner, handler())) == "done"


async def test_many_wait_at_once(runner):
    """Each has a task of its own."""

    async def handler(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 3))
        return number

    waiting = [await begun(runner, handler(number)) for number in range(20)]
    assert len({suspended.task for suspended in waiting}) == 20
    assert [await ended(suspended) for suspended in waiting] == list(range(20))


async def test_several_begin_in_one_turn(runner):
    """Before the loop has started the task of the one ahead."""

    async def handler(number: int) -> int:
        await asyncio.sleep(0)
        return number

    waiting = await called(lambda: [runner.start(handler(number)) for number in range(5)])
    assert [await ended(suspended) for suspended in waiting] == list(range(5))


async def test_what_is_raised_before_the_first_wait_is_raised(runner):
    """To whoever began it; the next one is not touched by it."""

    async def handler() -> None:
        raise KeyError("early")

    with pytest.raises(KeyError, match="early"):
        await begun(runner, handler())
    with pytest.raises(KeyError, match="early"):
        await begun(runner, handler())


async def test_what_is_raised_after_the_first_wait_is_the_tasks(runner):
    """As with any task."""

    async def handler() -> None:
        await asyncio.sleep(0)
        raise KeyError("late")

    suspended = await begun(runner, handler())
    with pytest.raises(KeyError, match="late"):
        await ended(suspended)


async def test_what_it_waits_for_may_fail(runner):
    """The exception is raised inside, where it can be caught."""
    future = asyncio.get_running_loop().create_future()

    async def handler() -> str:
        try:
            await future
        except ConnectionError as error:
            return f"caught {error}"
        return "nothing came"

    suspended = await begun(runner, handler())
    future.set_exception(ConnectionError("gone"))
    assert await ended(suspended) == "caught gone"


async def test_cancelling_reaches_the_handler(runner):
    """At what it waits for; it can clean up, and the task is cancelled."""
    cleaned = asyncio.Event()

    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    suspended = await begun(runner, handler())
    await asyncio.sleep(0)
    suspended.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(suspended)
    assert cleaned.is_set()


async def test_a_handler_may_refuse_to_be_cancelled(runner):
    """What it returns instead is the result."""

    async def handler() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "went on"

    suspended = await begun(runner, handler())
    await asyncio.sleep(0)
    suspended.task.cancel()
    assert await ended(suspended) == "went on"


async def test_the_current_task_is_one_before_and_after_a_wait(runner):
    """So whoever keeps it in the first step cancels the right one."""

    async def handler() -> list[Any]:
        tasks = [asyncio.current_task()]
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0.001)
        return [*tasks, asyncio.current_task()]

    suspended = await begun(runner, handler())
    assert await ended(suspended) == [suspended.task] * 3


async def test_no_task_is_current_outside(runner):
    """After a step as before, whether it ended, waited or raised."""

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

    assert await called(look) == [None] * 4


async def test_a_timeout_works_in_the_first_step(runner):
    """asyncio.timeout asks for the current task, and cancels it."""

    async def handler() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "came"

    assert await ended(await begun(runner, handler())) == "timed out"


async def test_a_timeout_that_was_not_needed_harms_nobody(runner):
    """It ends with the first step, and the task that it was set on goes to another handler unharmed."""

    async def quick() -> None:
        async with asyncio.timeout(0.001):
            pass

    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "done"

    await begun(runner, quick())
    assert await ended(await begun(runner, slow())) == "done"


async def test_task_groups_and_gather_work_in_the_first_step(runner):
    """Children run, and their failure cancels the others and comes back."""

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

    assert await ended(await begun(runner, handler())) == [1, 2, 3, 4]
    assert await ended(await begun(runner, failing())) == "failed with (ValueError(-1),)"


async def test_locks_queues_and_wait_for_work(runner):
    """What handlers commonly wait on."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    lock = asyncio.Lock()

    async def handler() -> str:
        async with lock:
            return await asyncio.wait_for(queue.get(), 10)

    first = await begun(runner, handler())
    second = await begun(runner, handler())
    queue.put_nowait("one")
    queue.put_nowait("two")
    assert [await ended(first), await ended(second)] == ["one", "two"]


async def test_context_variables_stay_with_their_handler(runner):
    """What one sets, in its first step or later, another does not see; it keeps its own across waits."""

    async def handler(value: str, wait: bool) -> list[str]:
        seen = [VARIABLE.get()]
        VARIABLE.set(value)
        if wait:
            await asyncio.sleep(0)
        return [*seen, VARIABLE.get()]

    assert await begun(runner, handler("a", wait=False)) == ["none", "a"]
    assert await begun(runner, handler("b", wait=False)) == ["none", "b"]
    waiting = await begun(runner, handler("c", wait=True))
    assert await begun(runner, handler("d", wait=False)) == ["none", "d"]
    assert await ended(waiting) == ["none", "c"]
    assert VARIABLE.get() == "none"


async def test_a_variable_that_was_set_before_is_not_changed_for_others():
    """Handlers see what was set when the runner was made, and none what another made of it."""
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

    assert await begun(runner, handler("a")) == "start"
    with pytest.raises(KeyError):
        await begun(runner, failing())
    assert await begun(runner, handler("b")) == "start"
    runner.close()
    await asyncio.sleep(0)


async def test_who_cancels_itself_and_ends_cancels_nobody_else(runner):
    """The spoiled task is thrown away."""

    async def suicidal() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "ended"

    async def handler() -> str:
        await asyncio.sleep(0.001)
        return "done"

    assert await begun(runner, suicidal()) == "ended"
    assert await ended(await begun(runner, handler())) == "done"
    await asyncio.sleep(0)
    assert await begun(runner, suicidal()) == "ended"
    assert await ended(await begun(runner, handler())) == "done"


async def test_begun_inside_a_task_it_runs_beside_it(runner):
    """One task cannot begin in the middle of another, so all of it goes to a task of its own."""
    order = []

    async def handler() -> str:
        order.append("handler")
        await asyncio.sleep(0)
        return "done"

    suspended = runner.start(handler())
    order.append("caller")
    assert await ended(suspended) == "done"
    assert order == ["caller", "handler"]


async def test_begun_inside_a_first_step_it_runs_beside_it(runner):
    """Also when the task that is in the way is the runner's own."""

    async def inner() -> str:
        return VARIABLE.get()

    async def outer() -> Any:
        VARIABLE.set("outer's")
        return runner.start(inner())

    assert await ended(await begun(runner, outer())) == "none"


async def test_closing_leaves_nothing_behind():
    """No task is destroyed while it is pending, whether the loop has started it or not."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    fresh = EagerRunner(loop)
    used = EagerRunner(loop)
    await ended(await begun(used, asyncio.sleep(0)))
    fresh.close()
    used.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    del fresh, used
    gc.collect()


async def test_a_coroutine_that_is_never_resumed_is_closed(runner):
    """Cancelled before its first wait was over, its cleanup runs; nothing warns of a coroutine never awaited."""
    cleaned = []

    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    def begin_and_cancel() -> asyncio.Task[Any]:
        runner._ready.task.cancel()  # the loop has not started it yet
        runner._ready = SuspendedCoroutine(runner._loop, runner._context.copy())
        suspended = runner.start(handler())
        suspended.task.cancel()
        return suspended.task

    task = await called(begin_and_cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert cleaned == [True]
