"""Keep one connection to a server open: reconnect with back-off and jitter whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ...backoff import Backoff, wait_at_most
from ...errors import Unavailable
from .connection import RedisConnection
from .topology import Address, ServerName

log = logging.getLogger("roomcast.redis")

#: The first pause before a reconnect and the longest one, in seconds. Up to half of each is random.
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
#: After a connection that lasted this long, in seconds, the first pause is used again.
STABLE_AFTER: Final = 2.0

#: Receives a connection that was lost and the reason.
OnLost = Callable[[RedisConnection, str], None]
#: Connects to an address, and reports the loss of the connection to the given function.
Connect = Callable[[Address | None, OnLost], Awaitable[RedisConnection]]
#: Connects to an address, and reports pushes and the loss of the connection to the given functions.
OpenConnection = Callable[[Address | None, Callable[[list[Any]], None], OnLost], Awaitable[RedisConnection]]


def format_name(name: ServerName) -> str:
    """Return a server's name as text."""
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"


class ReconnectingConnection:
    """A connection to the server ``name`` that is made again whenever it is lost.

    ``connection`` is the current one. If it is None, ``reason`` is the reason. ``find_address`` returns the server's
    address before each attempt, and ``connect`` connects to it. ``on_up`` and ``on_down`` are called for each change.
    ``purpose`` is shown in log lines.
    """

    def __init__(
        self,
        name: ServerName,
        purpose: str,
        find_address: Callable[[ServerName], Address | None],
        connect: Connect,
        on_up: Callable[[RedisConnection], None],
        on_down: OnLost,
    ) -> None:
        self.name: Final = name
        self.connection: RedisConnection | None = None
        self.reason = "not connected yet"
        self._purpose: Final = purpose
        self._find_address: Final = find_address
        self._connect: Final = connect
        self._address: Address | None = None
        self._on_up: Final = on_up
        self._on_down: Final = on_down
        self._is_lost: Final = asyncio.Event()
        self._skip_pause: Final = asyncio.Event()
        self._task: Final = asyncio.create_task(self._run(), name=f"roomcast redis {format_name(name)} {purpose}")

    async def close(self) -> None:
        """Close the connection and stop reconnecting. ``on_down`` is not called."""
        self._task.cancel()
        await asyncio.wait([self._task])
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.flush()
            connection.abort("closed by this node")

    def update_address(self, address: Address | None) -> None:
        """Drop the connection if the server is at another address now, and reconnect without a pause."""
        if self._address not in (None, address):
            self._skip_pause.set()
            if self.connection is not None:
                self.connection.abort("it is not the primary any more")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0.5)
        is_reported = False
        while True:
            try:
                self._address = self._find_address(self.name)
                connection = await self._connect(self._address, self._lost)
            except Unavailable as error:
                self.reason = error.detail
            except Exception as error:  # for example an invalid address; it must not end the attempts
                self.reason = f"{type(error).__name__}: {error}"
                if not is_reported:
                    log.exception("Connecting to Redis at %s (%s) failed", format_name(self.name), self._purpose)
            else:
                connected_at, self.connection, self.reason = loop.time(), connection, ""
                if is_reported:
                    log.info("Redis at %s is back (%s)", format_name(self.name), self._purpose)
                    is_reported = False
                self._is_lost.clear()
                self._on_up(connection)
                await self._is_lost.wait()
                if loop.time() - connected_at > STABLE_AFTER:
                    backoff.reset()
            if not is_reported:
                is_reported = True
                name = format_name(self.name)
                log.warning("Redis at %s cannot be reached (%s): %s", name, self._purpose, self.reason)
            self._skip_pause.clear()
            await wait_at_most(self._skip_pause, backoff.next_pause())

    def _lost(self, connection: RedisConnection, reason: str) -> None:
        if connection is self.connection:
            self.connection, self.reason = None, reason
            self._on_down(connection, reason)
            self._is_lost.set()
