"""The embedded broker: ``Broker`` for a single process, without Redis."""

from __future__ import annotations

import asyncio
import base64
import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Final

from ..errors import BrokerUnavailable
from . import connection_set
from .base import (
    DEFAULT_ANNOUNCEMENTS,
    KEY_TTL,
    MAX_PAGE_BYTES,
    Announcements,
    Broker,
    History,
    Listener,
    Member,
    PresenceChange,
    Publication,
    UserId,
)
from .connection_set import ConnectionSet
from .event_log import EVENT_OVERHEAD, EventLog
from .expiring import ExpiringDict
from .memory_presence import MemoryPresence

#: The limit for all histories together, in bytes. Beyond it the rooms without events for longest lose theirs.
MAX_HISTORY_BYTES: Final = 1024 * 1024 * 1024
#: The limit for each kind of expiring entry, in bytes: idempotency keys, claims with their answers, one-time values and
#: revocations. Beyond it new ones are refused: without its key a command could be carried out twice.
MAX_EXPIRING_BYTES: Final = 256 * 1024 * 1024

_NOT_RUNNING = "The embedded broker is not running: it was closed, or not started yet."
#: The number of rooms or keys that a sweep checks before it yields to other tasks, so that it blocks for about 1 ms.
_SWEEP_SLICE = 1000
#: After this many bytes of published events, with their overhead, a call suspends: about 1 ms, or 200 small events.
_SLICE: Final = 40 * 1024
#: How many bytes an event or a member counts that is read. The caller is likely to process it.
_READ_SIZE: Final = 200


