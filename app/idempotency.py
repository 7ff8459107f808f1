"""Carry out work once for each idempotency key, on all nodes together.

Used for commands with a ``key`` and for HTTP requests with an ``Idempotency-Key``. The broker stores the state: a claim
while the work runs, then the fingerprint of the request followed by the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

from .broker.base import CLAIM_GRACE, Broker, UserId
from .errors import RoomcastError, Unavailable

#: The size of a fingerprint in bytes. With 128 bits, two requests do not have the same one by chance, and an attacker
#: cannot find such a pair within the time for which a key is stored.
FINGERPRINT_SIZE: Final = 16
#: The pause between two checks of a repeated request whether the first one has ended, in seconds.
POLL_INTERVAL: Final = 0.05

#: The keys of how many seconds a user may use at once.
KEY_BURST: Final = 60.0
#: How many bytes of an answer count as one more key. A key takes about as much in the broker.
KEY_SIZE: Final = 512
#: ``KeyLimit`` drops users whose keys no longer count when it has this many users, and twice as many as it kept last.
_MIN_USERS: Final = 1000


class KeyReused(RoomcastError):
    """The key was used for another request."""


class InProgress(RoomcastError):
    """The first request with this key is still being carried out."""


class KeyLimit:
    """Limits how much of the broker's memory the keys of each user take.

    A user may use ``rate`` keys a second, and those of ``KEY_BURST`` seconds at once. So one node stores at most
    ``rate * (IDEMPOTENCY_TTL + KEY_BURST)`` keys of a user, or fewer if their answers are long. A command beyond the
    limit is refused, so that none is carried out without its key. ``clock`` returns seconds.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate: Final = rate
        self._clock: Final = clock
        #: The time up to which each user's rate is used up.
        self._used_until: dict[UserId, float] = {}
        self._max_users = _MIN_USERS

    def is_reached(self, user_id: UserId) -> bool:
        """Return True if the user may not use a new key now."""
        return self._used_until.get(user_id, 0.0) - self._clock() >= KEY_BURST

    def count(self, user_id: UserId, keys: int) -> None:
        """Count ``keys`` new keys of the user."""
        now = self._clock()
        if len(self._used_until) >= self._max_users:
            self._used_until = {user: until for user, until in self._used_until.items() if until > now}
            self._max_users = max(_MIN_USERS, 2 * len(self._used_until))
        self._used_until[user_id] = max(self._used_until.get(user_id, now), now) + keys / self.rate


def digest_of(key: str) -> str:
    """Return a key of fixed length for ``key``, which may be long. Different keys have different digests."""
    return fingerprint_of(key.encode()).hex()


def fingerprint_of(request: bytes) -> bytes:
    """Return the fingerprint by which a repeat of ``request`` is recognised."""
    return blake2b(request, digest_size=FINGERPRINT_SIZE).digest()


async def run_once(
    broker: Broker,
    key: str,
    fingerprint: bytes,
    work: Callable[[], Awaitable[bytes]],
    timeout: float,  # noqa: ASYNC109  # it bounds the work, not this function
    wait: float = 0.0,
) -> tuple[bool, bytes]:
    """Return (True, the answer of ``work``), or (False, the answer of its first run) for a repeated ``key``.

    ``timeout`` is how long the work may take, in seconds. A repeat waits up to ``wait`` seconds for the first run to
    end. If the work raises, its key is free again.

    Raises ``InProgress`` if the first run takes longer than ``wait``, ``KeyReused`` if it had another ``fingerprint``,
    ``Unavailable`` if the broker cannot be reached, and the exceptions of ``work``.
    """
    record = await _claim(broker, key, timeout + CLAIM_GRACE, wait)
    if record is not None:
        if not record.startswith(fingerprint):
            raise KeyReused(key)
        return False, record[FINGERPRINT_SIZE:]
    answer: bytes | None = None
    try:
        answer = await work()
    finally:
        # If the broker is unavailable now, the keys of the published events still prevent a second publication.
        with contextlib.suppress(Unavailable):
            await broker.settle(key, None if answer is None else fingerprint + answer)
    return True, answer


async def _claim(broker: Broker, key: str, ttl: float, wait: float) -> bytes | None:
    """Claim ``key`` and return None, or return the record of its first run."""
    deadline = asyncio.get_running_loop().time() + wait
    while not (claimed := await broker.claim(key, ttl)):
        # The first run may be on another node, so polling is the only way to find out that it ended.
        if asyncio.get_running_loop().time() >= deadline:
            raise InProgress(key)
        await asyncio.sleep(POLL_INTERVAL)
    return claimed if isinstance(claimed, bytes) else None
