"""Whether the servers accept the commands of this node, and when they do so again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ...backoff import Backoff
from ...errors import BrokerUnavailable, SettingsError, Unavailable
from .command_check import Refusal, describe_missing, describe_state, find_refusals
from .connection import RedisConnection
from .keys import Keys
from .reconnect import format_name
from .router import Router
from .topology import ServerName
from .urls import Target

log = logging.getLogger("roomcast.redis")

#: A server is checked at most this often, in seconds.
_INTERVAL: Final = 1.0
#: The first pause between the checks at the start, in seconds.
_FIRST_PAUSE: Final = 0.1


class RefusalMonitor:
    """Checks the servers when one of them has refused a command, and then each second until they accept all commands.

    ``problems`` has a sentence for each server and reason. ``on_end`` is called when a refusal has ended.
    """

    def __init__(self, router: Router, keys: Keys, target: Target, on_end: Callable[[], None]) -> None:
        self.problems: list[str] = []
        self._router: Final = router
        self._keys: Final = keys
        self._target: Final = target
        self._on_end: Final = on_end
        self._loop: Final = asyncio.get_running_loop()
        self._checked_at = float("-inf")
        self._check: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        router.on_refusal.append(self._watch)

    async def start(self, wait: float) -> None:
        """Check all servers. Raises ``SettingsError`` if the user of REDIS_URL lacks a right.

        Waits up to ``wait`` seconds for the end of other refusals, then raises ``Unavailable``.
        """
        deadline = self._loop.time() + wait
        backoff = Backoff(_FIRST_PAUSE, _INTERVAL)
        while True:
            refusals = await self._find_refusals()
            if missing := self._describe_missing(refusals):
                raise SettingsError(" ".join(missing))
            if not (problems := self._describe_states(refusals)):
                return
            if self._loop.time() > deadline:
                raise BrokerUnavailable(" ".join(problems))
            await asyncio.sleep(backoff.next_pause())

    async def close(self) -> None:
        """Stop checking."""
        tasks = [task for task in (self._watcher, self._check) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def check(self) -> None:
        """Raise ``Unavailable`` with ``problems`` if there are any. Calls within a second share one check."""
        if self._check is not None or self._loop.time() - self._checked_at >= _INTERVAL:
            await self._check_once()
        if self.problems:
            self._watch()
            raise BrokerUnavailable(" ".join(self.problems))

    async def _check_once(self) -> None:
        if self._check is None:
            self._check = self._loop.create_task(self._run_check(), name="roomcast redis check")
        await asyncio.shield(self._check)

    async def _run_check(self) -> None:
        try:
            refusals = await self._find_refusals()
            self.problems = [*self._describe_missing(refusals), *self._describe_states(refusals)]
            self._checked_at = self._loop.time()
        finally:
            self._check = None

    async def _find_refusals(self) -> list[tuple[str, list[Refusal]]]:
        """Return the refusals of each connected server, with its address."""
        connections = self._router.connections()
        found = await asyncio.gather(*[self._check_server(*each) for each in connections])
        return [(format_name(name), refusals) for (name, _), refusals in zip(connections, found, strict=True)]

    async def _check_server(self, name: ServerName, connection: RedisConnection) -> list[Refusal]:
        topology = self._router.topology

        def is_local(key: bytes) -> bool:
            try:
                return topology.name(key) == name
            except Unavailable:
                return False

        db, is_cluster = self._target.db, topology.is_cluster
        return await find_refusals(connection, self._keys, db, is_cluster=is_cluster, is_local=is_local)

    def _describe_missing(self, found: list[tuple[str, list[Refusal]]]) -> list[str]:
        user, prefix = self._target.username, self._keys.prefix
        return [
            f"Redis at {address} {phrase}."
            for address, refusals in found
            for phrase in describe_missing(refusals, user, prefix)
        ]

    @staticmethod
    def _describe_states(found: list[tuple[str, list[Refusal]]]) -> list[str]:
        return [f"Redis at {address} {phrase}." for address, refusals in found for phrase in describe_state(refusals)]

    def _watch(self) -> None:
        """Check each second until no command is refused, unless that is done already."""
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._check_until_accepted(), name="roomcast redis refusals")

    async def _check_until_accepted(self) -> None:
        logged: list[str] = []
        try:
            while True:
                try:
                    await self._check_once()
                except Unavailable:  # the connection is lost; the next one is checked
                    pass
                else:
                    if not self.problems:
                        break
                if self.problems != logged:
                    logged = self.problems
                    log.warning("%s", " ".join(logged))
                await asyncio.sleep(_INTERVAL)
        finally:
            self._watcher = None
        if logged:
            log.info("Redis accepts all commands again")
        self._on_end()
