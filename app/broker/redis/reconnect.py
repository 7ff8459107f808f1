"""Keeps one link to a server open, for ever: connects again with back-off and jitter whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ...backoff import Backoff
from ...errors import Unavailable
from .connection import RedisConnection
from .topology import Address, Name

log = logging.getLogger("roomcast.redis")

#: The first pause before connecting again, and the longest, in seconds. Up to half of each is random.
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
#: A link that lived so long was a good one: the next pause is the first again.
GOOD: Final = 2.0

Lost = Callable[[RedisConnection, str], None]
#: Connects to an address; the link's loss is told to the function given.
Dial = Callable[[Address | None, Lost], Awaitable[RedisConnection]]


def spell(name: Name) -> str:
    """A server's name as people write it."""
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"


class ReconnectingConnection:
    """The link to the server ``name``: ``link``, or None and ``why``. ``up`` and ``down`` hear of each change.

    ``where`` tells its address, ``dial`` connects there. ``purpose`` is what the link is for, in log lines.
    """

    def __init__(
        self,
        name: Name,
        purpose: str,
        where: Callable[[Name], Address | None],
        dial: Dial,
        up: Callable[[RedisConnection], None],
        down: Lost,
    ) -> None:
        self.name: Final = name
        self.link: RedisConnection | None = None
        self.why = "not connected yet"
        self._purpose: Final = purpose
        self._where: Final = where
        self._dial: Final = dial
        self._address: Address | None = None
        self._up: Final = up
        self._down: Final = down
        self._gone: Final = asyncio.Event()
        self._hurry: Final = asyncio.Event()
        self._task: Final = asyncio.create_task(self._keep(), name=f"roomcast redis {spell(name)} {purpose}")

    async def close(self) -> None:
        """Let the link go and keep it no more; ``down`` is not called."""
        self._task.cancel()
        await asyncio.wait([self._task])
        link, self.link = self.link, None
        if link is not None:
            link.flush()
            link.abort("closed by this node")

    def mind(self, address: Address | None) -> None:
        """The server is at ``address`` now: let go of a link to where it was, and do not wait to connect there."""
        if self._address not in (None, address):
            self._hurry.set()
            if self.link is not None:
                self.link.abort("it is not the primary any more")

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        backoff, told = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0.5), False
        while True:
            try:
                self._address = self._where(self.name)
                link = await self._dial(self._address, self._lost)
            except Unavailable as error:
                self.why = str(error)
            except Exception as error:  # an address or an answer that nobody thought of: not the end of trying
                self.why = f"{type(error).__name__}: {error}"
                if not told:
                    log.exception("Connecting to Redis at %s (%s) failed", spell(self.name), self._purpose)
            else:
                begun, self.link, self.why = loop.time(), link, ""
                if told:
                    log.info("Redis at %s is back (%s)", spell(self.name), self._purpose)
                    told = False
                self._gone.clear()
                self._up(link)
                await self._gone.wait()
                if loop.time() - begun > GOOD:
                    backoff.reset()
            if not told:
                told = True
                log.warning("Redis at %s cannot be reached (%s): %s", spell(self.name), self._purpose, self.why)
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_pause()):
                    await self._hurry.wait()

    def _lost(self, link: RedisConnection, why: str) -> None:
        if link is self.link:
            self.link, self.why = None, why
            self._down(link, why)
            self._gone.set()
