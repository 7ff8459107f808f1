"""The built-in rule for joining rooms, which ``ROOM_ACCESS`` selects.

With ``claims``, the token's ``rooms`` claim decides; with ``open``, all rooms are open; otherwise a URL decides. The
rule fails closed, but a failed check is not a no: it raises ``Unavailable``, and the client may ask again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ..settings import Settings
from .access_url import AccessUrl
from .identity import Identity

#: The maximum number of cached decisions. One takes about 300 bytes.
MAX_CACHED: Final = 10_000
#: The maximum number of requests that the URL receives at once. More connections do not make most backends faster.
MAX_REQUESTS: Final = 100
#: How long the slot of a request that failed stays taken, in seconds. Clients repeat failed joins; this limits them to
#: 500 requests a second, which take 15% of a core on this node and let the backend recover.
FAILURE_PAUSE: Final = 0.2
#: The maximum number of checks that run or wait for their turn. Further ones fail at once.
MAX_CHECKS: Final = 10_000

#: A user id and a room.
_Key = tuple[int | str, str]


class _Check:
    """A check that is not decided yet. All callers that need the same decision wait for one check.

    ``callers`` is their number. ``is_sent`` is True if the check no longer waits for its turn.
    """

    __slots__ = ("callers", "is_sent", "task")

    task: asyncio.Task[bool]

    def __init__(self) -> None:
        self.callers = 0
        self.is_sent = False


class RoomAccess:
    """Decides whether users may join rooms. Call ``start`` on the event loop before use, and ``close`` at the end."""

    def __init__(self, settings: Settings) -> None:
        self._mode: Final = settings.room_access if settings.room_access in ("claims", "open") else "url"
        self._cache_seconds: Final = settings.room_access_cache
        self._url: Final = AccessUrl(settings)
        #: Decisions of the URL with the monotonic time at which each expires, oldest first.
        self._cache: Final[dict[_Key, tuple[float, bool]]] = {}
        self._checks: Final[dict[_Key, _Check]] = {}
        self._slots: Final = asyncio.Semaphore(MAX_REQUESTS)
        #: True if the last request failed.
        self._is_failing = False

    @property
    def failed_checks(self) -> int:
        """The number of checks in which the URL did not decide."""
        return self._url.failures.total

    @property
    def unfinished_checks(self) -> int:
        """The number of checks that run or wait for their turn."""
        return len(self._checks)

    def use_keys(self, settings: Settings) -> None:
        """Sign requests to the URL with the secrets in ``settings`` from now on."""
        self._url.use_keys(settings)

    async def start(self) -> None:
        """Create the HTTP client if ``ROOM_ACCESS`` is a URL."""
        if self._mode == "url":
            await self._url.start()

    async def close(self) -> None:
        """Close the connections to the URL. Checks that are running fail."""
        await self._url.close()
        await asyncio.gather(*(check.task for check in self._checks.values()), return_exceptions=True)

    def decide(self, identity: Identity, room: str) -> bool | None:
        """Return True if ``identity`` may join ``room``, None if only the URL can decide: then call ``allows``."""
        if room.startswith("user:"):
            return False
        if self._mode == "claims":
            return identity.allows(room)
        if self._mode == "open":
            return True
        cached = self._cache.get((identity.user_id, room))
        return cached[1] if cached and cached[0] > time.monotonic() else None

    def claims_allow(self, identity: Identity, room: str) -> bool:
        """Return True if the token of ``identity`` covers ``room``, or if all rooms are open."""
        return self._mode == "open" or identity.allows(room)

    async def allows(self, identity: Identity, room: str) -> bool:
        """Return True if ``identity`` may join ``room``. Callers that need the same decision share one check.

        Raises ``Unavailable`` if the URL does not decide, or too many checks wait for it. While the URL fails, checks
        do not wait, because a client's other commands wait for its join.
        """
        if (decision := self.decide(identity, room)) is not None:
            return decision
        key = (identity.user_id, room)
        check = self._checks.get(key) or self._start_check(key, identity, room)
        check.callers += 1
        try:
            await asyncio.wait((check.task,))  # which, unlike `await check.task`, does not cancel it for all callers
        finally:
            check.callers -= 1
            if not check.callers and not check.is_sent:
                self._checks.pop(key, None)
                check.task.cancel()
        return check.task.result()

    def _start_check(self, key: _Key, identity: Identity, room: str) -> _Check:
        if len(self._checks) >= MAX_CHECKS:
            raise self._url.failed(room, f"{MAX_CHECKS} checks wait for it already")
        if self._is_failing and self._slots.locked():
            raise self._url.failed(room, "its last answer was a failure, and it has enough requests")
        check = self._checks[key] = _Check()
        check.task = asyncio.create_task(self._perform(check, identity, room))
        check.task.add_done_callback(lambda _: self._finish(key, check))
        return check

    async def _perform(self, check: _Check, identity: Identity, room: str) -> bool:
        """Wait for a free slot, and return the decision of the URL. The wait does not count against the timeout."""
        await self._slots.acquire()
        check.is_sent = True
        try:
            decision = await self._url.ask(identity, room)
        except BaseException:
            self._is_failing = True
            asyncio.get_running_loop().call_later(FAILURE_PAUSE, self._slots.release)
            raise
        self._is_failing = False
        self._slots.release()
        self._store((identity.user_id, room), decision)
        return decision

    def _finish(self, key: _Key, check: _Check) -> None:
        if self._checks.get(key) is check:
            del self._checks[key]
        if not check.task.cancelled():
            check.task.exception()  # so that asyncio does not log it if no caller waits any more

    def _store(self, key: _Key, decision: bool) -> None:
        """Cache a decision; remove those that have expired, and the oldest if there are too many."""
        now = time.monotonic()
        self._cache.pop(key, None)
        self._cache[key] = (now + self._cache_seconds, decision)
        while len(self._cache) > MAX_CACHED or next(iter(self._cache.values()))[0] < now:
            del self._cache[next(iter(self._cache))]
