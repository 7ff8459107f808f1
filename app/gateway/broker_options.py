"""The options of a broker: the limits of the room types, as plugins and settings say. Creates the embedded broker."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..broker.base import Announcements
from ..broker.memory import MemoryBroker
from ..broker.room_types import HistoryLimits
from ..registry import Registry
from ..room_options import PERSONAL
from ..settings import Settings


def history_limits(registry: Registry, settings: Settings) -> dict[str, HistoryLimits]:
    """Return the limits of the histories for the broker, by room type, without types that have those of the settings.

    Raises ``SettingsError`` if an option of a room type is wrong.
    """
    default = HistoryLimits(settings.history_size, settings.history_ttl)
    options = registry.room_options(settings)
    limits = {type: HistoryLimits(one.history_size, one.history_ttl) for type, one in options.items()}
    return {type: one for type, one in limits.items() if one != default}


def announcements(settings: Settings, registry: Registry) -> Announcements:
    """Return when joins and leaves are announced. Raises ``SettingsError`` as ``history_limits`` does."""
    default = settings.announce_max
    limits = {type: one.announce_max for type, one in registry.room_options(settings).items()}
    by_type = {type: one for type, one in limits.items() if one != default}
    followed = {hook.target for hook in registry.hooks if hook.kind in ("on_join", "on_leave")}
    if registry.hooks_of("on_online") or registry.hooks_of("on_offline"):
        # The members of a personal room tell if its user is online. That is not announced to clients.
        by_type[PERSONAL] = 0
        followed.add(PERSONAL)
    return Announcements(settings.presence_grace, default, by_type, frozenset(followed))


def embedded_broker(
    settings: Settings,
    registry: Registry,
    kind: type[MemoryBroker] = MemoryBroker,
    clock: Callable[[], float] = time.monotonic,
) -> MemoryBroker:
    """Return the broker that is used without ``REDIS_URL``. Raises ``SettingsError`` as ``history_limits`` does."""
    return kind(
        settings.history_size,
        settings.history_ttl,
        clock,
        history_bytes=settings.history_bytes,
        read_ttl=settings.read_ttl,
        last_seen_ttl=settings.last_seen_ttl,
        history_by_type=history_limits(registry, settings),
        key_ttl=settings.idempotency_ttl,
    )
