"""Who may enter a room by the built-in rule: what ``ROOM_ACCESS`` says.

``claims`` and ``open`` are decided on the spot. A URL is sent ``{"user": {"user_id", "username"}, "room"}`` by POST and
answers 200 or 403; whatever else happens is a no: this fails closed.
"""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp
import orjson
from yarl import URL

from ..settings import Settings
from .identity import Identity

logger = logging.getLogger("roomcast.access")

#: Answers kept at most, about 300 bytes each.
MAX_ANSWERS = 10_000

#: The least time between two warnings about a URL that does not answer, in seconds.
WARNING_INTERVAL = 60.0

Question = tuple[int | str, str]


class RoomAccess:
    """The built-in rule for rooms. ``start`` it on the event loop before use, and ``close`` it in the end."""

    def __init__(self, settings: Settings) -> None:
        self._mode = settings.room_access if settings.room_access in ("claims", "open") else "url"
        self._url = URL(settings.room_access)
        self._timeout = aiohttp.ClientTimeout(total=settings.room_access_timeout)
        self._keep = settings.room_access_cache
        self._session: aiohttp.ClientSession | None = None
        # Oldest first, for all answers are kept equally long.
        self._answers: dict[Question, tuple[float, bool]] = {}
        self._asking: dict[Question, asyncio.Task[bool]] = {}
        self._failures = 0
        self._quiet_until = 0.0

    async def start(self) -> None:
        """Make ready to ask the URL, if there is one."""
        if self._mode == "url":
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )

    async def close(self) -> None:
        """Let go of the connections to the URL; questions under way are answered no, within the timeout."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await asyncio.gather(*self._asking.values())

    def decide(self, identity: Identity, room: str) -> bool | None:
        """Whether ``identity`` may enter ``room``, or None when the URL must be asked (with ``allows``)."""
        if room.startswith("user:"):
            return False
        if self._mode == "claims":
            return identity.allows(room)
        if self._mode == "open":
            return True
        answer = self._answers.get((identity.user_id, room))
        return answer[1] if answer and answer[0] > time.monotonic() else None

    def claims_allow(self, identity: Identity, room: str) -> bool:
        """Return True if the token of ``identity`` covers ``room``, or if all rooms are open."""
        return self._mode == "open" or identity.allows(room)

    async def allows(self, identity: Identity, room: str) -> bool:
        """Whether ``identity`` may enter ``room``; asks the URL if it must, once for equal questions at a time."""
        if (decision := self.decide(identity, room)) is not None:
            return decision
        question = (identity.user_id, room)
        task = self._asking.get(question)
        if task is None:
            task = self._asking[question] = asyncio.create_task(self._ask(identity, room))
            task.add_done_callback(lambda _: self._asking.pop(question))
        # One who gives up must not cancel the question of the others.
        return await asyncio.shield(task)

    async def _ask(self, identity: Identity, room: str) -> bool:
        try:
            status = await self._post(identity, room)
        except TimeoutError:
            return self._failed(f"it did not answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return self._failed(str(error) or type(error).__name__)
        if status not in (200, 403):
            return self._failed(f"it answered {status}, neither 200 nor 403")
        self._remember((identity.user_id, room), status == 200)
        return status == 200

    async def _post(self, identity: Identity, room: str) -> int:
        if self._session is None:
            raise aiohttp.ClientConnectionError("roomcast is shutting down")
        user = {"user_id": identity.user_id, "username": identity.username}
        async with self._session.post(
            self._url,
            data=orjson.dumps({"user": user, "room": room}),
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        ) as response:
            # Nothing in the body counts; a short one is read so that the connection can be used again.
            await response.content.read(1024)
            return response.status

    def _remember(self, question: Question, answer: bool) -> None:
        now = time.monotonic()
        self._answers.pop(question, None)
        self._answers[question] = (now + self._keep, answer)
        while len(self._answers) > MAX_ANSWERS or next(iter(self._answers.values()))[0] < now:
            del self._answers[next(iter(self._answers))]

    def _failed(self, reason: str) -> bool:
        """Note a question without an answer, and return the answer it has: no."""
        self._failures += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            logger.warning(
                "ROOM_ACCESS cannot be asked at %s: %s; %d refused for it since the last such line",
                self._url.origin(),
                reason,
                self._failures,
            )
            self._failures = 0
            self._quiet_until = now + WARNING_INTERVAL
        return False
