"""The processes that a soak of webhooks kills: Redis alone or in a group, and nodes with one or several workers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from redis_groups import Cluster, SentinelTrio
from redis_servers import RedisServer, wait_for_server
from soak_nodes import Node

#: The prefix of the keys of a node without ``REDIS_PREFIX``, and the key that names the server of the queue.
QUEUE = "{roomcast:!queue:webhook}"
#: The keys whose servers a Cluster loses: that of the queue, and those of rooms and users.
KEYS = [QUEUE, *(f"{{roomcast:channel:{i}}}" for i in range(6)), *(f"{{roomcast:user:{i}}}" for i in range(6))]


class RedisUnderFault(ABC):
    """Redis, as nodes use it. ``loses_data`` is True if a fault may lose what was acknowledged."""

    url: str
    loses_data: bool

    @abstractmethod
    async def start(self) -> None:
        """Start all servers."""

    @abstractmethod
    async def fail(self, chance: random.Random) -> None:
        """Kill a server, and return when Redis is complete again."""

    @abstractmethod
    def close(self) -> None:
        """End all servers."""


class Single(RedisUnderFault):
    """One server, which is started again with its append-only file, or without any data."""

    def __init__(self, *, loses_data: bool) -> None:
        persistence = {} if loses_data else {"appendonly": "yes", "appendfsync": "always"}
        self._server = RedisServer(**persistence)
        self.url, self.loses_data = self._server.url, loses_data

    async def start(self) -> None:
        """See ``RedisUnderFault``."""
        await self._server.start()

    async def fail(self, chance: random.Random) -> None:
        """See ``RedisUnderFault``."""
        self._server.kill()
        await asyncio.sleep(chance.uniform(0, 4))
        await self._server.start()

    def close(self) -> None:
        """See ``RedisUnderFault``."""
        self._server.close()


class Sentinel(RedisUnderFault):
    """A primary with a replica, which Sentinel promotes. The replica may lack the last events."""

    def __init__(self) -> None:
        self._trio = SentinelTrio()
        self.url, self.loses_data = self._trio.url, True

    async def start(self) -> None:
        """See ``RedisUnderFault``."""
        await self._trio.start()

    async def fail(self, chance: random.Random) -> None:
        """Kill the primary, or let Sentinel exchange the two servers."""
        if chance.random() < 0.3:
            await self._trio.switch()
            return
        killed = await self._trio.kill_primary()
        after = await self._trio.failed_over(killed)
        await killed.start()

        async def has_replica() -> bool:
            return (await after.info("replication")).get("connected_slaves") == 1

        await wait_for_server(has_replica, "the server that was killed is a replica")

    def close(self) -> None:
        """See ``RedisUnderFault``."""
        self._trio.close()


class ClusterOfSix(RedisUnderFault):
    """Three primaries with a replica each. A replica that is promoted may lack the last events."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self.url, self.loses_data = self._cluster.url, True

    async def start(self) -> None:
        """See ``RedisUnderFault``."""
        await self._cluster.start()

    async def fail(self, chance: random.Random) -> None:
        """Kill a primary, or exchange it with its replica."""
        key = chance.choice([QUEUE, chance.choice(KEYS)])
        if chance.random() < 0.3:
            await self._cluster.switch(key)
            return
        killed = await self._cluster.kill_primary_of(key)
        await self._cluster.failed_over(key, killed)
        await killed.start()
        await wait_for_server(self._cluster.is_ready, "the server that was killed is a replica")

    def close(self) -> None:
        """See ``RedisUnderFault``."""
        self._cluster.close()


class SoakNode(Node):
    """A node with ``workers`` processes."""

    def __init__(self, name: str, directory: Path, variables: dict[str, str], workers: int) -> None:
        super().__init__(name, directory, variables, () if workers == 1 else ("--workers", str(workers)))

    def _workers(self) -> list[int]:
        if self._process is None:
            return []
        with suppress(OSError):
            text = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
            return [int(pid) for pid in text.split()]
        return []

    def kill(self) -> None:
        """Kill the process, and its workers."""
        workers = self._workers()
        super().kill()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill one worker, which its supervisor starts again. Return False if there are none."""
        workers = self._workers()
        if workers:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
        return bool(workers)
