"""The history of a room, consistent with the events that the listener has received."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from ..base import Event, History
from .gap_repair import GapRepair
from .stream import StreamReader
from .subscriptions import UNKNOWN, Subscription, Subscriptions

#: How long to wait for the announcement of an event before it is fetched, in seconds.
_ANNOUNCEMENT_TIMEOUT: Final = 0.1


class Recording:
    """The events that the listener receives while the history of their room is read.

    ``reached`` is done when they reach the offset ``goal``, if that is not 0.
    """

    __slots__ = ("events", "goal", "reached")

    def __init__(self, reached: asyncio.Future[None]) -> None:
        self.events: list[tuple[str, int, bytes]] = []
        self.goal = 0
        self.reached: Final = reached

    def add(self, epoch: str, offset: int, payload: bytes) -> None:
        """Record an event."""
        self.events.append((epoch, offset, payload))
        if self.goal and offset >= self.goal and not self.reached.done():
            self.reached.set_result(None)


class HistoryReader:
    """Reads the history of rooms. ``history_size`` is the maximum number of events."""

    def __init__(
        self, stream: StreamReader, subscriptions: Subscriptions, repair: GapRepair, history_size: int
    ) -> None:
        self._stream: Final = stream
        self._subscriptions: Final = subscriptions
        self._repair: Final = repair
        self._size: Final = history_size
        self._loop: Final = asyncio.get_running_loop()
        #: By room. The receiver adds each event of these rooms.
        self.recordings: Final[dict[str, list[Recording]]] = {}

    async def read(self, room: str, since: str | None, limit: int | None) -> History:
        """See ``Broker.history``. For a subscribed room, return exactly the events that the listener has received.

        The stream may be ahead of the listener; then this waits for the listener. Meanwhile the listener may receive
        events that are newer than the page that was read; these are recorded and added.
        """
        since_epoch, since_offset = _split_id(since) if since is not None else ("", "")
        max_events = self._size if limit is None else min(limit, self._size)
        subscription = self._subscriptions.get(room)
        if subscription is None or subscription.last_offset == UNKNOWN or limit is not None:
            page = await self._stream.read(room, since_epoch, since_offset, max_events, self._size)
            return History(page.events, page.is_complete, f"{page.epoch}-{page.last_offset}")
        recording = Recording(self._loop.create_future())
        recordings = self.recordings.setdefault(room, [])
        recordings.append(recording)
        try:
            page = await self._stream.read(room, since_epoch, since_offset, max_events, self._size)
            await self._wait_for_listener(subscription, recording, page.epoch, page.last_offset)
        finally:
            recordings.remove(recording)
            if not recordings:
                del self.recordings[room]
        last_id = f"{subscription.epoch}-{subscription.last_offset}"
        if subscription.epoch != page.epoch:  # a new epoch began meanwhile, and the listener got a resync
            return History((), since is None, last_id)
        if not page.is_complete:
            return History((), False, last_id)
        later = [
            Event(f"{epoch}-{offset}", payload)
            for epoch, offset, payload in recording.events
            if epoch == page.epoch and offset > page.last_offset
        ]
        return History([*page.events, *later], True, last_id)

    async def _wait_for_listener(
        self, subscription: Subscription, recording: Recording, epoch: str, offset: int
    ) -> None:
        """Wait until the listener has received the event ``offset``; fetch it if its announcement does not arrive."""
        if not subscription.epoch:  # the room had no event when it was subscribed
            subscription.epoch = epoch
        if subscription.epoch == epoch and subscription.last_offset < offset:
            recording.goal = offset
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANNOUNCEMENT_TIMEOUT):
                    await recording.reached
        while self._subscriptions.is_current(subscription) and _is_behind(subscription, epoch, offset):
            await asyncio.shield(self._repair.start(subscription))


def _split_id(since: str) -> tuple[str, str]:
    """Return the epoch and the offset of an id. For a string that cannot be an id, return one that no room has."""
    epoch, _, digits = since.rpartition("-")
    if len(digits) > 15 or not digits.isascii() or not digits.isdecimal() or str(int(digits)) != digits:
        return "none", "0"
    return (epoch, digits) if epoch.isascii() and epoch.isdecimal() and len(epoch) < 20 else ("none", "0")


def _is_behind(subscription: Subscription, epoch: str, offset: int) -> bool:
    """Return True if the listener has not received the event ``offset`` of ``epoch``."""
    return int(subscription.epoch) < int(epoch) or (subscription.epoch == epoch and subscription.last_offset < offset)
