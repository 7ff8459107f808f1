"""The limits on what clients send: messages per second of one connection, bytes per second of one user.

Both are leaky buckets. The state of the first is two numbers in the ``Client``. A user has one bucket of bytes for all
its connections on this node, and a connection takes its bytes from there in portions. Most messages therefore cost one
subtraction, without reading the clock or the user's bucket.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

from ..auth.identity import Identity
from ..errors import Refused

#: The size of a burst: the messages of this many seconds. A client that sends as many again in excess is closed.
BURST_SECONDS: Final = 5
#: The size of a burst of bytes, in seconds. It is short, because all members of a room receive what one of them sends:
#: even if they read slowly, the burst must be less than the ``WS_MAX_BUFFER`` bytes that may wait for them.
BYTE_BURST_SECONDS: Final = 1
#: A connection is closed when its user has sent the bytes of this many seconds in excess.
BYTE_EXCESS_SECONDS: Final = 4
#: What each frame costs besides its payload, in bytes. Otherwise empty frames would cost nothing.
FRAME_COST: Final = 128
#: What a refused message or ping costs in addition: its answer takes as long as handling some messages.
REFUSAL_COST: Final = 1024
#: What ``refresh_token`` costs in addition: to verify a token takes 40 us with HS256 and 0.6 ms with ES512.
TOKEN_COST: Final = 16_384
#: The bytes of a new connection. They are enough to join a room, so that idle users need no bucket.
_INITIAL_BYTES: Final = 512
#: Below 2**60, because Python calculates with larger integers more slowly.
_UNLIMITED_BYTES: Final = 1 << 59


class RateLimited(Protocol):
    """The state of one client. ``client.Client`` has it in its slots."""

    #: The loop time up to which the client's rate is used up; it is in the future after a burst.
    rate_used_until: float
    #: Refused messages since the client last had no burst to make up for.
    excess_messages: int


class ByteRateLimited(Protocol):
    """The state of one client. ``client.Client`` has it in its slots."""

    #: The user whose bucket it is.
    identity: Identity
    #: The bytes that the client may send before it must take more from the bucket of its user.
    bytes_left: int


class Verdict(Enum):
    """What to do with a message."""

    ALLOW = "allow"
    REFUSE = "refuse"
    CLOSE = "close"


# Python 3.11 needs 0.2 us to read a member of an enum from its class, and every message needs one.
_ALLOW: Final = Verdict.ALLOW


class RateLimit:
    """Allows ``rate`` messages a second for each client, in bursts of ``BURST_SECONDS`` times that. 0 is no limit."""

    def __init__(self, rate: int) -> None:
        self.rate: Final = rate
        self._interval: Final = 1 / rate if rate else 0.0

    def check(self, client: RateLimited, now: float) -> Verdict:
        """Count a message of ``client`` at the loop time ``now``; return what to do with it."""
        interval = self._interval
        if not interval:
            return _ALLOW
        if client.rate_used_until <= now:
            client.rate_used_until = now
            client.excess_messages = 0
        if client.rate_used_until - now <= BURST_SECONDS:
            client.rate_used_until += interval
            return _ALLOW
        client.excess_messages += 1
        return Verdict.CLOSE if client.excess_messages > BURST_SECONDS * self.rate else Verdict.REFUSE

    def refusal(self) -> Refused:
        """Return the answer to a refused message."""
        return Refused("rate_limited", f"More than {self.rate} messages a second; slow down, or be closed with 4429.")


class ByteRate:
    """Allows ``rate`` bytes a second for each user, in bursts of ``BYTE_BURST_SECONDS`` times that. 0 is no limit.

    Every frame of a user costs its payload and ``FRAME_COST``, every event that a command of the user publishes its
    size, and every answer that the limits are exceeded ``REFUSAL_COST``. The caller subtracts this from ``bytes_left``
    of the client, and calls ``take`` when that is negative. A bucket is kept until it is empty, so reconnecting does
    not help. ``largest`` is the maximum size of a message, which is allowed at any rate.
    """

    def __init__(self, rate: int, largest: int) -> None:
        self.rate: Final = rate
        #: ``bytes_left`` of a new connection.
        self.initial: Final = _INITIAL_BYTES if rate else _UNLIMITED_BYTES
        #: How many bytes a connection takes at once, beyond those that it needs: those of 16 ms.
        self._portion: Final = rate // 64
        # Fills of a bucket, in seconds. Events are allowed up to the first one, so that an event is allowed if its
        # message was. Events fill the bucket up to the second one. Above the third one connections are closed.
        size = largest / (rate or 1)
        self._event_limit: Final = BYTE_BURST_SECONDS + size
        self._full: Final = BYTE_BURST_SECONDS + 2 * size
        self._too_full: Final = self._full + BYTE_EXCESS_SECONDS
        #: The loop times at which the buckets of users are empty. Those in ``_older`` were not used for so long that
        #: they are empty when ``_older`` is replaced.
        self._empty_at: dict[int | str, float] = {}
        self._older: dict[int | str, float] = {}
        self._replaced_at = 0.0

    def __len__(self) -> int:
        """The number of users whose buckets are kept."""
        return len(self._empty_at.keys() | self._older.keys())

    def take(self, client: ByteRateLimited, now: float) -> Verdict:
        """Put the bytes that ``client`` used into its user's bucket, and a portion if the rate allows more.

        Return what to do with the last frame. ``now`` is the loop time.
        """
        fill = self._fill(client, now)
        is_allowed = fill <= BYTE_BURST_SECONDS
        filled = self._put(client, now, fill, self._too_full, self._portion if is_allowed else 0)
        if is_allowed:
            return Verdict.ALLOW
        return Verdict.CLOSE if filled > self._too_full else Verdict.REFUSE

    def take_for_event(self, client: ByteRateLimited, now: float) -> bool:
        """Do the same as ``take`` after an event; return True if it is allowed. Events close no connection."""
        fill = self._fill(client, now)
        self._put(client, now, fill, self._full, 0)
        return fill <= self._event_limit

    def refusal(self) -> Refused:
        """Return the answer to a refused message or event."""
        what = f"More than {self.rate} bytes a second on all connections of this user"
        return Refused("rate_limited", f"{what}; slow down, or be closed with 4429.")

    def _fill(self, client: ByteRateLimited, now: float) -> float:
        """Return the fill of the bucket of the client's user, in seconds."""
        user_id = client.identity.user_id
        return max(0.0, (self._empty_at.get(user_id) or self._older.get(user_id, 0.0)) - now)

    def _put(self, client: ByteRateLimited, now: float, fill: float, most: float, portion: int) -> float:
        """Add the bytes that ``client`` used, and its ``portion``, to the ``fill`` of its bucket, up to ``most``.

        Return what the fill would be without that bound.
        """
        filled = fill + (portion - client.bytes_left) / self.rate
        client.bytes_left = portion
        self._empty_at[client.identity.user_id] = now + max(fill, min(filled, most))
        return filled

    def forget_empty(self, now: float) -> None:
        """Forget buckets that are empty. Call it about every second; ``now`` is the loop time."""
        if now - self._replaced_at > self._too_full:
            self._replaced_at = now
            self._older, self._empty_at = self._empty_at, {}
