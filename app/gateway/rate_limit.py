"""The limit on messages per second of one client: a leaky bucket whose state is two numbers in the ``Client``."""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

#: The size of a burst: the messages of this many seconds. A client that sends as many again in excess is closed.
BURST_SECONDS: Final = 5


class RateLimited(Protocol):
    """The state of one client. ``client.Client`` has it in its slots."""

    #: The loop time up to which the client's rate is used up; it is in the future after a burst.
    rate_used_until: float
    #: Refused messages since the client last had no burst to make up for.
    excess_messages: int


class Verdict(Enum):
    """What to do with a message."""

    ALLOW = "allow"
    REFUSE = "refuse"
    CLOSE = "close"


class RateLimit:
    """Allows ``rate`` messages a second for each client, in bursts of ``BURST_SECONDS`` times that. 0 is no limit."""

    def __init__(self, rate: int) -> None:
        self.rate: Final = rate
        self._interval: Final = 1 / rate if rate else 0.0

    def check(self, client: RateLimited, now: float) -> Verdict:
        """Count a message of ``client`` at the loop time ``now``; return what to do with it."""
        interval = self._interval
        if not interval:
            return Verdict.ALLOW
        if client.rate_used_until <= now:
            client.rate_used_until = now
            client.excess_messages = 0
        if client.rate_used_until - now <= BURST_SECONDS:
            client.rate_used_until += interval
            return Verdict.ALLOW
        client.excess_messages += 1
        return Verdict.CLOSE if client.excess_messages > BURST_SECONDS * self.rate else Verdict.REFUSE
