"""Groups of Redis servers for tests: Sentinel and Cluster, used like ``RedisServer``."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

from redis.crc import key_slot
from redis_servers import PATIENCE, RedisServer, free_port, wait_for_server

#: The silence after which a server counts as down, for the others of a Cluster and for Sentinel, in milliseconds.
NODE_TIMEOUT = 1500
DOWN_AFTER = 1000
#: How long Sentinel, or a replica of a Cluster, tries to replace a primary on request, in seconds.
MANUAL_FAILOVER_TIMEOUT = 6.0
#: The name of the service that SentinelTrio monitors.
SERVICE = "main"
_T = TypeVar("_T")


async def _insist(begin: Callable[[], Awaitable[object]], succeed: Callable[[], Awaitable[_T]]) -> _T:
    """Begin a failover that the servers may give up, up to three times, until it succeeds."""
    for _ in range(2):
        await begin()
        with suppress(AssertionError):
            return await succeed()
    await begin()
    return await succeed()


class _ServerGroup:
    """Servers that start and end together."""

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []

    async def start(self) -> None:
        """Start all servers, and wait until they have found each other."""
        raise NotImplementedError

    async def replicate(self) -> None:
        """Wait until all replicas have what their primaries have written so far, so that a failover loses nothing."""

        async def has_all() -> bool:
            states = [await server.info("replication") for server in self.servers if server.is_running]
            primaries = [state for state in states if state.get("role") == "master"]
            return all(
                int(replica["offset"]) >= state["master_repl_offset"]
                for state in primaries
                for name, replica in state.items()
                if name.startswith("slave") and isinstance(replica, dict)
            )

        await wait_for_server(has_all, "the replicas have everything")

    async def _each(self, operation: Callable[[RedisServer], Coroutine[Any, Any, _T]]) -> list[_T]:
        return list(await asyncio.gather(*(operation(server) for server in self.servers)))

    def close(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException as error:
            for server in self.servers:
                error.add_note(f"log of {server.address}:\n{server.log[-2000:]}")
            self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class SentinelTrio(_ServerGroup):
    """A primary, a replica, and three sentinels that monitor them under the name ``SERVICE``.

    If the primary is silent for ``DOWN_AFTER`` ms, the replica is promoted. The old primary returns as a replica.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.data = [RedisServer(**config)]
        self.data.append(RedisServer(replicaof=f"127.0.0.1 {self.data[0].port}", **config))
        watch = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.data[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {SERVICE} 5000"
        )
        self._authority = config.get("authority")
        self.sentinels = [RedisServer(sentinel=watch, authority=self._authority) for _ in range(3)]
        self.servers = [*self.data, *self.sentinels]

    @property
    def url(self) -> str:
        """The value for REDIS_URL."""
        scheme = "redis" if self._authority is None else "rediss"
        return f"{scheme}+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{SERVICE}"

    async def start(self) -> None:
        """Start the data servers first, so that the sentinels find the replica with their first INFO."""
        await self.data[0].start()
        await self.data[1].start()
        await wait_for_server(self._in_sync, "the replica is in sync")
        await asyncio.gather(*(sentinel.start() for sentinel in self.sentinels))
        await self._tune("publish-period", 100, "info-period", 500)
        await wait_for_server(self._have_found_each_other, "the sentinels have found each other and the replica")
        # Four publish periods are how long a sentinel accepts a new primary that no other sentinel has announced.
        await self._tune("publish-period", 2000, "info-period", 1000)

    async def _tune(self, *periods: str | int) -> None:
        await asyncio.gather(*(sentinel("SENTINEL", "DEBUG", *periods) for sentinel in self.sentinels))

    async def primary(self) -> RedisServer:
        """Return the primary according to the first sentinel."""
        _, port = await self.sentinels[0]("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.data if server.port == int(port))

    async def switch(self) -> RedisServer:
        """Make the replica the primary and the primary its replica, without a restart; return the new primary."""
        before = await self.primary()

        async def is_accepted() -> bool:  # Sentinel refuses while it knows no replica that it may promote
            return bool(await self.sentinels[0]("SENTINEL", "FAILOVER", SERVICE))

        after = await _insist(
            lambda: wait_for_server(is_accepted, "Sentinel begins a failover"),
            lambda: self.failed_over(before, MANUAL_FAILOVER_TIMEOUT),
        )

        async def is_replica() -> bool:
            return (await before.info("replication")).get("master_link_status") == "up"

        await wait_for_server(is_replica, f"{before.address} is a replica in sync")
        return after

    async def kill_primary(self) -> RedisServer:
        """Kill the primary and return it; ``failed_over`` waits for the new one."""
        primary = await self.primary()
        primary.kill()
        return primary

    async def failed_over(self, before: RedisServer, patience: float = PATIENCE) -> RedisServer:
        """Wait until another server than ``before`` and all sentinels agree that it is the primary; return it."""
        (after,) = (server for server in self.data if server is not before)

        async def is_named() -> bool:
            named = [await one("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE) for one in self.sentinels]
            return {int(port) for _, port in named} == {after.port} and (await after("ROLE"))[0] == "master"

        await wait_for_server(is_named, f"{after.address} becomes the primary", patience)
        return after

    async def _in_sync(self) -> bool:
        return (await self.data[1].info("replication")).get("master_link_status") == "up"

    async def _have_found_each_other(self) -> bool:
        for sentinel in self.sentinels:
            about = await sentinel("SENTINEL", "MASTER", SERVICE)
            if (int(about["num-other-sentinels"]), int(about["num-slaves"])) != (2, 1):
                return False
        return True


class Cluster(_ServerGroup):
    """A Cluster of three primaries, initially ``servers[:3]``, and a replica of each, ``servers[3:]``."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self._authority = config.get("authority")
        for _ in range(6):
            server = RedisServer(
                cluster_enabled="yes",
                cluster_port=free_port(),
                cluster_node_timeout=NODE_TIMEOUT,
                **config,
            )
            self.servers.append(server)

    @property
    def url(self) -> str:
        """The value for REDIS_URL."""
        scheme = "redis" if self._authority is None else "rediss"
        return f"{scheme}+cluster://{','.join(server.address for server in self.servers)}"

    async def start(self) -> None:
        """Start all servers, connect them, assign the slots, and wait until all servers agree."""
        await self._each(lambda server: server.start())
        first = self.servers[0]
        for number, server in enumerate(self.servers, 1):
            await server("CLUSTER", "SET-CONFIG-EPOCH", number)
            if server is not first:
                await first("CLUSTER", "MEET", "127.0.0.1", server.port, server._config["cluster_port"])
        bounds = [0, 5461, 10923, 16384]
        for primary, (start, end) in zip(self.servers, itertools.pairwise(bounds), strict=False):
            await primary("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        names = await self._each(lambda server: server("CLUSTER", "MYID"))
        for replica, name in zip(self.servers[3:], names, strict=False):
            await wait_for_server(
                lambda server=replica, id=name: server("CLUSTER", "REPLICATE", id), "a replica has found its primary"
            )
        await wait_for_server(self.is_ready, "the cluster is ok everywhere and its replicas are in sync")

    async def is_ready(self) -> bool:
        """Return True if every running server reports the state ok, and every running replica is in sync."""
        for server in self.servers:
            if server._process is None:
                continue
            if (await server("CLUSTER INFO"))["cluster_state"] != "ok":
                return False
            replication = await server.info("replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return False
        return True

    async def primary_of(self, key: str) -> RedisServer:
        """Return the server of ``key`` according to most servers."""
        slot = key_slot(key.encode())
        ports = []
        for server in self.servers:
            if server._process is not None:
                ranges = await server("CLUSTER SLOTS")
                ports += [primary[1] for first, last, primary, *_ in ranges if first <= slot <= last]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    async def switch(self, key: str, *options: str) -> RedisServer:
        """Promote the replica of the server of ``key``, without a restart; return it.

        With the option ``TAKEOVER`` the promotion does not wait for data that the replica lacks.
        """
        before = await self.primary_of(key)
        states = await self._each(lambda server: server.info("replication"))
        (replica,) = (
            server
            for server, state in zip(self.servers, states, strict=True)
            if state["role"] == "slave" and state["master_port"] == before.port
        )
        return await _insist(
            lambda: replica("CLUSTER", "FAILOVER", *options),
            lambda: self.failed_over(key, before, MANUAL_FAILOVER_TIMEOUT),
        )

    async def kill_primary_of(self, key: str) -> RedisServer:
        """Kill the server of ``key`` and return it; ``failed_over`` waits for the new one."""
        primary = await self.primary_of(key)
        primary.kill()
        return primary

    async def failed_over(self, key: str, before: RedisServer, patience: float = PATIENCE) -> RedisServer:
        """Wait until ``key`` is on another server than ``before`` and the cluster is ok; return that server."""

        async def moved() -> bool:
            return await self.primary_of(key) is not before and await self.is_ready()

        await wait_for_server(moved, f"{key} is on another server than {before.address}", patience)
        return await self.primary_of(key)
