"""Fetch events whose announcement was lost.

The offsets of a room are consecutive, so a missing event shows when the next one arrives, or when the room's state is
compared with its stream. While events are fetched, newer messages of the room are held back to keep the order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from ...backoff import Backoff, wait_at_most
from ...errors import Unavailable
from .stream import BEFORE_ALL, StreamReader
from .subscriptions import UNKNOWN, Subscription

log = logging.getLogger("roomcast.redis")

#: The number of events that are fetched at once.
_PAGE_SIZE: Final = 256
#: The first and the longest pause between attempts while Redis cannot be reached, in seconds.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
#: The pause after a repair that failed for another reason, in seconds.
_RETRY_PAUSE: Final = 1.0


class EventSink(Protocol):
    """Receives the fetched events and the messages that were held back. ``Receiver`` implements it."""

    def on_message(self, subscription: Subscription, message: bytes) -> None:
        """Process a message of the room's channel."""

    def deliver(self, subscription: Subscription, offset: int, payload: bytes) -> None:
        """Pass an event to the listener."""

    def report_loss(self, subscription: Subscription, epoch: str, offset: int) -> None:
        """Report to the listener that events up to ``offset`` of ``epoch`` can no longer be fetched."""


class GapRepair:
    """Repairs the gaps of subscribed rooms. ``is_current`` returns False for a subscription that has ended."""

    def __init__(self, stream: StreamReader, sink: EventSink, is_current: Callable[[Subscription], bool]) -> None:
        self._stream: Final = stream
        self._sink: Final = sink
        self._is_current: Final = is_current
        self._loop: Final = asyncio.get_running_loop()
        #: By subscription, not by room: a room that is left and joined again has a new subscription.
        self._tasks: Final[dict[Subscription, asyncio.Task[None]]] = {}
        #: Set, and replaced, when a server can be reached again.
        self._server_returned = asyncio.Event()
        #: The number of events that were fetched, for the metrics.
        self.repaired = 0

    async def close(self) -> None:
        """Stop all repairs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def on_server_return(self) -> None:
        """A server can be reached again: repairs retry without a pause."""
        self._server_returned.set()
        self._server_returned = asyncio.Event()

    def on_state(self, subscription: Subscription, state: list[bytes] | None) -> None:
        """Compare a subscription with the room's state, or None for a room without events (see ``lua/room_state.lua``).

        A new subscription begins with that state. An older one that differs from it is repaired.
        """
        epoch, offset = ("", 0) if state is None else (state[0].decode(), int(state[1]))
        if subscription.last_offset == UNKNOWN:
            subscription.epoch, subscription.last_offset = epoch, offset
            subscription.messages = 0 if state is None else int(state[2])
            self._release(subscription)
            return
        if subscription.pending is not None or state is None:  # a repair is running, or there is still no event
            return
        # A lower offset means that an event came meanwhile. The stream decides.
        if epoch != subscription.epoch or offset != subscription.last_offset:
            self.start(subscription)

    def start(self, subscription: Subscription) -> asyncio.Task[None]:
        """Repair a subscription, unless that is running already; return the task. Messages are held back meanwhile."""
        task = self._tasks.get(subscription)
        if task is None:
            subscription.epoch = subscription.epoch or BEFORE_ALL
            if subscription.pending is None:
                subscription.pending = []
            task = self._tasks[subscription] = self._loop.create_task(self._repair(subscription))
            task.add_done_callback(lambda done: self._done(subscription, done))
        return task

    def _done(self, subscription: Subscription, task: asyncio.Task[None]) -> None:
        if self._tasks.get(subscription) is task:
            del self._tasks[subscription]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Repairing a gap in room %s failed", subscription.room, exc_info=error)
            if subscription.pending is not None:  # its messages are held back until a repair succeeds
                self._loop.call_later(_RETRY_PAUSE, self.start, subscription)

    async def _repair(self, subscription: Subscription) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        room = subscription.room
        size = self._stream.limits.of(room).stream_size
        while self._is_current(subscription):
            # The stream that is read next has all events announced so far, so their messages are not needed.
            subscription.pending = []
            try:
                page = await self._stream.read(
                    room, subscription.epoch, str(subscription.last_offset), _PAGE_SIZE, size, is_node=True
                )
            except Unavailable:
                # Retry even without a reconnect: the connection for subscriptions may work, and the stream grows.
                await wait_at_most(self._server_returned, backoff.next_pause())
                continue
            if not self._is_current(subscription):
                return
            if not page.is_complete:
                self._sink.report_loss(subscription, page.epoch, page.continues_at)
            for event in page.events:
                self.repaired += 1
                subscription.epoch, _, offset = event.id.rpartition("-")
                self._sink.deliver(subscription, int(offset), event.payload)
            subscription.messages = page.messages
            if subscription.last_offset >= page.last_offset:
                if page.last_offset:  # an epoch that had no event of its own yet
                    subscription.epoch = page.epoch
                del self._tasks[subscription]  # the released messages may show another gap
                self._release(subscription)
                return

    def _release(self, subscription: Subscription) -> None:
        """Process the messages that were held back."""
        messages, subscription.pending = subscription.pending or [], None
        for number, message in enumerate(messages):
            self._sink.on_message(subscription, message)
            if subscription.pending is not None:  # another gap
                subscription.pending += messages[number + 1 :]
                return
