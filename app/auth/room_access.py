"""The built-in rule for joining rooms, which ``ROOM_ACCESS`` selects.

With ``claims``, the token's ``rooms`` claim decides; with ``open``, all rooms are open. A URL receives
``{"user": {"user_id", "username"}, "room"}`` by POST and responds with 200 or 403. The rule fails closed: any other
response, and none, refuses the join.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import aiohttp
import orjson
from yarl import URL

from ..settings import Settings
from .identity import Identity

logger = logging.getLogger("roomcast.access")

#: The maximum number of cached decisions. One takes about 300 bytes.
MAX_CACHED: Final = 10_000

#: The least time between two warnings about a URL that fails, in seconds.
WARNING_INTERVAL: Final = 60.0

#: A user id and a room.
_Key = tuple[int | str, str]


class RoomAccess:
    """Decides whether users may join rooms. Call ``start`` on the event loop before use, and ``close`` at the end."""

    def __init__(self, settings: Settings) -> None:
        self._mode: Final = settings.room_access if settings.room_access in ("claims", "open") else "url"
        self._url: Final = URL(settings.room_access)
        self._timeout: Final = aiohttp.ClientTimeout(total=settings.room_access_timeout)
        self._cache_seconds: Final = settings.room_access_cache
        self._session: aiohttp.ClientSession | None = None
        #: Decisions of the URL with the monotonic time at which each expires, oldest first.
        self._cache: Final[dict[_Key, tuple[float, bool]]] = {}
        #: The requests that are running.
        self._requests: Final[dict[_Key, asyncio.Task[bool]]] = {}
        #: The number of failed requests since the last warning, and when the next warning is allowed.
        self._failures = 0
        self._next_warning = 0.0

    async def start(self) -> None:
        """Create the HTTP client if ``ROOM_ACCESS`` is a URL."""
        if self._mode == "url":
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )

    async def close(self) -> None:
        """Close the connections to the URL. Running requests end within the timeout and refuse their joins."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await asyncio.gather(*self._requests.values())

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
        """Return True if ``identity`` may join ``room``. Callers that need the same decision share one request."""
        if (decision := self.decide(identity, room)) is not None:
            return decision
        key = (identity.user_id, room)
        request = self._requests.get(key)
        if request is None:
            request = self._requests[key] = asyncio.create_task(self._request(identity, room))
            request.add_done_callback(lambda _: self._requests.pop(key))
        # A caller that is cancelled must not cancel the request of the others.
        return await asyncio.shield(request)

    async def _request(self, identity: Identity, room: str) -> bool:
        """Return the decision of the URL, and cache it; return False if the request fails."""
        try:
            status = await self._post(identity, room)
        except TimeoutError:
            return self._fail(f"it did not answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return self._fail(str(error) or type(error).__name__)
        if status not in (200, 403):
            return self._fail(f"it answered {status}, neither 200 nor 403")
        self._store((identity.user_id, room), status == 200)
        return status == 200

    async def _post(self, identity: Identity, room: str) -> int:
        """Send the request and return the status of the response."""
        if self._session is None:
            raise aiohttp.ClientConnectionError("roomcast is shutting down")
        user = {"user_id": identity.user_id, "username": identity.username}
        async with self._session.post(
            self._url,
            data=orjson.dumps({"user": user, "room": room}),
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        ) as response:
            # The body is ignored. A short one is read, because aiohttp then keeps the connection for the next request.
            await response.content.read(1024)
            return response.status

    def _store(self, key: _Key, decision: bool) -> None:
        """Cache a decision; remove those that have expired, and the oldest if there are too many."""
        now = time.monotonic()
        self._cache.pop(key, None)
        self._cache[key] = (now + self._cache_seconds, decision)
        while len(self._cache) > MAX_CACHED or next(iter(self._cache.values()))[0] < now:
            del self._cache[next(iter(self._cache))]

    def _fail(self, reason: str) -> bool:
        """Count a failed request, log a warning if the last was long ago, and return the decision: False."""
        self._failures += 1
        now = time.monotonic()
        if now >= self._next_warning:
            logger.warning(
                "ROOM_ACCESS cannot be asked at %s: %s; %d joins refused since the last such warning",
                self._url.origin(),
                reason,
                self._failures,
            )
            self._failures = 0
            self._next_warning = now + WARNING_INTERVAL
        return False
