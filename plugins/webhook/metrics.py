"""The metrics of webhooks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from roomcast import Metric, Queue, QueueInfo, Unavailable

from .delivery import Delivery
from .outbox import Outbox

#: How often the consumer reads the sizes of the queue, in seconds.
_INTERVAL: Final = 5.0
_EMPTY: Final = QueueInfo(0, 0, 0.0, 0, None)


class Metrics:
    """Reads the sizes of the queue on the consumer, and returns all metrics of this node."""

    def __init__(self, delivery: Delivery, outbox: Outbox, queue: Queue) -> None:
        self._delivery: Final = delivery
        self._outbox: Final = outbox
        self._queue: Final = queue
        self._info = _EMPTY

    async def run(self) -> None:
        """Read the sizes until cancelled."""
        while True:
            with contextlib.suppress(Unavailable):
                self._info = await self._queue.info() if self._delivery.is_consumer else _EMPTY
            await asyncio.sleep(_INTERVAL)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        delivery, info = self._delivery, self._info
        yield Metric("consumer", "1 on the node that delivers webhooks, else 0.", int(delivery.is_consumer))
        yield Metric("queue_length", "Events that wait for the receiver of webhooks.", info.entries)
        yield Metric("queue_age", "The age of the oldest event that waits, in seconds.", info.oldest_age)
        yield Metric("dead_letters", "Events that the receiver did not accept in time.", info.dead_letters)
        yield Metric("delivered", "Events that the receiver has accepted.", delivery.delivered, True)
        for result, meaning in (
            ("accepted", "Requests that the receiver answered with 2xx."),
            ("refused", "Requests that the receiver answered with another status."),
            ("failed", "Requests without an answer."),
        ):
            yield Metric(result, meaning, delivery.requests[result], True)
        dropped = self._outbox.dropped + self._queue.dropped
        yield Metric("dropped", "Events that this node dropped: the queue or its own memory was full.", dropped, True)
