"""The leases of connections and the online status of users in the embedded broker."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from . import connection_set
from .base import UserId, UserStatus
from .connection_set import ConnectionSet

#: The number of users without a connection whose ``last_seen`` is stored. Beyond it the oldest one is dropped. An entry
#: takes about 0.3 KB.
MAX_LAST_SEEN: Final = 50_000
#: The name of the only node.
NODE: Final = "embedded"
#: The precision of the stored times, in seconds. Users who arrive within it share one object, so that each takes 50
#: bytes less.
_PRECISION: Final = 0.1


class MemoryLeases:
    """The leases of each user, since when a user is online, and when a user was last online.

    ``clock`` is in seconds and must never go back. ``last_seen`` is stored for ``ttl`` seconds; with 0, no times are
    stored. A user who returns within ``grace`` seconds counts as online in between.
    """

    def __init__(self, clock: Callable[[], float], ttl: float, grace: float) -> None:
        self._clock: Final = clock
        self._ttl: Final = ttl
        self._grace: Final = min(grace, ttl)
        self._leases: Final[dict[UserId, ConnectionSet]] = {}
        self._since: Final[dict[UserId, float]] = {}
        #: When each user without leases was online for the last time, and since when, in order of the former. A dict
        #: would be smaller, but the first entry of a dict is slow to find after many deletions.
        self._seen: Final[OrderedDict[UserId, tuple[float, float]]] = OrderedDict()
        self._now = -_PRECISION

    def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """See ``Broker.admit``."""
        leases = self._leases.get(user_id)
        if leases is None:
            if limit <= 0:
                return False
            self._leases[user_id] = connection
            if self._ttl:
                self._begin(user_id)
            return True
        if connection_set.contains(leases, connection):
            return True
        if connection_set.size(leases) >= limit:
            return False
        self._leases[user_id] = connection_set.add(leases, connection)
        return True

    def release(self, user_id: UserId, connection: int) -> None:
        """See ``Broker.release``."""
        leases = self._leases.get(user_id)
        if leases is None:
            return
        rest = connection_set.remove(leases, connection)
        if rest is not None:
            self._leases[user_id] = rest
            return
        del self._leases[user_id]
        if self._ttl:
            self._seen[user_id] = (self._read_clock(), self._since.pop(user_id))
            if len(self._seen) > MAX_LAST_SEEN:
                self._seen.popitem(last=False)

    def status(self, user_id: UserId) -> UserStatus:
        """Return the status of a user, with Unix times."""
        leases = self._leases.get(user_id)
        now = self._clock()
        to_unix = time.time() - now  # read each time, because the clock of the system may be set
        if leases is not None:
            since = self._since.get(user_id)
            return UserStatus(connection_set.size(leases), None if since is None else since + to_unix, nodes=(NODE,))
        seen = self._seen.get(user_id)
        return UserStatus(last_seen=None if seen is None or seen[0] + self._ttl <= now else seen[0] + to_unix)

    def expire(self, limit: int) -> bool:
        """Forget up to ``limit`` users who were last online before the TTL; return True if there may be more."""
        horizon = self._clock() - self._ttl
        for _ in range(limit):
            user_id = next(iter(self._seen), None)
            if user_id is None or self._seen[user_id][0] > horizon:
                return False
            del self._seen[user_id]
        return True

    def _begin(self, user_id: UserId) -> None:
        """Store since when a user is online."""
        now = self._read_clock()
        seen = self._seen.pop(user_id, None)
        self._since[user_id] = now if seen is None or now - seen[0] > self._grace else seen[1]

    def _read_clock(self) -> float:
        """Return the time, the same object within ``_PRECISION``."""
        now = self._clock()
        if now - self._now >= _PRECISION:
            self._now = now
        return self._now
