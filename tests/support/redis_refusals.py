"""Ways in which a running Redis server refuses commands, each as a context manager.

::

    async with refusing(server, "OOM"):
        ...                                    # the server replies -OOM to writes

The server must be of one test only, and for ``AOF`` started with ``appendonly="yes"``. Afterwards it accepts all
commands again; for ``MASTERDOWN`` and ``READONLY`` it stays the same process, with its data. ``moving_slot`` and
``without_slot`` are for servers of a Cluster.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import hiredis
from redis.crc import key_slot
from redis_groups import Cluster
from redis_servers import PATIENCE, RedisServer, free_port, wait_for_server

_KEY = "refusals"


async def raw_reply(server: RedisServer, *command: str) -> str:
    """Return the first line of the reply to ``command``, which begins with a minus sign if it is an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        if server.password is not None:
            writer.write(hiredis.pack_command(("AUTH", server.user or "default", server.password)))
            await reader.readline()
        writer.write(hiredis.pack_command(command))
        async with asyncio.timeout(PATIENCE):
            return (await reader.readline()).decode()
    finally:
        writer.close()


async def _until_refused(server: RedisServer, code: str, *command: str) -> None:
    async def is_refused() -> bool:
        # In a Cluster the key of the command may be on another server, which is checked first.
        return (await raw_reply(server, *command)).startswith((f"-{code} ", "-MOVED "))

    await wait_for_server(is_refused, f"{server.address} replies {code} to {command}")


async def _until_accepted(server: RedisServer, *command: str) -> None:
    async def is_accepted() -> bool:
        return not (await raw_reply(server, *command)).startswith("-")

    await wait_for_server(is_accepted, f"{server.address} accepts {command}")


@asynccontextmanager
async def _failed_snapshot(server: RedisServer) -> AsyncIterator[None]:
    """Let BGSAVE fail: its file cannot be replaced, because that is a folder with content."""
    obstacle = server.directory / "dump.rdb"
    (obstacle / "content").mkdir(parents=True)
    await server("CONFIG", "SET", "save", "3600 1", "stop-writes-on-bgsave-error", "yes")
    await server("BGSAVE")
    await _until_refused(server, "MISCONF", "PING")
    try:
        yield
    finally:
        (obstacle / "content").rmdir()
        obstacle.rmdir()
        await server("BGSAVE")
        await _until_accepted(server, "PING")
        await server("CONFIG", "SET", "save", "")


@asynccontextmanager
async def _full_disk(server: RedisServer) -> AsyncIterator[None]:
    """Limit the size of the server's files, so that it cannot append to its append-only file."""
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, hard))

    async def is_refused() -> bool:
        await raw_reply(server, "SET", _KEY, "x" * 100, "PX", "1000")
        return (await raw_reply(server, "PING")).startswith("-MISCONF ")

    await wait_for_server(is_refused, f"{server.address} replies MISCONF to PING")
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (soft, hard))
        await _until_accepted(server, "PING")


