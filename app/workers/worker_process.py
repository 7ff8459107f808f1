"""A worker process as the supervisor sees it: handles its messages, requests its metrics, and detects that it hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .ipc import FAILED, METRICS, PING, PONG, READY, STOP, STOPPING, Channel, Question

#: Seconds between two pings.
HEARTBEAT: Final = 1.0
#: A worker that has not answered a ping for this many heartbeats hangs. A machine that swaps can answer within this
#: time, and clients wait longer for a pong before they reconnect (WS_HEARTBEAT_INTERVAL, by default 30 s).
MAX_MISSED: Final = 15

#: How long a worker may take to send its metrics, in seconds.
METRICS_TIMEOUT: Final = 1.0


class WorkerProcess:
    """A worker process, from its start to its end.

    ``on_message`` is called with the kind of each message except the answers to pings and questions.
    """

    def __init__(self, channel: Channel, on_message: Callable[[WorkerProcess, str], None]) -> None:
        self.channel: Final = channel
        #: The reason for which the worker could not start; empty if it reported none.
        self.failure = ""
        self._on_message: Final = on_message
        self._metrics: Final = Question(channel, METRICS, METRICS_TIMEOUT)
        self._is_ready = False
        self._is_stopping = False
        self._awaits_pong = False

    async def receive(self) -> None:
        """Handle the worker's messages until it ends."""
        try:
            async for kind, body in self.channel.messages():
                if kind == PONG:
                    self._awaits_pong = False
                elif kind == METRICS:
                    self._metrics.resolve(body)
                elif kind == FAILED:
                    self.failure = body.decode()
                else:
                    self._is_ready |= kind == READY
                    self._is_stopping |= kind == STOPPING
                    self._on_message(self, kind)
        finally:
            self._metrics.resolve(b"")

    async def wait_until_hung(self) -> None:
        """Ping the worker while it serves. Return when it has not answered for ``MAX_MISSED`` heartbeats.

        Counts the heartbeats of this process rather than wall time. A suspended machine or a frozen container costs one
        heartbeat, so that the worker can still answer in the remaining ones. A worker that starts or drains is not
        pinged, because both may take any time.
        """
        missed = 0
        while missed < MAX_MISSED:
            if not self._awaits_pong and self._is_serving:
                self._awaits_pong = True
                self.channel.send(PING)
            await asyncio.sleep(HEARTBEAT)
            missed = missed + 1 if self._awaits_pong and self._is_serving else 0

    @property
    def _is_serving(self) -> bool:
        return self._is_ready and not self._is_stopping

    async def metrics(self) -> str:
        """Return the worker's metrics in the OpenMetrics format; empty if it does not serve yet or answer in time."""
        return (await self._metrics.ask()).decode() if self._is_ready else ""

    def stop(self) -> None:
        """Order the worker to drain and end."""
        self._is_stopping = True
        self.channel.send(STOP)
