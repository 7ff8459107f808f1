"""The history of a room, consistent with the events that the listener has received."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Final

from ..base import MAX_PAGE_EVENTS, Event, History
from ..page import count_fitting
from .gap_repair import GapRepair
from .stream import BEFORE_ALL, StreamPage, StreamReader
from .subscriptions import UNKNOWN, Subscription, Subscriptions

#: How long to wait for the announcement of an event before it is fetched, in seconds.
_ANNOUNCEMENT_TIMEOUT: Final = 0.1


class Recording:
    """The events that the listener receives while the history of their room is read.

    ``reached`` is done when they reach the offset ``goal``, if that is not 0. ``has_lost_events`` is True if the
    listener received a resync meanwhile.
    """

    __slots__ = ("events", "goal", "has_lost_events", "reached")

    def __init__(self, reached: asyncio.Future[None]) -> None:
        self.events: list[tuple[str, int, bytes]] = []
        self.goal = 0
        self.has_lost_events = False
        self.reached: Final = reached

    def add(self, epoch: str, offset: int, payload: bytes) -> None:
        """Record an event."""
        self.events.append((epoch, offset, payload))
        if self.goal and offset >= self.goal and not self.reached.done():
            self.reached.set_result(None)


class HistoryReader:
    """Reads the history of rooms.

    ``grace_left`` returns for how many seconds other nodes may still report that a server lacks events.
    """

    def __init__(
        self,
        stream: StreamReader,
        subscriptions: Subscriptions,
        repair: GapRepair,
        grace_left: Callable[[], float],
    ) -> None:
        self._stream: Final = stream
        self._subscriptions: Final = subscriptions
        self._repair: Final = repair
        self._grace_left: Final = grace_left
        self._loop: Final = asyncio.get_running_loop()
        #: By room. The receiver adds each event of these rooms.
        self.recordings: Final[dict[str, list[Recording]]] = {}

    async def read(
        self, room: str, since: str | None, limit: int | None, before: str | None, max_bytes: int
    ) -> History:
        """See ``Broker.history``. For a subscribed room, ``last_id`` is that of the last event of the listener.

        The stream may be ahead of the listener; then this waits for the listener. Meanwhile the listener may receive
        events that are newer than the page that was read; these are recorded and added. In the grace period, this also
        waits for the reports of other nodes if they can change the result.
        """
        epoch, offset = ("", "") if since is None else split_id(since)
        size = self._stream.limits.of(room).history_size
        max_events = min(MAX_PAGE_EVENTS if limit is None else limit, size)
        read_page = partial(
            self._stream.read_for_client,
            room,
            epoch,
            offset,
            max_events,
            size,
            before="" if before is None else "-".join(split_id(before)),
            max_bytes=max_bytes,
        )
        subscription = self._subscriptions.get(room)
        if subscription is None or subscription.last_offset == UNKNOWN or before is not None:
            page = await self._read_final(read_page)
            return History(page.events, page.is_complete, f"{page.epoch}-{page.last_offset}", page.has_older)
        recording = Recording(self._loop.create_future())
        recordings = self.recordings.setdefault(room, [])
        recordings.append(recording)
        try:
            page = await self._read_final(read_page)
            await self._wait_for_listener(subscription, recording, page.epoch, page.last_offset)
        finally:
            recordings.remove(recording)
            if not recordings:
                del self.recordings[room]
        if subscription.epoch in ("", BEFORE_ALL):  # the room has no event
            last_id = f"{page.epoch}-{page.last_offset}"
        else:
            last_id = f"{subscription.epoch}-{subscription.last_offset}"
        if since is not None and not page.is_last:
            return History(page.events, True, last_id)
        if recording.has_lost_events and since is None:  # what was read and recorded may not be one sequence
            return await self.read(room, None, limit, None, max_bytes)
        if recording.has_lost_events or not page.is_complete:
            return History((), False, last_id)
        events = [
            *page.events,
            *(
                Event(f"{epoch}-{offset}", payload)
                for epoch, offset, payload in recording.events
                if offset > page.last_offset
            ),
        ]
        if since is None:
            events.reverse()
        if since is not None and not size:  # the events that arrived meanwhile cannot be read later
            max_events = MAX_PAGE_EVENTS if limit is None else limit
        fitting = count_fitting((event.payload for event in islice(events, max_events)), max_bytes)
        has_older = since is None and (page.has_older or fitting < min(len(events), size))
        del events[fitting:]
        if since is None:
            events.reverse()
        return History(events, True, last_id, has_older)

    async def _read_final(self, read_page: Callable[[], Awaitable[StreamPage]]) -> StreamPage:
        """Read a page when nothing can change it any more."""
        page = await read_page()
        if not page.is_final and (seconds := self._grace_left()) > 0:
            await asyncio.sleep(seconds)
            page = await read_page()
        return page

    async def _wait_for_listener(
        self, subscription: Subscription, recording: Recording, epoch: str, offset: int
    ) -> None:
        """Wait until the listener has received the event ``offset``; fetch it if its announcement does not arrive."""
        if _is_behind(subscription, epoch, offset):
            recording.goal = offset
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANNOUNCEMENT_TIMEOUT):
                    await recording.reached
        while self._subscriptions.is_current(subscription) and _is_behind(subscription, epoch, offset):
            await asyncio.shield(self._repair.start(subscription))


def split_id(id: str) -> tuple[str, str]:
    """Return the epoch and the offset of an id. For a string that cannot be an id, return one before all others."""
    epoch, _, offset = id.rpartition("-")
    return (epoch, offset) if _is_number(epoch) and _is_number(offset) else (BEFORE_ALL, "0")


def _is_number(digits: str) -> bool:
    """Return True for a decimal number without leading zeros that Lua represents exactly."""
    return len(digits) <= 16 and digits.isascii() and digits.isdecimal() and str(int(digits)) == digits


def _is_behind(subscription: Subscription, epoch: str, offset: int) -> bool:
    """Return True if the listener has not received the event ``offset`` of ``epoch``."""
    if not offset:  # the room has no event
        return False
    return (int(subscription.epoch or BEFORE_ALL), subscription.last_offset) < (int(epoch), offset)
