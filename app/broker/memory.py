"""The embedded broker: ``Broker`` for a single process, without Redis."""

from __future__ import annotations

import asyncio
import base64
import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final

from ..errors import BrokerUnavailable
from .base import (
    DEFAULT_ANNOUNCEMENTS,
    KEY_TTL,
    LAST_SEEN_TTL,
    MAX_PAGE_BYTES,
    Announcements,
    Event,
    History,
    Listener,
    Publication,
    UserId,
)
from .event_log import EVENT_OVERHEAD, EventLog, LogLimits
from .memory_leases import NODE
from .memory_marks import MemoryMarks
from .memory_queue import MEMORY_LIMITS
from .memory_users import MemoryUsers
from .queue import QueueLimits
from .read_marks import READ_TTL
from .room_types import HistoryLimits, PerRoomType

#: The limit for all histories together, in bytes. Beyond it the rooms without events for longest lose theirs.
MAX_HISTORY_BYTES: Final = 1024 * 1024 * 1024
#: The limit for each kind of expiring entry, in bytes: idempotency keys, claims with their answers, one-time values and
#: revocations. Beyond it new ones are refused: without its key a command could be carried out twice.
MAX_EXPIRING_BYTES: Final = 256 * 1024 * 1024

_NOT_RUNNING = "The embedded broker is not running: it was closed, or not started yet."
#: How many rooms that have had no event keep the history that a read began. Each takes about 0.6 KB.
MAX_EMPTY_HISTORIES: Final = 100_000
#: The number of rooms or keys that a sweep checks before it yields to other tasks, so that it blocks for about 1 ms.
_SWEEP_SLICE = 1000
#: After this many bytes of published events, with their overhead, a call suspends: about 1 ms, or 200 small events.
_SLICE: Final = 40 * 1024
#: How many bytes an event or a member counts that is read. The caller is likely to process it.
_READ_SIZE: Final = 200


