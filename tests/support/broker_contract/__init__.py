"""The contract of every broker: inherit ``BrokerContract`` in a test module, and define a fixture ``harness``."""

from __future__ import annotations

from .announcements import AnnouncementContract
from .events import HistoryContract, PublishContract, SubscribeContract
from .harness import (
    HISTORY_BYTES,
    HISTORY_SIZE,
    HISTORY_TTL,
    OTHER,
    ROOM,
    Harness,
    ManualClock,
    RecordingListener,
    not_ids,
    split,
)
from .lifecycle import CALLS, LifecycleContract
from .pages import PageContract
from .state import ClaimContract, LeaseContract, PresenceContract, RevocationContract

__all__ = [
    "CALLS",
    "HISTORY_BYTES",
    "HISTORY_SIZE",
    "HISTORY_TTL",
    "OTHER",
    "ROOM",
    "BrokerContract",
    "Harness",
    "ManualClock",
    "RecordingListener",
    "not_ids",
    "split",
]


class BrokerContract(
    PublishContract,
    SubscribeContract,
    HistoryContract,
    PageContract,
    LeaseContract,
    PresenceContract,
    AnnouncementContract,
    ClaimContract,
    RevocationContract,
    LifecycleContract,
):
    """The whole contract. ``harness`` has a new broker with the HISTORY_* values as options, closed afterwards."""
