"""The embedded broker: ``Broker`` for one process, without Redis."""

from __future__ import annotations

import asyncio
import base64
import itertools
import secrets
import time
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Final, Generic, TypeVar

from ..errors import Unavailable
from . import connection_set
from .base import KEY_TTL, Broker, Event, History, Listener, Member, PresenceChange, Publication, UserId
from .connection_set import ConnectionSet

#: What an event in a history takes besides its payload, in bytes.
EVENT: Final = 56

#: What the histories of the embedded broker may take in all, in bytes. A user whose token opens rooms without number
#: fills one after the other; past this the rooms that nobody has written to for longest lose their history.
MOST_HISTORY: Final = 1024 * 1024 * 1024

#: What each kind of things with an end may take in the embedded broker, in bytes: keys of publishes, claims with their
#: answers, what is put, and revocations. A client may send 100 keyed commands a second, and a plugin's answers may be
#: as long as its messages: without a bound one user could fill the memory within the 5 minutes that they are kept. This
#: is half a million keys, 1,700 a second for 5 minutes; past that the oldest are forgotten, and could be repeated.
MOST_KEPT: Final = 256 * 1024 * 1024

_NOT_RUNNING = "The embedded broker is not running: it was closed, or not started yet."

#: How many rooms or keys a sweep looks at before it lets others run, so that it holds the loop for about 1 ms.
_SLICE = 1000

_K = TypeVar("_K", str, tuple[str, str])
_V = TypeVar("_V")


class _Log:
    """The history of one room: ``payloads`` and their ``times`` side by side, the last with the offset ``top``.

    Ids are made when they are read. A list and an array rather than deques, since a deque begins at 624 bytes and most
    rooms are quiet; they are trimmed in steps, so that dropping the oldest costs no move of all others each time.
    """

    __slots__ = ("born", "payloads", "prefix", "times", "top")

    def __init__(self, prefix: str, born: float) -> None:
        self.prefix: Final = prefix
        self.born: Final = born
        self.top = 0
        self.payloads: list[bytes] = []
        self.times = array("d")

    def trim(self, size: int, horizon: float) -> int:
        """Drop all but the newest ``size`` events, and those from before ``horizon``; return what that frees."""
        gone = max(len(self.payloads) - size, bisect_left(self.times, horizon))
        return self.drop(gone) if gone > 0 else 0

    def drop(self, count: int) -> int:
        """Drop the oldest ``count`` events; return how many bytes they took."""
        freed = sum(map(len, self.payloads[:count])) + EVENT * min(count, len(self.payloads))
        del self.payloads[:count]
        del self.times[:count]
        return freed

    def offset_of(self, since: str) -> int | None:
        """Return the offset in ``since`` if that is, letter for letter, an id this room has given; else None."""
        digits = since[len(self.prefix) :]
        # The length first: int() raises above 4300 digits.
        if not since.startswith(self.prefix) or len(digits) > 18 or not digits.isdecimal():
            return None
        offset = int(digits)
        return offset if offset <= self.top and str(offset) == digits else None

    def last(self, count: int, limit: int | None) -> list[Event]:
        """The oldest ``limit`` of the last ``count`` events, oldest first; there must be ``count``."""
        first = len(self.payloads) - count
        kept = self.payloads[first : None if limit is None else first + limit]
        prefix = self.prefix
        return [Event(f"{prefix}{i}", payload) for i, payload in enumerate(kept, self.top - count + 1)]


