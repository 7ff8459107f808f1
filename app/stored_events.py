"""Read the stored events of a room page by page, and decode them as clients receive them.

Parsing 500 messages of 60 KB took 3 s, in which no other client was served. Therefore everything here yields to other
coroutines after about 1 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Self

import orjson

from .broker.base import MAX_PAGE_EVENTS, Event, History
from .errors import Refused

#: ``Broker.history``, or a function with the same arguments.
ReadHistory = Callable[..., Awaitable[History]]

#: Bytes of events to search before other coroutines may run; this takes about 1 ms. Parsing takes 16 times as long.
_SEARCH_SLICE: Final = 1024 * 1024
_PARSE_COST: Final = 16


def encode(event: Event) -> bytes:
    """Return a stored event as clients receive it, with its id, in JSON."""
    return b'%b,"id":"%b"}' % (event.payload[:-1], event.id.encode())


def decode(event: Event) -> dict[str, Any]:
    """Return a stored event as clients receive it, with its id."""
    document: dict[str, Any] = orjson.loads(event.payload)
    document["id"] = event.id
    return document


class _Slices:
    """Lets other coroutines run after each slice of work."""

    __slots__ = ("_work",)

    def __init__(self) -> None:
        self._work = 0

    async def add(self, work: int) -> None:
        """Count ``work`` bytes of searching."""
        self._work += work
        if self._work > _SEARCH_SLICE:
            self._work = 0
            await asyncio.sleep(0)

    async def decode_all(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        """Return ``events`` as clients receive them."""
        found = []
        for event in events:
            await self.add(_PARSE_COST * len(event.payload))
            found.append(decode(event))
        return found


async def read_after(read: ReadHistory, room: str, since: str, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the oldest events after the id ``since``, in order: at most ``limit``, and all if that is None.

    Raises ``Refused`` with ``not_found`` if the history does not reach back to ``since``.
    """
    slices = _Slices()
    found: list[dict[str, Any]] = []
    cursor: str | None = since
    while cursor is not None and (limit is None or len(found) < limit):
        page = await read(room, cursor, _page_size(limit, len(found)))
        if not page.recovered:
            raise Refused("not_found", f"The history of {room} does not reach back to {since[:60]!r}.")
        found += await slices.decode_all(page.events)
        cursor = page.cursor
    return found


async def read_before(
    read: ReadHistory, room: str, before: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return the newest events before the id ``before``, or the newest of all without it, oldest first.

    They are at most ``limit`` of them, and all if that is None.
    """
    slices = _Slices()
    pages: list[Sequence[Event]] = []
    count, has_older = 0, True
    while has_older and (limit is None or count < limit):
        page = await read(room, limit=_page_size(limit, count), before=before)
        has_older = page.has_older
        if page.events:
            pages.append(page.events)
            count += len(page.events)
            before = page.events[0].id
    return [event for events in reversed(pages) for event in await slices.decode_all(events)]


def _page_size(limit: int | None, count: int) -> int:
    """Return how many events to read next, if ``count`` of at most ``limit`` were read."""
    return MAX_PAGE_EVENTS if limit is None else min(limit - count, MAX_PAGE_EVENTS)


class EventsAbout:
    """An asynchronous iterator over a stored event and the later events that contain its id, newest first.

    The first item is the event itself; there is none if no event with the id ``event_id`` is stored. Pages are read
    when they are needed, and none of them has earlier events. ``mark`` replaces the id as what events must contain.
    """

    def __init__(self, read: ReadHistory, room: str, event_id: str, mark: str | None = None) -> None:
        self._read: Final = read
        self._room: Final = room
        self._event_id: Final = event_id
        self._mark: Final = (f'"{event_id}"' if mark is None else mark).encode()
        self._slices: Final = _Slices()
        #: The offset of the event, -1 before it was read. Offsets are consecutive, so later events can be counted.
        self._offset = -1
        self._before: str | None = None
        self._page: list[Event] = []
        #: The number of later events that were not read yet.
        self._rest = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._offset < 0:
            return decode(await self._read_first())
        while True:
            while self._page:
                event = self._page.pop()
                if self._mark in event.payload:
                    await self._slices.add(_PARSE_COST * len(event.payload))
                    return decode(event)
                await self._slices.add(len(event.payload))
            await self._read_page()

    async def _read_first(self) -> Event:
        """Return the event itself. It may be stored even if later events were lost, so no client can resume from it."""
        epoch, _, offset = self._event_id.rpartition("-")
        if not offset.isdecimal() or not 0 < len(offset) < 19:
            raise StopAsyncIteration
        after = f"{epoch}-{int(offset) + 1}"
        page = await self._read(self._room, limit=1, before=after)
        if not page.events or page.events[0].id != self._event_id:
            raise StopAsyncIteration
        self._offset = int(offset)
        self._rest = _offset_of(page.last_id) - self._offset
        return page.events[0]

    async def _read_page(self) -> None:
        page = None
        if self._rest > 0:
            page = await self._read(self._room, limit=min(self._rest, MAX_PAGE_EVENTS), before=self._before)
        if page is None or not page.events:  # events that have expired meanwhile are missing
            raise StopAsyncIteration
        self._page = list(page.events)
        self._before = page.events[0].id
        self._rest = _offset_of(self._before) - self._offset - 1


def _offset_of(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])
