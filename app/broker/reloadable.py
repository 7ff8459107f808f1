"""The embedded broker of a server that is started again in the same process, as ``roomcast dev --reload`` does."""

from __future__ import annotations

from collections.abc import Mapping

from .event_log import LogLimits
from .memory import MemoryBroker
from .room_types import HistoryLimits, PerRoomType


class ReloadableBroker(MemoryBroker):
    """A broker whose histories survive ``close`` and the next ``start``.

    Event ids, marks, idempotency keys, tickets and revocations survive too, so that clients resume as after a lost
    connection. Connections, presence and subscriptions do not: they end with the server.
    """

    _has_state = False

    def _clear(self) -> None:
        if self._has_state:
            self._subscribed = {}
            self._clear_users(self._last_seen_ttl, self._announcements)
        else:
            super()._clear()
            self._has_state = True

    def use_limits(self, history_by_type: Mapping[str, HistoryLimits]) -> None:
        """Use other limits for the types of rooms, also for the histories that exist."""
        default = self._limits.default
        by_type = {type: LogLimits(*limits, default.max_bytes) for type, limits in history_by_type.items()}
        self._limits = PerRoomType(default, by_type)
        for room, log in self._logs.items():
            log.limits = self._limits.of(room)