@asynccontextmanager
async def _full_memory(server: RedisServer) -> AsyncIterator[None]:
    await server("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
    await _until_refused(server, "OOM", "SET", _KEY, "", "XX")
    try:
        yield
    finally:
        await server("CONFIG", "SET", "maxmemory", 0)


@asynccontextmanager
async def _replica(server: RedisServer, code: str = "READONLY") -> AsyncIterator[None]:
    """Make the server a replica of a primary that does not exist."""
    await server("CONFIG", "SET", "replica-serve-stale-data", "yes" if code == "READONLY" else "no")
    await server("REPLICAOF", "127.0.0.1", free_port())
    await _until_refused(server, code, *(("SET", _KEY, "", "XX") if code == "READONLY" else ("GET", _KEY)))
    try:
        yield
    finally:
        await server("REPLICAOF", "NO", "ONE")
        await _until_accepted(server, "PING")


@asynccontextmanager
async def _no_replicas(server: RedisServer) -> AsyncIterator[None]:
    """Require more replicas than there are."""
    await server("CONFIG", "SET", "min-replicas-to-write", 9)
    await _until_refused(server, "NOREPLICAS", "SET", _KEY, "", "XX")
    try:
        yield
    finally:
        await server("CONFIG", "SET", "min-replicas-to-write", 0)


@asynccontextmanager
async def _long_script(server: RedisServer) -> AsyncIterator[None]:
    """Run a script that does not end, which the server reports to other clients after 10 ms."""
    await server("CONFIG", "SET", "busy-reply-threshold", 10)
    async with server.client(socket_timeout=None) as client:
        running = asyncio.ensure_future(client.eval("while true do end", 0))
        await _until_refused(server, "BUSY", "PING")
        try:
            yield
        finally:
            await server("SCRIPT", "KILL")
            await asyncio.wait([running])
            running.exception()


@asynccontextmanager
async def _loading(server: RedisServer) -> AsyncIterator[None]:
    """Let the server load its data again, slowly."""
    async with server.client() as client, client.pipeline() as pipeline:
        for number in range(5000):
            pipeline.set(f"{_KEY}:{number}", "x" * 100, px=600_000)
        await pipeline.execute()
    # The server handles commands after about 10 keys, that is each 0.1 s. The delay for each key is in microseconds.
    await server("CONFIG", "SET", "loading-process-events-interval-bytes", 1024)
    await server("CONFIG", "SET", "key-load-delay", 10_000)
    async with server.client(socket_timeout=None) as client:
        running = asyncio.ensure_future(client.execute_command("DEBUG", "RELOAD"))
        await _until_refused(server, "LOADING", "PING")
        try:
            yield
        finally:
            await server("CONFIG", "SET", "key-load-delay", 0)
            await running


@asynccontextmanager
async def _revoked_rights(server: RedisServer, *commands: str) -> AsyncIterator[None]:
    """Take the right to ``commands`` from the server's user."""
    user = server.user or "default"
    await server("ACL", "SETUSER", user, *(f"-{command}" for command in commands))
    try:
        yield
    finally:
        await server("ACL", "SETUSER", user, "+@all")


_REFUSALS: dict[str, Callable[[RedisServer], AbstractAsyncContextManager[None]]] = {
    "MISCONF": _failed_snapshot,
    "AOF": _full_disk,
    "OOM": _full_memory,
    "READONLY": _replica,
    "MASTERDOWN": lambda server: _replica(server, "MASTERDOWN"),
    "NOREPLICAS": _no_replicas,
    "BUSY": _long_script,
    "LOADING": _loading,
    "NOPERM ping": lambda server: _revoked_rights(server, "ping"),
    "NOPERM writes": lambda server: _revoked_rights(server, "@write"),
    "NOPERM scripts": lambda server: _revoked_rights(server, "evalsha", "script"),
    "NOPERM channels": lambda server: _revoked_rights(server, "@pubsub"),
}
REFUSALS = tuple(_REFUSALS)


def refusing(server: RedisServer, name: str) -> AbstractAsyncContextManager[None]:
    """Let ``server`` refuse commands in the way called ``name``, one of ``REFUSALS``, until the block ends."""
    return _REFUSALS[name](server)


@asynccontextmanager
async def without_slot(cluster: Cluster, key: str) -> AsyncIterator[None]:
    """Let the server of ``key`` give up the slot: it replies CLUSTERDOWN, for this slot and then for all."""
    server, slot = await cluster.primary_of(key), key_slot(key.encode())
    await server("CLUSTER", "DELSLOTS", slot)
    await _until_refused(server, "CLUSTERDOWN", "GET", key)
    try:
        yield
    finally:
        await server("CLUSTER", "ADDSLOTS", slot)
        await wait_for_server(cluster.is_ready, "the cluster is ok everywhere")


@asynccontextmanager
async def moving_slot(cluster: Cluster, key: str, *, moved: tuple[str, ...] = ()) -> AsyncIterator[None]:
    """Move the slot of ``key`` to another server, and back at the end. The keys in ``moved`` have been moved already.

    Meanwhile the server replies ASK to a command for keys that it does not have, and TRYAGAIN if it has some of them.
    """
    source, slot = await cluster.primary_of(key), key_slot(key.encode())
    primaries = [one for one in cluster.servers if (await one.info("replication"))["role"] == "master"]
    target = next(one for one in primaries if one is not source)
    names = {one: await one("CLUSTER", "MYID") for one in (source, target)}
    await target("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    await source("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    for one in moved:
        await source("MIGRATE", "127.0.0.1", target.port, one, 0, 5000)
    try:
        yield
    finally:
        await source("CLUSTER", "SETSLOT", slot, "STABLE")
        for one in moved:
            await target("MIGRATE", "127.0.0.1", source.port, one, 0, 5000, "REPLACE")
        await target("CLUSTER", "SETSLOT", slot, "STABLE")