class MemoryBroker(MemoryUsers):
    """The embedded broker: one process, one event loop, nothing survives it.

    It stores ``history_size`` events of each room with up to ``history_bytes``, each for ``history_ttl`` seconds of
    ``clock``, which must never go back. The types of rooms in ``history_by_type`` have other limits.
    ``max_expiring_bytes`` and ``max_history_bytes`` are as ``MAX_EXPIRING_BYTES`` and ``MAX_HISTORY_BYTES``. The
    listener is called before ``publish``, ``publish_many`` and ``signal`` return.

    ``publish``, ``publish_many``, ``history``, ``members`` and ``list_members`` suspend together once after each
    ``_SLICE``, so that calls in a loop do not block the event loop. A publish suspends after it has taken effect, which
    keeps the order of events, a read before, so that its result is current. Others do not suspend, except ``close`` and
    ``sweep``.

    A room is dropped if it had no event for its TTL, has no members and no marks, and is not subscribed; earlier if it
    had no event at all and is one of too many. Its next event begins a new epoch. Every other room keeps its epoch and
    offset, even when its last event has expired.
    """

    def __init__(
        self,
        history_size: int = 500,
        history_ttl: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        max_expiring_bytes: int = MAX_EXPIRING_BYTES,
        max_history_bytes: int = MAX_HISTORY_BYTES,
        history_bytes: int = 2 * 2**20,
        read_ttl: float = READ_TTL,
        last_seen_ttl: float = LAST_SEEN_TTL,
        history_by_type: Mapping[str, HistoryLimits] | None = None,
        key_ttl: float = KEY_TTL,
        queue_limits: QueueLimits = MEMORY_LIMITS,
    ) -> None:
        super().__init__(clock, key_ttl, queue_limits)
        self._last_seen_ttl: Final = last_seen_ttl
        self._max_history_bytes: Final = max_history_bytes
        self._max_expiring_bytes: Final = max_expiring_bytes
        by_type = {type: LogLimits(*limits, history_bytes) for type, limits in (history_by_type or {}).items()}
        self._limits = PerRoomType(LogLimits(history_size, history_ttl, history_bytes), by_type)
        self._read_ttl: Final = read_ttl
        # In an epoch, 40 random bits identify the process, and the counter identifies the history in it.
        self._process_id: Final = base64.b32encode(secrets.token_bytes(5)).decode().lower()
        self._epochs: Final = itertools.count(1)
        self._listener: Listener | None = None
        self._slice: float = _SLICE  # what is left of the current slice, in bytes
        self._sweeper: asyncio.Task[None] | None = None
        self._announcements = DEFAULT_ANNOUNCEMENTS
        self._clear()

    def _clear(self) -> None:
        #: In order of the last event; the room with the newest one is last.
        self._logs: OrderedDict[str, EventLog] = OrderedDict()
        self._history_bytes = 0
        #: Rooms whose history a read began, oldest first. Some have had events since then, or were dropped.
        self._empty: dict[str, None] = {}
        self.marks: MemoryMarks = MemoryMarks(self._logs, self._check_running, self._read_ttl, self._clock)
        #: A dict instead of a set because it takes half the memory.
        self._subscribed: dict[str, None] = {}
        self._clear_users(self._last_seen_ttl, self._announcements)
        self._clear_values(self._max_expiring_bytes)

    def _check_running(self) -> None:
        if self._listener is None:
            raise BrokerUnavailable(_NOT_RUNNING)

    async def start(self, listener: Listener, announcements: Announcements = DEFAULT_ANNOUNCEMENTS) -> None:
        """See ``Broker``."""
        self._announcements = announcements
        self._clear()
        self._listener = listener
        self._sweeper = asyncio.create_task(self._sweep_periodically(), name="roomcast broker sweep")

    async def close(self) -> None:
        """See ``Broker``. The histories are dropped as well."""
        self._listener = None
        self._clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    def _report_presence(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        if self._listener is not None and room in self._subscribed:
            self._listener.on_presence(room, user_id, username, has_joined)

    def _report_membership(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        if self._listener is not None:
            self._listener.on_membership(room, user_id, username, has_joined)

    def _report_status(self, room: str, user_id: UserId, username: str, status: str) -> None:
        if self._listener is not None and room in self._subscribed:
            self._listener.on_status(room, user_id, username, status)

    async def ping(self) -> None:
        """See ``Broker``. Fails only if the broker is not running."""
        self._check_running()

    # Events.

    async def publish(
        self,
        room: str,
        payload: bytes,
        key: str | None = None,
        is_message: bool = False,
        author: UserId | None = None,
        is_followed: bool = False,
    ) -> str:
        """See ``Broker``."""
        listener = self._listener
        if listener is None:
            raise BrokerUnavailable(_NOT_RUNNING)
        now = self._clock()
        if key is not None:
            if (known := self._keys.get((room, key), now)) is not None:
                return known
            if self._slice != inf:  # otherwise publish_many has checked it
                self._keys.check_space(now)
        log = self._logs.get(room) or self._create_log(room, now)
        counts = log.messages
        if counts is None:
            if is_message:
                self._count(room, log, is_message, author, now)
        elif not is_message or counts.author != author:
            self._count(room, log, is_message, author, now)
        elif counts.before is not None:  # inlined from EventLog.count
            counts.before.append(counts.total)
            counts.total += 1
        log.last_offset = offset = log.last_offset + 1
        payloads = log.payloads
        payloads.append(payload)
        log.times.append(now)
        self._logs.move_to_end(room)
        size = len(payload)
        log.size += size
        size += EVENT_OVERHEAD
        self._history_bytes += size
        limits = log.limits
        if len(payloads) > limits.trim_above or log.size > limits.max_bytes:
            self._history_bytes -= log.trim(now)
        if self._history_bytes > self._max_history_bytes:
            self._free_histories(room)
        event_id = f"{log.prefix}{offset}"
        if key is not None:
            self._keys.put((room, key), event_id, now, self._key_ttl, force=True)
        if room in self._subscribed:
            listener.on_event(room, event_id, payload)
        if is_followed:
            listener.on_published(room, event_id, payload)
        self._slice = rest = self._slice - size
        if rest < 0:
            await self._wait_for_members(room)
        return event_id

    def _count(self, room: str, log: EventLog, is_message: bool, author: UserId | None, now: float) -> None:
        """Count the event that is appended next, and remember its author until the mark of the author is written.

        Not called for another message of the same author: its mark is written once for all of them.
        """
        self.marks.write_own(room, log, now)
        log.count(is_message=is_message)
        if is_message and log.messages is not None:
            log.messages.author = author

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """See ``Broker``. Atomic because nothing suspends or fails before all are published."""
        self._check_running()
        if any(publication.key is not None for publication in publications):
            self._keys.check_space(self._clock())
        rest, self._slice = self._slice, inf
        try:
            ids = [await self.publish(*publication) for publication in publications]
        finally:
            self._slice = rest - sum(len(publication.payload) + EVENT_OVERHEAD for publication in publications)
        if self._slice < 0:
            await self._wait_for_members(publications[-1].room)
        return ids

    def broadcast(self, room: str, payload: bytes) -> None:
        """See ``Broker``. The listener is called before this returns."""
        if self._listener is None:
            raise BrokerUnavailable(_NOT_RUNNING)
        if room in self._subscribed:
            self._listener.on_broadcast(room, payload)

    async def _wait_for_members(self, room: str) -> None:
        """Begin a slice: let other coroutines run, and the members of ``room`` receive what was published."""
        self._slice = _SLICE
        if self._listener is not None:
            await self._listener.wait_for_members(room)

    async def _begin_read(self) -> None:
        if self._slice < 0:
            self._slice = _SLICE
            await asyncio.sleep(0)
        self._check_running()

    def _end_read(self, count: int) -> None:
        self._slice -= (count + 1) * _READ_SIZE

    def _free_histories(self, current: str) -> None:
        """Drop the histories without events for longest, until the limit holds; of ``current``, at most half."""
        used_rooms = []
        while self._history_bytes > self._max_history_bytes:
            room, log = next(iter(self._logs.items()))
            if room == current:
                self._history_bytes -= log.drop(len(log.payloads) // 2)
                break
            self._history_bytes -= log.drop(len(log.payloads))
            self.marks.write_own(room, log, self._clock())
            del self._logs[room]
            if self._is_used(room):
                used_rooms.append((room, log))
        self._logs.update(used_rooms)  # they keep their epoch and offset, without events
        self._logs.move_to_end(current)

    def _is_used(self, room: str) -> bool:
        return room in self._presence.rooms or room in self._subscribed or room in self.marks.rooms

    def _create_empty_log(self, room: str, now: float) -> EventLog:
        """Begin the history of a room that is read. If there are too many without events, drop the oldest one.

        Otherwise one user who may join any room could begin any number of them.
        """
        self._empty.pop(room, None)
        self._empty[room] = None
        if len(self._empty) > MAX_EMPTY_HISTORIES:
            oldest = next(iter(self._empty))
            del self._empty[oldest]
            log = self._logs.get(oldest)
            if log is not None and not log.last_offset and not self._is_used(oldest):
                del self._logs[oldest]
        return self._create_log(room, now)

    def _create_log(self, room: str, now: float) -> EventLog:
        prefix = f"{self._process_id}{next(self._epochs)}-"
        log = self._logs[room] = EventLog(prefix, now, self._limits.of(room))
        return log

    async def subscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check_running()
        for room in rooms:
            self._subscribed[room] = None

    async def unsubscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check_running()
        for room in rooms:
            self._subscribed.pop(room, None)

    async def history(
        self,
        room: str,
        since: str | None = None,
        limit: int | None = None,
        *,
        before: str | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> History:
        """See ``Broker``. A room without a history begins one, so that clients can resume from ``last_id``."""
        await self._begin_read()
        now = self._clock()
        log = self._logs.get(room) or self._create_empty_log(room, now)
        self._history_bytes -= log.trim(now)
        last_id = f"{log.prefix}{log.last_offset}"
        events: Sequence[Event] | None
        has_older = False
        if since is None:
            events, has_older = log.before(before, limit, max_bytes)
        else:
            events = log.after(since, limit, max_bytes)
        self._end_read(len(events or ()))
        return History((), False, last_id) if events is None else History(events, True, last_id, has_older)

    async def signal(self, message: bytes) -> None:
        """See ``Broker``."""
        if self._listener is None:
            raise BrokerUnavailable(_NOT_RUNNING)
        self._listener.on_signal(message)

    async def ask(self, questions: Mapping[str, bytes], wait: float) -> dict[str, bytes]:
        """See ``Broker``. The only node answers at once."""
        if self._listener is None:
            raise BrokerUnavailable(_NOT_RUNNING)
        return {NODE: self._listener.on_question(questions[NODE])} if NODE in questions else {}

    # Expiry.

    async def sweep(self) -> None:
        """Free the memory of everything that has expired, in small slices. A started broker calls this periodically."""
        now = self._clock()
        names = list(self._logs)
        for i in range(0, len(names), _SWEEP_SLICE):
            for room in names[i : i + _SWEEP_SLICE]:
                self._sweep_room(room, now)
            await asyncio.sleep(0)
        while self.marks.expire(now, _SWEEP_SLICE):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for expiring in (self._keys, self._claims, self._values, self._revocations.entries):
            while expiring.expire(now, _SWEEP_SLICE):  # noqa: ASYNC110
                await asyncio.sleep(0)
        while self._leases.expire(_SWEEP_SLICE):  # noqa: ASYNC110
            await asyncio.sleep(0)

    def _sweep_room(self, room: str, now: float) -> None:
        """Drop the events of ``room`` that have expired, and the room itself if it is unused. Write the own mark."""
        log = self._logs.get(room)
        if log is None:
            return
        self.marks.write_own(room, log, now)
        self._history_bytes -= log.trim(now)
        if not log.payloads and log.created < now - log.limits.ttl and not self._is_used(room):
            del self._logs[room]

    async def _sweep_periodically(self) -> None:
        """Sweep four times within the shortest TTL, but at most ten times a second and at least twice a minute."""
        pause = min(max(min(limits.ttl for limits in self._limits) / 4, 0.1), 30.0)
        while True:
            await asyncio.sleep(pause)
            await self.sweep()