class _Expiring(Generic[_K, _V]):
    """A dict in which each entry lives until a time of its own; times are in seconds of one clock.

    Each ``put`` frees up to two that have ended: what is past never outgrows what lives, and no call pays for many.
    Beyond ``most`` bytes, as far as these can be told, those that would end first go before their time.
    """

    __slots__ = ("_ends", "_entries", "_most", "size")

    #: What an entry takes besides its key and value, in bytes: measured as 480 for a publish's key of 70 characters.
    ENTRY: Final = 300

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._entries: dict[_K, tuple[float, _V]] = {}
        #: When entries end, soonest first, also of those that were replaced or popped since: they count until then.
        self._ends: list[tuple[float, _K]] = []
        self.size = 0

    def put(self, key: _K, value: _V, now: float, ttl: float) -> None:
        """Keep ``value`` under ``key``, in place of what was there, for ``ttl`` seconds."""
        self.expire(now, 2)
        self.pop(key, now)
        end = now + ttl
        self._entries[key] = (end, value)
        heappush(self._ends, (end, key))
        self.size += self._weight(key) + _length(value)
        while self.size > self._most and len(self._ends) > 1:
            self._free()

    def _weight(self, key: _K) -> int:
        return self.ENTRY + (len(key) if isinstance(key, str) else sum(map(len, key)))

    def _free(self) -> None:
        """Free what ends first."""
        end, key = heappop(self._ends)
        self.size -= self._weight(key)
        entry = self._entries.get(key)
        if entry is not None and entry[0] == end:
            self.size -= _length(entry[1])
            del self._entries[key]

    def get(self, key: _K, now: float) -> _V | None:
        """Return what is kept under ``key``, or None."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] > now else None

    def pop(self, key: _K, now: float) -> _V | None:
        """Return what is kept under ``key``, or None, and keep it no longer."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.size -= _length(entry[1])
        return entry[1] if entry[0] > now else None

    def expire(self, now: float, most: int) -> bool:
        """Free up to ``most`` entries that have ended; True if there may be more."""
        ends = self._ends
        for _ in range(most):
            if not ends or ends[0][0] > now:
                return False
            self._free()
        return True


def _length(value: object) -> int:
    return len(value) if isinstance(value, bytes | str) else 0


