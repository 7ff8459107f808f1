"""Whether a worker hangs, seen by its parent: on a clock that the tests turn, over a real channel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from roomcast.workers.ipc import FAILED, METRICS, PING, PONG, READY, STOP, STOPPING, Channel
from roomcast.workers.worker_process import HEARTBEAT, MAX_MISSED, WorkerProcess


class Clocked(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        """The time, in seconds."""
        return super().time() + self.ahead


class Watched:
    """A life that is minded; ``worker`` is the other end of its channel."""

    def __init__(self, life: WorkerProcess, worker: Channel) -> None:
        self.life, self.worker = life, worker
        self.heard: list[str] = []
        self.said: list[str] = []
        self.answers = True
        self.tasks = [asyncio.create_task(work) for work in (life.hear(), self._answer(), life.hang())]
        self.hanging = self.tasks[-1]

    async def _answer(self) -> None:
        async for word, _ in self.worker.messages():
            self.said.append(word)
            if word == PING and self.answers:
                self.worker.send(PONG)

    async def says(self, word: str, body: bytes = b"") -> None:
        """The worker says something, and it arrives."""
        self.worker.send(word, body)
        await settled()

    async def after(self, seconds: float) -> bool:
        """Whether the worker is taken to hang when so much more time has passed at once."""
        asyncio.get_running_loop().ahead += seconds
        await settled()
        return self.hanging.done()

    async def after_beats(self, count: int) -> bool:
        """Whether the worker is taken to hang after so many more beats."""
        return [await self.after(HEARTBEAT) for _ in range(count)][-1]


async def settled() -> None:
    """Wait until what was said has arrived, and so has the answer: all is in this loop."""
    for _ in range(20):
        await asyncio.sleep(0)


def minded(test: Callable[[Watched], Awaitable[None]]) -> Callable[[], None]:
    """Run a test with a life that is minded."""

    async def run() -> None:
        ours, theirs = [await Channel.open(sock) for sock in socket.socketpair()]
        heard: list[str] = []
        watched = Watched(WorkerProcess(ours, lambda life, word: heard.append(word)), theirs)
        watched.heard = heard
        try:
            await test(watched)
        finally:
            for task in watched.tasks:
                task.cancel()
            await asyncio.wait(watched.tasks)
            ours.close()
            theirs.close()
            await settled()

    def runner() -> None:
        with asyncio.Runner(loop_factory=Clocked) as runner:
            runner.run(run())

    runner.__name__, runner.__doc__ = test.__name__, test.__doc__
    return runner


@minded
async def test_who_answers_does_not_hang(watched):
    """However long it lives."""
    await watched.says(READY)
    assert not await watched.after_beats(MAX_MISSED * 4)
    assert watched.said.count(PING) > MAX_MISSED


@minded
async def test_who_does_not_answer_hangs(watched):
    """After 15 to 17 seconds; and it is asked but once."""
    await watched.says(READY)
    watched.answers = False
    assert not await watched.after_beats(MAX_MISSED - 1)
    assert await watched.after_beats(3)
    assert watched.said.count(PING) == 1
    assert 15 <= HEARTBEAT * MAX_MISSED <= HEARTBEAT * (MAX_MISSED + 2) <= 20


@minded
async def test_who_answers_late_does_not_hang(watched):
    """What it owed before is forgotten."""
    await watched.says(READY)
    watched.answers = False
    for _ in range(3):
        assert not await watched.after_beats(MAX_MISSED - 1)
        await watched.says(PONG)
    assert await watched.after_beats(MAX_MISSED + 2)


@minded
async def test_a_machine_that_slept_is_given_time(watched):
    """However long it was, that is one beat: a worker has the others to come to itself and answer."""
    await watched.says(READY)
    watched.answers = False
    assert not await watched.after_beats(3)
    for _ in range(3):
        assert not await watched.after(3600)
    assert not await watched.after_beats(MAX_MISSED // 2)
    await watched.says(PONG)
    assert not await watched.after_beats(MAX_MISSED - 1)


@minded
async def test_who_starts_does_not_hang(watched):
    """Plugins may take any time; it is not asked before it is ready."""
    watched.answers = False
    assert not await watched.after_beats(MAX_MISSED * 4)
    assert watched.said == []


@minded
async def test_who_drains_by_itself_does_not_hang(watched):
    """Also if it owed an answer as it began to."""
    await watched.says(READY)
    watched.answers = False
    assert not await watched.after_beats(MAX_MISSED - 1)
    await watched.says(STOPPING)
    assert not await watched.after_beats(MAX_MISSED * 4)
    assert watched.heard == [READY, STOPPING]


@minded
async def test_who_was_told_to_stop_does_not_hang(watched):
    """From then on it may take the time that it needs."""
    await watched.says(READY)
    watched.answers = False
    assert not await watched.after_beats(MAX_MISSED - 1)
    watched.life.stop()
    assert not await watched.after_beats(MAX_MISSED * 4)
    assert watched.said == [PING, STOP]


@minded
async def test_what_it_said_of_its_failure_is_kept(watched):
    """It is no news to anybody else."""
    await watched.says(FAILED, "Nö.".encode())
    assert watched.life.sentence == "Nö."
    assert watched.heard == []


@minded
async def test_metrics_are_asked_of_who_serves(watched):
    """Before it does, there are none; nor from one who ends in the middle of it."""
    assert await watched.life.metrics() == ""
    await watched.says(READY)
    asking = asyncio.create_task(watched.life.metrics())
    await settled()
    assert METRICS in watched.said
    await watched.says(METRICS, b"some")
    assert await asking == "some"
    asking = asyncio.create_task(watched.life.metrics())
    await settled()
    watched.worker.close()
    await settled()
    assert asking.done()
    assert await asking == ""
