"""Publishes the entries of a Redis stream.

The entries are in the order in which the application added them. One relay is active for a stream: it renews a lease,
and claims the entries that its predecessor has read and not finished. An entry is deleted after the API has confirmed
it. Its id is the key of the event by default, so a repeat is recognized.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from ..backoff import Backoff, wait_at_most
from ..broker.redis.connection import Part, RedisConnection, ReplyError
from ..broker.redis.handshake import open_connection
from ..broker.redis.tls import create_context
from ..broker.redis.topology import Topology, create_topology
from ..broker.redis.urls import Target
from ..errors import BrokerUnavailable, Unavailable
from .metrics import RelayMetrics
from .outage import first_cause
from .publisher import STOP_TIMEOUT, Publisher, Refusal

log = logging.getLogger("roomcast.relay")

GROUP: Final = "roomcast"
#: How many entries are read at once.
_COUNT: Final = 500
#: How long a read waits for new entries, in milliseconds. Renewals of the lease wait behind it.
_BLOCK: Final = 500
#: How long the lease of a relay that died keeps the others waiting, and how often it is renewed, in seconds.
LEASE: Final = 5.0
_RENEW_INTERVAL: Final = 1.0
LAG_INTERVAL: Final = 5.0
#: The silence after which the connection counts as dead, in seconds.
_TIMEOUT: Final = 3.0
_FIELDS: Final = ("type", "room", "data")

#: Takes the lease, or renews it. KEYS: the lease. ARGV: its owner, its duration in ms. Returns 1 if the owner has it.
_TAKE_LEASE: Final = """\
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"""
_END_LEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1"


class Entry(NamedTuple):
    """An entry of the stream, with its event in JSON, or the reason why it has none."""

    id: bytes
    fields: list[bytes]
    event: bytes
    refusal: Refusal | None


class StreamKeys(NamedTuple):
    """The keys of a stream. In a Cluster all of them are in the slot of the stream."""

    stream: str
    failed: str
    lease: str

    @classmethod
    def of(cls, stream: str) -> StreamKeys:
        """Return the keys of ``stream``."""
        tagged = stream if "{" in stream else f"{{{stream}}}"
        return cls(stream, f"{tagged}:failed", f"{tagged}:relay")


async def run(target: Target, stream: str, publisher: Publisher, metrics: RelayMetrics, stop: asyncio.Event) -> None:
    """Publish the entries of ``stream`` on the Redis at ``target`` until ``stop`` is set.

    Waits for a Redis that cannot be reached. Raises ``SettingsError`` if the certificates cannot be used.
    """
    tls = create_context(target.tls) if target.tls is not None else None
    topology = create_topology(target, _TIMEOUT, lambda: tls)
    backoff = Backoff(0.2, 5.0, jitter=0.5)
    owner = secrets.token_hex(8)
    while not stop.is_set():
        connection: RedisConnection | None = None
        try:
            connection = await _connect(topology, target, tls, stream)
            metrics.connected.set(1)
            backoff.reset()
            await _Session(connection, StreamKeys.of(stream), owner, publisher, metrics, stop).run()
        except (Unavailable, ReplyError, OSError, TimeoutError, ExceptionGroup) as error:
            cause = first_cause(error)
            if not isinstance(cause, Unavailable | ReplyError | OSError | TimeoutError):
                raise
            pause = backoff.next_pause()
            log.warning("%s; the relay tries again in %.1f s", _reason(target, cause), pause)
            await wait_at_most(stop, pause)
        finally:
            metrics.connected.set(0)
            metrics.partitions.set(0)
            if connection is not None:
                connection.abort("the relay closes it")


async def retry_failed(target: Target, stream: str) -> int:
    """Add the entries that were set aside to the stream again; return their number.

    Raises ``Unavailable`` if Redis does not work, and ``SettingsError`` if the certificates cannot be used.
    """
    tls = create_context(target.tls) if target.tls is not None else None
    topology = create_topology(target, _TIMEOUT, lambda: tls)
    try:
        return await _retry_failed(await _connect(topology, target, tls, stream), StreamKeys.of(stream))
    except (Unavailable, ReplyError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"{_reason(target, error)}.") from error


async def _retry_failed(connection: RedisConnection, keys: StreamKeys) -> int:
    count = 0
    try:
        while entries := await connection.execute("XRANGE", keys.failed, "-", "+", "COUNT", str(_COUNT)):
            commands: list[tuple[Part, ...]] = []
            for id, fields in entries:
                # The last fields are the reason; see ``_Session._finish``.
                commands.append(("XADD", keys.stream, "*", *fields[:-6]))
                commands.append(("XDEL", keys.failed, id))
            await _transaction(connection, commands)
            count += len(entries)
    finally:
        connection.abort("it is no longer needed")
    return count


def _reason(target: Target, error: BaseException) -> str:
    """Return a sentence without a period."""
    cause = error.detail if isinstance(error, Unavailable) else error
    return f"Redis at {target.safe} does not work: {str(cause or 'it has not answered').rstrip('.')}"


async def _connect(topology: Topology, target: Target, tls: ssl.SSLContext | None, key: str) -> RedisConnection:
    await topology.refresh()
    address = topology.address(topology.name(key.encode()))
    if address is None:
        raise BrokerUnavailable("no sentinel has named its primary yet")
    credentials = (target.username, target.password)
    return await open_connection(address, credentials, target.db, tls, lambda _: None, lambda *_: None, (), _TIMEOUT)


async def _transaction(connection: RedisConnection, commands: Sequence[tuple[Part, ...]]) -> None:
    """Execute all ``commands`` or none. Raises ``ReplyError``."""
    for replies in await connection.execute_all([("MULTI",), *commands, ("EXEC",)]):
        for reply in replies:
            for one in reply if isinstance(reply, list) else [reply]:
                if isinstance(one, ReplyError):
                    raise one


def parse(id: bytes, fields: list[bytes], prefix: str) -> Entry:
    """Return the entry with these fields. ``prefix`` begins its key if it has none."""
    found = {name.decode(errors="replace"): value for name, value in zip(fields[::2], fields[1::2], strict=False)}
    event: dict[str, Any] = {}
    problem = ""
    try:
        event = {name: value.decode() for name, value in found.items() if name in ("type", "room", "sender", "key")}
        event["data"] = orjson.loads(found.get("data", b""))
    except ValueError as error:
        problem = f"type, room, sender and key must be UTF-8, and data must be JSON: {error}"
    if missing := [name for name in _FIELDS if name not in found]:
        problem = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    if problem:
        return Entry(id, fields, b"", Refusal("bad_message", problem))
    event.setdefault("key", f"{prefix}-{id.decode()}")
    return Entry(id, fields, orjson.dumps(event), None)


class _Session:
    """The work between a connection and its end."""

    def __init__(
        self,
        connection: RedisConnection,
        keys: StreamKeys,
        owner: str,
        publisher: Publisher,
        metrics: RelayMetrics,
        stop: asyncio.Event,
    ) -> None:
        self._connection: Final = connection
        self._keys: Final = keys
        self._owner: Final = owner
        self._publisher: Final = publisher
        self._metrics: Final = metrics
        self._stop: Final = stop
        #: Two streams may have the same id.
        self._prefix: Final = blake2b(keys.stream.encode(), digest_size=8).hexdigest()

    async def run(self) -> None:
        """Wait for the lease, then publish until ``stop`` is set."""
        while not await self._take_lease():
            await wait_at_most(self._stop, _RENEW_INTERVAL)
            if self._stop.is_set():
                return
        self._metrics.partitions.set(1)
        log.info("the relay works on the stream %s", self._keys.stream)
        try:
            async with asyncio.TaskGroup() as group:
                publishing = group.create_task(self._publish_entries())
                others = [group.create_task(work) for work in (self._renew_lease(), self._measure_lag())]
                await self._stop.wait()
                await asyncio.wait((publishing,), timeout=STOP_TIMEOUT)
                for task in (publishing, *others):
                    task.cancel()
        finally:
            if self._connection.is_open:
                await self._connection.execute("EVAL", _END_LEASE, "1", self._keys.lease, self._owner)

    async def _take_lease(self) -> bool:
        arguments = (self._keys.lease, self._owner, str(int(LEASE * 1000)))
        return bool(await self._connection.execute("EVAL", _TAKE_LEASE, "1", *arguments))

    async def _renew_lease(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_INTERVAL)
            if not await self._take_lease():
                raise BrokerUnavailable("another relay has taken over")

    async def _measure_lag(self) -> None:
        execute, stream = self._connection.execute, self._keys.stream
        while True:
            self._metrics.waiting.set(await execute("XLEN", stream))
            oldest = await execute("XRANGE", stream, "-", "+", "COUNT", "1")
            seconds, _ = await execute("TIME")
            age = int(seconds) - int(oldest[0][0].split(b"-")[0]) / 1000 if oldest else 0
            self._metrics.lag.set(max(age, 0))
            await asyncio.sleep(LAG_INTERVAL)

    async def _publish_entries(self) -> None:
        execute, stream = self._connection.execute, self._keys.stream
        try:
            await execute("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
        except ReplyError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        cursor = b"0-0"
        while not self._stop.is_set():
            # Claims the entries that another relay, or an earlier session, has read and not finished.
            cursor, entries, *_ = await execute(
                "XAUTOCLAIM", stream, GROUP, self._owner, "0", cursor, "COUNT", str(_COUNT)
            )
            await self._publish([entry for entry in entries if entry is not None])
            if cursor == b"0-0":
                break
        await self._forget_consumers()
        read = ("XREADGROUP", "GROUP", GROUP, self._owner, "COUNT", str(_COUNT), "BLOCK", str(_BLOCK))
        while not self._stop.is_set():
            found = await execute(*read, "STREAMS", stream, ">")
            for _, entries in found.items() if isinstance(found, dict) else found or ():
                await self._publish(entries)

    async def _forget_consumers(self) -> None:
        """Delete the consumers of relays that have ended. All their entries were claimed."""
        execute, stream = self._connection.execute, self._keys.stream
        for consumer in await execute("XINFO", "CONSUMERS", stream, GROUP):
            values = consumer if isinstance(consumer, dict) else dict(zip(consumer[::2], consumer[1::2], strict=True))
            if values[b"name"] != self._owner.encode() and not values[b"pending"]:
                await execute("XGROUP", "DELCONSUMER", stream, GROUP, values[b"name"])

    async def _publish(self, found: Sequence[tuple[bytes, list[bytes]]]) -> None:
        entries = [parse(id, fields, self._prefix) for id, fields in found]
        if not entries:
            return
        valid = [entry for entry in entries if entry.refusal is None]
        refused = await self._publisher.publish([entry.event for entry in valid])
        failed = [(valid[index], refusal) for index, refusal in refused.items()]
        for entry in entries:
            if entry.refusal is not None:
                self._metrics.failed.labels(entry.refusal.code).inc()
                failed.append((entry, entry.refusal))
        await self._finish(entries, failed)

    async def _finish(self, entries: Sequence[Entry], failed: Sequence[tuple[Entry, Refusal]]) -> None:
        """Acknowledge and delete the entries, and add the refused ones to the dead-letter stream."""
        commands: list[tuple[Part, ...]] = []
        for entry, (code, error) in failed:
            log.warning("entry %s is set aside: %s (%s)", entry.id.decode(), error[:500], code)
            reason = ("_id", entry.id, "_code", code, "_error", error)
            commands.append(("XADD", self._keys.failed, "*", *entry.fields, *reason))
        ids = [entry.id for entry in entries]
        commands.append(("XACK", self._keys.stream, GROUP, *ids))
        commands.append(("XDEL", self._keys.stream, *ids))
        await _transaction(self._connection, commands)
