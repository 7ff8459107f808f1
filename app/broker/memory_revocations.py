"""The revoked tokens of users in the embedded broker."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from .base import UserId
from .expiring import ExpiringDict


class MemoryRevocations:
    """The revocations of tokens. ``clock`` is in seconds, ``limit`` is the size of all entries in bytes."""

    def __init__(self, clock: Callable[[], float], limit: int) -> None:
        self._clock: Final = clock
        #: By user and token, or by user and "" for all tokens from before a time.
        self.entries: Final[ExpiringDict[tuple[str, str], float]] = ExpiringDict(limit)

    def revoke_all(self, user_id: UserId, before: float, ttl: float) -> None:
        """See ``Broker.revoke_all``."""
        now = self._clock()
        key = (str(user_id), "")
        self.entries.put(key, max(before, self.entries.get(key, now) or before), now, ttl)

    def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """See ``Broker.revoke_one``."""
        self.entries.put((str(user_id), token_id), inf, self._clock(), ttl)

    def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """See ``Broker.is_revoked``."""
        if not self.entries.size:
            return False
        now = self._clock()
        user = str(user_id)
        before = self.entries.get((user, ""), now)
        if before is not None and (issued is None or issued < before):
            return True
        return token_id is not None and self.entries.get((user, token_id), now) is not None