class MemoryBroker(Broker):
    """The embedded broker: one process, one event loop, nothing outlives it.

    ``history_size`` events are kept of each room, each for ``history_ttl`` seconds of ``clock``, whose readings must
    never go back; ``most_kept`` and ``most_history`` are as ``MOST_KEPT`` and ``MOST_HISTORY``. No method suspends but
    ``close`` and ``sweep``; the listener is called before ``publish``, ``publish_many`` and ``signal`` return.

    A room that was not written to for ``history_ttl``, has no members and is not subscribed is forgotten; if it comes
    back it has a new epoch. Any other keeps its epoch and offset even when its last event has expired.
    """

    def __init__(
        self,
        history_size: int = 500,
        history_ttl: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        most_kept: int = MOST_KEPT,
        most_history: int = MOST_HISTORY,
    ) -> None:
        self._most_history: Final = most_history
        self._most_kept: Final = most_kept
        self._size: Final = history_size
        self._trim_above: Final = history_size + history_size // 8
        self._ttl: Final = history_ttl
        self._clock: Final = clock
        # 40 random bits tell processes apart, the counter the histories of one process.
        self._boot: Final = base64.b32encode(secrets.token_bytes(5)).decode().lower()
        self._epochs: Final = itertools.count(1)
        self._listener: Listener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._clear()

    def _clear(self) -> None:
        # The room that was written to last stands last.
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._history_bytes = 0
        # A dict where a set would do: half the size.
        self._subscribed: dict[str, None] = {}
        self._leases: dict[UserId, ConnectionSet] = {}
        self._presence: dict[str, dict[UserId, tuple[str, ConnectionSet]]] = {}
        self._keys: _Expiring[tuple[str, str], str] = _Expiring(self._most_kept)
        self._claims: _Expiring[str, bytes | bool] = _Expiring(self._most_kept)
        self._kept: _Expiring[str, bytes] = _Expiring(self._most_kept)
        #: By user and token, or by user and "" for all tokens from before a time.
        self._revoked: _Expiring[tuple[str, str], float] = _Expiring(self._most_kept)

    def _check(self) -> None:
        if self._listener is None:
            raise Unavailable(_NOT_RUNNING)

    async def start(self, listener: Listener) -> None:
        """See ``Broker``."""
        self._listener = listener
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="roomcast broker sweep")

    async def close(self) -> None:
        """See ``Broker``; the histories are gone too."""
        self._listener = None
        self._clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    async def ping(self) -> None:
        """See ``Broker``; there is no way that could be broken."""
        self._check()

    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        """See ``Broker``."""
        listener = self._listener
        if listener is None:
            raise Unavailable(_NOT_RUNNING)
        now = self._clock()
        if key is not None and (known := self._keys.get((room, key), now)) is not None:
            return known
        log = self._logs.get(room) or self._begin(room, now)
        log.top = top = log.top + 1
        payloads = log.payloads
        payloads.append(payload)
        log.times.append(now)
        self._logs.move_to_end(room)
        self._history_bytes += len(payload) + EVENT
        if len(payloads) > self._trim_above:
            self._history_bytes -= log.trim(self._size, now - self._ttl)
        if self._history_bytes > self._most_history:
            self._forget_others(room)
        event_id = f"{log.prefix}{top}"
        if key is not None:
            self._keys.put((room, key), event_id, now, KEY_TTL)
        if room in self._subscribed:
            listener.on_event(room, event_id, payload)
        return event_id

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """See ``Broker``; nothing can fail or come between."""
        self._check()
        return [await self.publish(*publication) for publication in publications]

    def _forget_others(self, written: str) -> None:
        """Free what is too much of the histories; the room ``written`` to just now comes last, and keeps half of it."""
        held = []
        while self._history_bytes > self._most_history:
            room, log = next(iter(self._logs.items()))
            if room == written:
                self._history_bytes -= log.drop(len(log.payloads) // 2)
                break
            self._history_bytes -= log.drop(len(log.payloads))
            del self._logs[room]
            if room in self._presence or room in self._subscribed:
                held.append((room, log))
        self._logs.update(held)  # these go on, without what they had
        self._logs.move_to_end(written)

    def _begin(self, room: str, now: float) -> _Log:
        log = self._logs[room] = _Log(f"{self._boot}{next(self._epochs)}-", now)
        return log

    async def subscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check()
        self._subscribed.update(dict.fromkeys(rooms))

    async def unsubscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check()
        for room in rooms:
            self._subscribed.pop(room, None)

    async def history(self, room: str, since: str | None = None, limit: int | None = None) -> History:
        """See ``Broker``. The room's epoch begins now if it had none, so that ``last_id`` is one to resume from."""
        self._check()
        now = self._clock()
        log = self._logs.get(room) or self._begin(room, now)
        self._history_bytes -= log.trim(self._size, now - self._ttl)
        kept = len(log.payloads)
        last_id = f"{log.prefix}{log.top}"
        if since is None:
            return History(log.last(kept if limit is None else min(limit, kept), limit), True, last_id)
        offset = log.offset_of(since)
        if offset is None or offset < log.top - kept:
            return History((), False, last_id)
        return History(log.last(log.top - offset, limit), True, last_id)

    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """See ``Broker``."""
        self._check()
        held = self._leases.get(user_id)
        if held is not None and connection_set.contains(held, connection):
            return True
        if (0 if held is None else connection_set.size(held)) >= limit:
            return False
        self._leases[user_id] = connection if held is None else connection_set.add(held, connection)
        return True

    async def release(self, user_id: UserId, connection: int) -> None:
        """See ``Broker``."""
        self._check()
        held = self._leases.get(user_id)
        if held is None:
            return
        rest = connection_set.remove(held, connection)
        if rest is None:
            del self._leases[user_id]
        else:
            self._leases[user_id] = rest

    async def connections(self, user_id: UserId) -> int:
        """See ``Broker``."""
        self._check()
        held = self._leases.get(user_id)
        return 0 if held is None else connection_set.size(held)

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check()
        users = self._presence.get(room)
        if users is None:
            users = self._presence[room] = {}
        known = users.get(user_id)
        users[user_id] = (username, connection if known is None else connection_set.add(known[1], connection))
        return PresenceChange(known is None, len(users))

    async def leave(self, room: str, user_id: UserId, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check()
        users = self._presence.get(room, {})
        known = users.get(user_id)
        if known is None:
            return PresenceChange(False, len(users))
        username, held = known
        rest = connection_set.remove(held, connection)
        if rest is not None:
            users[user_id] = (username, rest)
            return PresenceChange(False, len(users))
        del users[user_id]
        if not users:
            del self._presence[room]
        return PresenceChange(True, len(users))

    async def members(self, room: str) -> list[Member]:
        """See ``Broker``."""
        self._check()
        users = self._presence.get(room, {})
        return [Member(user_id, username, connection_set.size(held)) for user_id, (username, held) in users.items()]

    async def rooms(self) -> dict[str, int]:
        """See ``Broker``."""
        self._check()
        return {room: len(users) for room, users in self._presence.items()}

    async def claim(self, key: str, lapse: float) -> bytes | bool:
        """See ``Broker``."""
        self._check()
        now = self._clock()
        known = self._claims.get(key, now)
        if known is not None:
            return known
        self._claims.put(key, False, now, lapse)
        return True

    async def settle(self, key: str, answer: bytes | None) -> None:
        """See ``Broker``."""
        self._check()
        now = self._clock()
        if answer is None:
            self._claims.pop(key, now)
        else:
            self._claims.put(key, answer, now, KEY_TTL)

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """See ``Broker``."""
        self._check()
        self._kept.put(key, value, self._clock(), ttl)

    async def take(self, key: str) -> bytes | None:
        """See ``Broker``."""
        self._check()
        return self._kept.pop(key, self._clock())

    async def revoke_all(self, user_id: UserId, before: float, ttl: float) -> None:
        """See ``Broker``; a restart of the process forgets it."""
        self._check()
        now = self._clock()
        who = (str(user_id), "")
        self._revoked.put(who, max(before, self._revoked.get(who, now) or before), now, ttl)

    async def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """See ``Broker``; a restart of the process forgets it."""
        self._check()
        self._revoked.put((str(user_id), token_id), inf, self._clock(), ttl)

    async def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """See ``Broker``."""
        self._check()
        if not self._revoked.size:
            return False
        now = self._clock()
        user = str(user_id)
        before = self._revoked.get((user, ""), now)
        if before is not None and (issued is None or issued < before):
            return True
        return token_id is not None and self._revoked.get((user, token_id), now) is not None

    async def signal(self, message: bytes) -> None:
        """See ``Broker``."""
        if self._listener is None:
            raise Unavailable(_NOT_RUNNING)
        self._listener.on_signal(message)

    async def sweep(self) -> None:
        """Free the memory of what has expired, in small slices; a started broker does it by itself now and then."""
        now = self._clock()
        names = list(self._logs)
        for i in range(0, len(names), _SLICE):
            for room in names[i : i + _SLICE]:
                self._sweep_room(room, now - self._ttl)
            await asyncio.sleep(0)
        kinds = (self._keys, self._claims, self._kept, self._revoked)
        more = True
        while more:
            more = any(expiring.expire(now, _SLICE) for expiring in kinds)
            await asyncio.sleep(0)

    def _sweep_room(self, room: str, horizon: float) -> None:
        """Drop what ``room`` keeps from before ``horizon``, and the room itself if nothing holds it."""
        log = self._logs.get(room)
        if log is None:
            return
        self._history_bytes -= log.trim(self._size, horizon)
        # Its last event, if any, is from before the horizon, or would still be there: only the young and the held stay.
        if not log.payloads and log.born < horizon and room not in self._presence and room not in self._subscribed:
            del self._logs[room]

    async def _sweep_for_ever(self) -> None:
        """Sweep four times within the TTL, but not more than ten times a second nor less than twice a minute."""
        pause = min(max(self._ttl / 4, 0.1), 30.0)
        while True:
            await asyncio.sleep(pause)
            await self.sweep()
