"""The options of the broker on Redis, and the values derived from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..base import KEY_TTL, LAST_SEEN_TTL
from ..queue import QueueLimits
from ..read_marks import READ_TTL
from ..room_types import HistoryLimits, PerRoomType

#: A room without events is compared with its stream this often, in seconds.
QUIET_CHECK_INTERVAL: Final = 20.0
#: How long the ids of a room are valid after its last event, in seconds: a week, so that clients may return after a
#: holiday. A room takes 0.2 KB for that.
ID_TTL: Final = 7 * 24 * 3600.0
#: Grace period after Redis may have lost data, because it was restarted or could not be reached for long, in seconds.
#: All nodes reconnect within about a second. They write their leases, and new connections are refused meanwhile. They
#: report which events they have seen, and clients that resume from an id of before the restart wait.
GRACE_PERIOD: Final = 1.5
#: The minimum size of a stream, in events, because gaps are repaired from it. ``history`` may return fewer.
MIN_STREAM_SIZE: Final = 100
#: The limits of a queue: 100,000 entries, 256 MiB of payloads, 10,000 dead letters.
QUEUE_LIMITS: Final = QueueLimits(100_000, 256 * 2**20, 10_000)


class StreamLimits(NamedTuple):
    """The limits of a room: how many events ``history`` returns at most, and how long each is stored, in seconds."""

    history_size: int
    history_ttl: float

    @property
    def stream_size(self) -> int:
        """The number of events in the room's stream."""
        return max(self.history_size, MIN_STREAM_SIZE)

    @property
    def ttl_ms(self) -> int:
        """``history_ttl`` in milliseconds."""
        return max(int(self.history_ttl * 1000), 1)

    @property
    def extension_ms(self) -> int:
        """How much longer the stream may live, so that its expiry is extended only this often, in milliseconds."""
        return max(self.ttl_ms, int(QUIET_CHECK_INTERVAL * 3000)) // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """The options of a node's broker. All nodes on one Redis should have the same."""

    #: All keys and channels begin with it.
    prefix: str = "roomcast"
    #: How long the leases and members of a node outlive it if it dies, in seconds.
    lease: float = 30.0
    #: How long a publish waits for a server that cannot be reached, in seconds.
    wait: float = 5.0
    #: The limit for events that wait for Redis, in bytes.
    buffer: int = 16 * 2**20
    #: The silence after which a server counts as hung, in seconds.
    timeout: float = 3.0
    #: How many events of a room ``history`` returns at most.
    history_size: int = 500
    #: How many bytes the payloads of a room's history may have. The newest event is always stored.
    history_bytes: int = 2 * 2**20
    #: How long an event is stored, in seconds.
    history_ttl: float = 3600.0
    #: How long the marks of a user outlive the last one that was set, in seconds.
    read_ttl: float = READ_TTL
    #: How long the ids of a room are valid after its last event, in seconds. Never shorter than ``history_ttl``.
    id_ttl: float = ID_TTL
    #: How long ``UserStatus.last_seen`` is stored, in seconds; 0 stores no times of users.
    last_seen_ttl: float = LAST_SEEN_TTL

    #: How long an idempotency key is known, in seconds.
    key_ttl: float = KEY_TTL
    #: The limits of each queue.
    queue_limits: QueueLimits = QUEUE_LIMITS
    #: The types of rooms with another ``history_size`` or ``history_ttl``.
    history_by_type: Mapping[str, HistoryLimits] = field(default_factory=dict)

    @property
    def limits(self) -> PerRoomType[StreamLimits]:
        """The limits of rooms, by their type."""
        by_type = {type: StreamLimits(*limits) for type, limits in self.history_by_type.items()}
        return PerRoomType(StreamLimits(self.history_size, self.history_ttl), by_type)

    @property
    def room_ttl_ms(self) -> int:
        """How long a room's epochs and offset outlive its last event or check, in milliseconds."""
        longest = max(limits.ttl_ms for limits in self.limits)
        return max(longest, int(self.id_ttl * 1000), int(QUIET_CHECK_INTERVAL * 3000))

    @property
    def key_ttl_ms(self) -> int:
        """``key_ttl`` in milliseconds."""
        return max(int(self.key_ttl * 1000), 1)

    @property
    def read_ttl_ms(self) -> int:
        """``read_ttl`` in milliseconds."""
        return max(int(self.read_ttl * 1000), 1)

    @property
    def message_room_ttl_ms(self) -> int:
        """The same as ``room_ttl_ms`` for a room that has had messages. Marks refer to its epochs and its count."""
        return max(self.room_ttl_ms, self.read_ttl_ms)

    @property
    def extension_ms(self) -> int:
        """How much longer the epochs and the offset of a room may live, in milliseconds (see ``StreamLimits``)."""
        return max(limits.extension_ms for limits in self.limits)