class MemoryBroker(Broker):
    """The embedded broker: one process, one event loop, nothing survives it.

    It stores ``history_size`` events of each room with up to ``history_bytes``, each for ``history_ttl`` seconds of
    ``clock``, which must never go back. ``max_expiring_bytes`` and ``max_history_bytes`` are as ``MAX_EXPIRING_BYTES``
    and ``MAX_HISTORY_BYTES``. The listener is called before ``publish``, ``publish_many`` and ``signal`` return.

    ``publish``, ``publish_many``, ``history`` and ``members`` suspend together once after each ``_SLICE``, so that
    calls in a loop do not block the event loop. A publish suspends after it has taken effect, which keeps the order of
    events, a read before, so that its result is current. Others do not suspend, except ``close`` and ``sweep``.

    A room is dropped if it had no event for ``history_ttl``, has no members and is not subscribed. Its next event
    begins a new epoch. Every other room keeps its epoch and offset, even when its last event has expired.
    """

    def __init__(
        self,
        history_size: int = 500,
        history_ttl: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        max_expiring_bytes: int = MAX_EXPIRING_BYTES,
        max_history_bytes: int = MAX_HISTORY_BYTES,
        history_bytes: int = 2 * 2**20,
    ) -> None:
        self._max_history_bytes: Final = max_history_bytes
        self._max_expiring_bytes: Final = max_expiring_bytes
        self._size: Final = history_size
        self._bytes: Final = history_bytes
        self._trim_above: Final = history_size + history_size // 8
        self._ttl: Final = history_ttl
        self._clock: Final = clock
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
        #: A dict instead of a set because it takes half the memory.
        self._subscribed: dict[str, None] = {}
        self._leases: dict[UserId, ConnectionSet] = {}
        self._presence = MemoryPresence(self._clock, self._announcements, self._report_presence)
        limit = self._max_expiring_bytes
        #: The event ids by room and idempotency key.
        self._keys: ExpiringDict[tuple[str, str], str] = ExpiringDict(limit)
        self._claims: ExpiringDict[str, bytes | bool] = ExpiringDict(limit)
        self._values: ExpiringDict[str, bytes] = ExpiringDict(limit)
        #: By user and token, or by user and "" for all tokens from before a time.
        self._revoked: ExpiringDict[tuple[str, str], float] = ExpiringDict(limit)

    def _check_running(self) -> None:
        if self._listener is None:
            raise BrokerUnavailable(_NOT_RUNNING)

    # Lifecycle.

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

    async def ping(self) -> None:
        """See ``Broker``. Fails only if the broker is not running."""
        self._check_running()

    # Events.

    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
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
        log.last_offset = offset = log.last_offset + 1
        payloads = log.payloads
        payloads.append(payload)
        log.times.append(now)
        self._logs.move_to_end(room)
        log.size += len(payload)
        size = len(payload) + EVENT_OVERHEAD
        self._history_bytes += size
        if len(payloads) > self._trim_above or log.size > self._bytes:
            self._history_bytes -= log.trim(self._size, now - self._ttl, self._bytes)
        if self._history_bytes > self._max_history_bytes:
            self._free_histories(room)
        event_id = f"{log.prefix}{offset}"
        if key is not None:
            self._keys.put((room, key), event_id, now, KEY_TTL, force=True)
        if room in self._subscribed:
            listener.on_event(room, event_id, payload)
        self._slice = rest = self._slice - size
        if rest < 0:
            await self._wait_for_members(room)
        return event_id

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

    async def _wait_for_members(self, room: str) -> None:
        """Begin a slice: let other coroutines run, and the members of ``room`` receive what was published."""
        self._slice = _SLICE
        if self._listener is not None:
            await self._listener.wait_for_members(room)

    async def _begin_read(self) -> None:
        """Let other coroutines run if the slice is used up."""
        if self._slice < 0:
            self._slice = _SLICE
            await asyncio.sleep(0)
        self._check_running()

    def _free_histories(self, current: str) -> None:
        """Drop the histories without events for longest, until the limit holds; of ``current``, at most half."""
        used_rooms = []
        while self._history_bytes > self._max_history_bytes:
            room, log = next(iter(self._logs.items()))
            if room == current:
                self._history_bytes -= log.drop(len(log.payloads) // 2)
                break
            self._history_bytes -= log.drop(len(log.payloads))
            del self._logs[room]
            if self._is_used(room):
                used_rooms.append((room, log))
        self._logs.update(used_rooms)  # they keep their epoch and offset, without events
        self._logs.move_to_end(current)

    def _is_used(self, room: str) -> bool:
        return room in self._presence.rooms or room in self._subscribed

    def _create_log(self, room: str, now: float) -> EventLog:
        log = self._logs[room] = EventLog(f"{self._process_id}{next(self._epochs)}-", now)
        return log

    async def subscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check_running()
        self._subscribed.update(dict.fromkeys(rooms))

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
        log = self._logs.get(room) or self._create_log(room, now)
        self._history_bytes -= log.trim(self._size, now - self._ttl, self._bytes)
        last_id = f"{log.prefix}{log.last_offset}"
        events = log.before(before, limit, max_bytes) if since is None else log.after(since, limit, max_bytes)
        self._slice -= (len(events or ()) + 1) * _READ_SIZE
        return History((), False, last_id) if events is None else History(events, True, last_id)

    async def signal(self, message: bytes) -> None:
        """See ``Broker``."""
        if self._listener is None:
            raise BrokerUnavailable(_NOT_RUNNING)
        self._listener.on_signal(message)

    # Leases.

    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """See ``Broker``."""
        self._check_running()
        leases = self._leases.get(user_id)
        if leases is not None and connection_set.contains(leases, connection):
            return True
        if (0 if leases is None else connection_set.size(leases)) >= limit:
            return False
        self._leases[user_id] = connection if leases is None else connection_set.add(leases, connection)
        return True

    async def release(self, user_id: UserId, connection: int) -> None:
        """See ``Broker``."""
        self._check_running()
        leases = self._leases.get(user_id)
        if leases is None:
            return
        rest = connection_set.remove(leases, connection)
        if rest is None:
            del self._leases[user_id]
        else:
            self._leases[user_id] = rest

    async def connections(self, user_id: UserId) -> int:
        """See ``Broker``."""
        self._check_running()
        leases = self._leases.get(user_id)
        return 0 if leases is None else connection_set.size(leases)

    # Presence.

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return self._presence.enter(room, user_id, username, connection)

    async def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool = False) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return self._presence.leave(room, user_id, connection, is_lost=is_lost)

    async def announce_due(self) -> None:
        """See ``Broker``."""
        await self._presence.announce_due()

    async def members(self, room: str) -> list[Member]:
        """See ``Broker``."""
        await self._begin_read()
        members = self._presence.members(room)
        self._slice -= (len(members) + 1) * _READ_SIZE
        return members

    async def rooms(self) -> dict[str, int]:
        """See ``Broker``."""
        self._check_running()
        return {room: len(users) for room, users in self._presence.rooms.items()}

    # Claims and one-time values.

    async def claim(self, key: str, ttl: float) -> bytes | bool:
        """See ``Broker``."""
        self._check_running()
        now = self._clock()
        known = self._claims.get(key, now)
        if known is not None:
            return known
        self._claims.put(key, False, now, ttl)
        return True

    async def settle(self, key: str, answer: bytes | None) -> None:
        """See ``Broker``."""
        self._check_running()
        now = self._clock()
        if answer is None:
            self._claims.pop(key, now)
        else:
            self._claims.put(key, answer, now, KEY_TTL, force=True)  # there was space for its claim

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """See ``Broker``."""
        self._check_running()
        self._values.put(key, value, self._clock(), ttl)

    async def take(self, key: str) -> bytes | None:
        """See ``Broker``."""
        self._check_running()
        return self._values.pop(key, self._clock())

    # Revocations.

    async def revoke_all(self, user_id: UserId, before: float, ttl: float) -> None:
        """See ``Broker``. Revocations do not survive a restart of the process."""
        self._check_running()
        now = self._clock()
        key = (str(user_id), "")
        self._revoked.put(key, max(before, self._revoked.get(key, now) or before), now, ttl)

    async def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """See ``Broker``. Revocations do not survive a restart of the process."""
        self._check_running()
        self._revoked.put((str(user_id), token_id), inf, self._clock(), ttl)

    async def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """See ``Broker``."""
        self._check_running()
        if not self._revoked.size:
            return False
        now = self._clock()
        user = str(user_id)
        before = self._revoked.get((user, ""), now)
        if before is not None and (issued is None or issued < before):
            return True
        return token_id is not None and self._revoked.get((user, token_id), now) is not None

    # Expiry.

    async def sweep(self) -> None:
        """Free the memory of everything that has expired, in small slices. A started broker calls this periodically."""
        now = self._clock()
        names = list(self._logs)
        for i in range(0, len(names), _SWEEP_SLICE):
            for room in names[i : i + _SWEEP_SLICE]:
                self._sweep_room(room, now - self._ttl)
            await asyncio.sleep(0)
        for expiring in (self._keys, self._claims, self._values, self._revoked):
            while expiring.expire(now, _SWEEP_SLICE):  # noqa: ASYNC110
                await asyncio.sleep(0)

    def _sweep_room(self, room: str, horizon: float) -> None:
        """Drop the events of ``room`` from before ``horizon``, and the room itself if it is unused."""
        log = self._logs.get(room)
        if log is None:
            return
        self._history_bytes -= log.trim(self._size, horizon, self._bytes)
        if not log.payloads and log.created < horizon and not self._is_used(room):
            del self._logs[room]

    async def _sweep_periodically(self) -> None:
        """Sweep four times within the TTL, but at most ten times a second and at least twice a minute."""
        while True:
            await asyncio.sleep(min(max(self._ttl / 4, 0.1), 30.0))
            await self.sweep()
