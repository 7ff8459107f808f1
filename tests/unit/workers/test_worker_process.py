"""The supervisor detects a worker that hangs: over a real channel, with a clock that the tests move."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from roomcast.workers.ipc import FAILED, METRICS, PING, PONG, READY, STOP, STOPPING, Channel
from roomcast.workers.worker_process import HEARTBEAT, MAX_MISSED, WorkerProcess


class Clocked(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved forward."""

    ahead = 0.0

    def time(self) -> float:
        """The time, in seconds."""
        return super().time() + self.ahead


class Watched:
    """A worker process that is watched; ``worker`` is the worker's end of the channel, and answers pings.

    ``messages`` are the kinds that the worker process passed on, ``received`` those that the worker received.
    """

    def __init__(self, process: WorkerProcess, worker: Channel) -> None:
        self.process, self.worker = process, worker
        self.messages: list[str] = []
        self.received: list[str] = []
        self.answers = True
        self.tasks = [
            asyncio.create_task(work) for work in (process.receive(), self._answer(), process.wait_until_hung())
        ]
        self.hanging = self.tasks[-1]

    async def _answer(self) -> None:
        async for kind, _ in self.worker.messages():
            self.received.append(kind)
            if kind == PING and self.answers:
                self.worker.send(PONG)

    async def sends(self, kind: str, body: bytes = b"") -> None:
        """Let the worker send a message, and wait until it has arrived."""
        self.worker.send(kind, body)
        await settled()

    async def after(self, seconds: float) -> bool:
        """Move the clock forward at once; return True if the worker hangs."""
        asyncio.get_running_loop().ahead += seconds
        await settled()
        return self.hanging.done()

    async def after_heartbeats(self, count: int) -> bool:
        """Let ``count`` heartbeats pass; return True if the worker hangs."""
        return [await self.after(HEARTBEAT) for _ in range(count)][-1]


async def settled() -> None:
    """Wait until messages and their answers have arrived: both ends are in this loop."""
    for _ in range(20):
        await asyncio.sleep(0)


def watched_worker(test: Callable[[Watched], Awaitable[None]]) -> Callable[[], None]:
    """Run a test with a ``Watched``, on a loop of its own."""

    async def run() -> None:
        ours, theirs = [await Channel.open(sock) for sock in socket.socketpair()]
        messages: list[str] = []
        watched = Watched(WorkerProcess(ours, lambda _, kind: messages.append(kind)), theirs)
        watched.messages = messages
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


@watched_worker
async def test_a_worker_that_answers_does_not_hang(watched):
    """A worker that answers is pinged again and again."""
    await watched.sends(READY)
    assert not await watched.after_heartbeats(MAX_MISSED * 4)
    assert watched.received.count(PING) > MAX_MISSED


@watched_worker
async def test_a_worker_that_does_not_answer_hangs(watched):
    """A silent worker hangs after 15 to 17 seconds, and was pinged once."""
    await watched.sends(READY)
    watched.answers = False
    assert not await watched.after_heartbeats(MAX_MISSED - 1)
    assert await watched.after_heartbeats(3)
    assert watched.received.count(PING) == 1
    assert 15 <= HEARTBEAT * MAX_MISSED <= HEARTBEAT * (MAX_MISSED + 2) <= 20


@watched_worker
async def test_a_late_answer_resets_the_count(watched):
    """A worker that answers just before the limit does not hang."""
    await watched.sends(READY)
    watched.answers = False
    for _ in range(3):
        assert not await watched.after_heartbeats(MAX_MISSED - 1)
        await watched.sends(PONG)
    assert await watched.after_heartbeats(MAX_MISSED + 2)


@watched_worker
async def test_a_suspended_machine_counts_as_one_heartbeat(watched):
    """After a suspension of any length, a worker has the remaining heartbeats to answer."""
    await watched.sends(READY)
    watched.answers = False
    assert not await watched.after_heartbeats(3)
    for _ in range(3):
        assert not await watched.after(3600)
    assert not await watched.after_heartbeats(MAX_MISSED // 2)
    await watched.sends(PONG)
    assert not await watched.after_heartbeats(MAX_MISSED - 1)


@watched_worker
async def test_a_worker_that_starts_does_not_hang(watched):
    """Plugins may take any time to start, so a worker is not pinged before it is ready."""
    watched.answers = False
    assert not await watched.after_heartbeats(MAX_MISSED * 4)
    assert watched.received == []


@watched_worker
async def test_a_worker_that_drains_does_not_hang(watched):
    """A drain may take any time, even if a ping was unanswered when it began."""
    await watched.sends(READY)
    watched.answers = False
    assert not await watched.after_heartbeats(MAX_MISSED - 1)
    await watched.sends(STOPPING)
    assert not await watched.after_heartbeats(MAX_MISSED * 4)
    assert watched.messages == [READY, STOPPING]


@watched_worker
async def test_a_worker_that_is_stopped_does_not_hang(watched):
    """A worker may take any time after the order to stop."""
    await watched.sends(READY)
    watched.answers = False
    assert not await watched.after_heartbeats(MAX_MISSED - 1)
    watched.process.stop()
    assert not await watched.after_heartbeats(MAX_MISSED * 4)
    assert watched.received == [PING, STOP]


@watched_worker
async def test_the_reason_of_a_failed_start_is_kept(watched):
    """The reason is stored in ``failure``, and not passed on as a message."""
    await watched.sends(FAILED, "Nö.".encode())
    assert watched.process.failure == "Nö."
    assert watched.messages == []


@watched_worker
async def test_metrics_come_from_a_worker_that_serves(watched):
    """A worker has no metrics before it is ready, and none if it ends before it answers."""
    assert await watched.process.metrics() == ""
    await watched.sends(READY)
    asking = asyncio.create_task(watched.process.metrics())
    await settled()
    assert METRICS in watched.received
    await watched.sends(METRICS, b"some")
    assert await asking == "some"
    asking = asyncio.create_task(watched.process.metrics())
    await settled()
    watched.worker.close()
    await settled()
    assert asking.done()
    assert await asking == ""
