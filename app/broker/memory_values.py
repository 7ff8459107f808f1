"""The entries of the embedded broker that expire, and its queues.

The entries are idempotency keys, claims, one-time values and revocations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Final

from .base import Broker, UserId
from .expiring import ExpiringDict
from .memory_queue import MemoryQueue
from .memory_revocations import MemoryRevocations
from .queue import QueueLimits


class MemoryValues(Broker):
    """The part of the embedded broker that keeps these entries, each kind with a limit of bytes, and the queues."""

    def __init__(self, clock: Callable[[], float], key_ttl: float, queue_limits: QueueLimits) -> None:
        self._clock: Final = clock
        self._key_ttl: Final = key_ttl
        self._queue_limits: Final = queue_limits

    def _clear_values(self, limit: int) -> None:
        #: The event ids by room and idempotency key.
        self._keys: ExpiringDict[tuple[str, str], str] = ExpiringDict(limit)
        self._claims: ExpiringDict[str, bytes | bool] = ExpiringDict(limit)
        self._values: ExpiringDict[str, bytes] = ExpiringDict(limit)
        self._revocations = MemoryRevocations(self._clock, limit)
        self._queues: dict[str, MemoryQueue] = {}
        #: The holders of turns, and when these end.
        self._turns: dict[str, tuple[str, float]] = {}

    @abstractmethod
    def _check_running(self) -> None:
        """Raise ``Unavailable`` if the broker is not running."""

    def queue(self, name: str) -> MemoryQueue:
        """See ``Broker``."""
        if name not in self._queues:
            self._queues[name] = MemoryQueue(name, self._queue_limits, self._clock, self._check_running)
        return self._queues[name]

    async def take_turn(self, name: str, holder: str, seconds: float) -> float:
        """See ``Broker``."""
        self._check_running()
        now = self._clock()
        current, end = self._turns.get(name, (holder, 0.0))
        if current != holder and end > now:
            return end - now
        self._turns[name] = (holder, now + seconds)
        return 0.0

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
            self._claims.put(key, answer, now, self._key_ttl, force=True)  # there was space for its claim

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
        self._revocations.revoke_all(user_id, before, ttl)

    async def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """See ``Broker``. Revocations do not survive a restart of the process."""
        self._check_running()
        self._revocations.revoke_one(user_id, token_id, ttl)

    async def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """See ``Broker``."""
        self._check_running()
        return self._revocations.is_revoked(user_id, issued, token_id)
