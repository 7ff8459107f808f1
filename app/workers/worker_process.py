"""One life of a worker, as its parent sees it: what it says, what it is asked, and whether it still answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .ipc import FAILED, METRICS, PING, PONG, READY, STOP, STOPPING, Channel, Question

#: A worker is asked whether its event loop turns when a beat, in seconds, has passed since its last answer.
HEARTBEAT: Final = 1.0
#: Who owes the answer for so many beats hangs. Long enough for a machine that swaps, and less than clients wait for a
#: pong (WS_HEARTBEAT_INTERVAL, 30 s unless set) before they take the connection for lost.
MAX_MISSED: Final = 15

#: How long a worker may take to tell its metrics, in seconds.
TELLING: Final = 1.0


class WorkerProcess:
    """What is known of a worker from its start to its end.

    ``heard`` is called with each word that says something new of it; the answers to what is asked here are not among
    them. ``sentence`` is what it said of its failure.
    """

    def __init__(self, channel: Channel, heard: Callable[[WorkerProcess, str], None]) -> None:
        self.channel: Final = channel
        self.sentence = ""
        self._heard: Final = heard
        self._metrics: Final = Question(channel, METRICS, TELLING)
        self._ready = False
        self._stopping = False
        self._owes_pong = False

    async def hear(self) -> None:
        """Take in what it says, until it is gone."""
        try:
            async for word, body in self.channel.messages():
                if word == PONG:
                    self._owes_pong = False
                elif word == METRICS:
                    self._metrics.answered(body)
                elif word == FAILED:
                    self.sentence = body.decode()
                else:
                    self._ready |= word == READY
                    self._stopping |= word == STOPPING
                    self._heard(self, word)
        finally:
            self._metrics.answered(b"")

    async def hang(self) -> None:
        """Return when it hangs: when it serves, and has owed an answer for ``BEATS`` beats.

        These are beats of this process, and no time on a clock. When the machine slept, or a container was frozen, or
        this process alone, that is one beat, however long it was; then all have the other beats to come to themselves.
        Who starts, which may take plugins any time, or drains is not asked.
        """
        missed = 0
        while missed < MAX_MISSED:
            if not self._owes_pong and self._serves:
                self._owes_pong = True
                self.channel.send(PING)
            await asyncio.sleep(HEARTBEAT)
            missed = missed + 1 if self._owes_pong and self._serves else 0

    @property
    def _serves(self) -> bool:
        return self._ready and not self._stopping

    async def metrics(self) -> str:
        """Return its metrics in the format OpenMetrics; nothing if it does not serve yet or does not answer in time."""
        return (await self._metrics.ask()).decode() if self._ready else ""

    def stop(self) -> None:
        """Let it drain, and end."""
        self._stopping = True
        self.channel.send(STOP)
