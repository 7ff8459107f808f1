"""The contract of every broker: inherit ``BrokerContract`` in a test module, and define a fixture ``harness``."""

from __future__ import annotations

from .announcements import AnnouncementContract
from .broadcasts import BroadcastContract
from .events import HistoryContract, PublishContract, SubscribeContract
from .followed import FollowedContract
from .harness import (
    ANNOUNCEMENTS,
    HISTORY_BY_TYPE,
    HISTORY_BYTES,
    HISTORY_SIZE,
    HISTORY_TTL,
    OTHER,
    QUEUE_LIMITS,
    ROOM,
    Harness,
    ManualClock,
    RecordingListener,
    not_ids,
    split,
)
from .lifecycle import CALLS, LifecycleContract
from .marks import MarkContract
from .members import MemberListContract, MemberStatusContract
from .pages import PageContract
from .queues import QueueContract
from .room_types import RoomTypeContract
from .state import ClaimContract, LeaseContract, PresenceContract, RevocationContract
from .status import QuestionContract, StatusContract
from .turns import TurnContract

__all__ = [
    "ANNOUNCEMENTS",
    "CALLS",
    "HISTORY_BYTES",
    "HISTORY_BY_TYPE",
    "HISTORY_SIZE",
    "HISTORY_TTL",
    "OTHER",
    "QUEUE_LIMITS",
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
    BroadcastContract,
    HistoryContract,
    PageContract,
    MarkContract,
    RoomTypeContract,
    FollowedContract,
    LeaseContract,
    StatusContract,
    QuestionContract,
    PresenceContract,
    AnnouncementContract,
    ClaimContract,
    RevocationContract,
    TurnContract,
    QueueContract,
    LifecycleContract,
    MemberListContract,
    MemberStatusContract,
):
    """The whole contract. ``harness`` has a new broker with the HISTORY_* values as options, closed afterwards."""
