"""The options of the broker on Redis, and the values derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
    #: How long the ids of a room are valid after its last event, in seconds. Never shorter than ``history_ttl``.
    id_ttl: float = ID_TTL

    @property
    def stream_size(self) -> int:
        """The number of events in a room's stream."""
        return max(self.history_size, MIN_STREAM_SIZE)

    @property
    def history_ttl_ms(self) -> int:
        """``history_ttl`` in milliseconds."""
        return max(int(self.history_ttl * 1000), 1)

    @property
    def room_ttl_ms(self) -> int:
        """How long a room's epochs and offset outlive its last event or check, in milliseconds."""
        return max(self.history_ttl_ms, int(self.id_ttl * 1000), int(QUIET_CHECK_INTERVAL * 3000))

    @property
    def extension_ms(self) -> int:
        """How much longer a room's keys may live, so that their expiry is extended only this often, in ms."""
        return max(self.history_ttl_ms, int(QUIET_CHECK_INTERVAL * 3000)) // 4
