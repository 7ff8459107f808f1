"""Inspect the servers before nodes use them: their version and limits, and whether all operations are allowed."""

from __future__ import annotations

import secrets
from typing import Any, Final, NamedTuple

from ...errors import BrokerUnavailable, Unavailable
from ..base import Member
from .broker import RedisBroker
from .connection import RedisConnection, ReplyError
from .handshake import map_value, open_connection
from .options import RedisOptions
from .reconnect import format_name
from .tls import create_context
from .topology import create_topology
from .urls import Target


class ServerInfo(NamedTuple):
    """The properties of a server. Sizes are in bytes.

    ``used_memory`` is the memory in use, ``max_memory`` is maxmemory, 0 for none, and ``system_memory`` the memory of
    its machine. ``eviction_policy`` is maxmemory-policy. A subscriber with more than ``output_buffer`` bytes of unread
    data is disconnected; 0 means no limit, None that it cannot be read. ``is_durable`` is True if each write is
    appended to a file, so that a restart loses almost nothing; None if that cannot be read.
    """

    address: str
    product: str
    version: tuple[int, ...]
    used_memory: int
    max_memory: int
    system_memory: int
    eviction_policy: str
    output_buffer: int | None
    is_durable: bool | None


async def inspect_servers(target: Target, timeout: float) -> list[ServerInfo]:  # noqa: ASYNC109  # the connections keep it
    """Return the properties of each server that stores keys.

    Raises ``Unavailable`` with a sentence about the first server that cannot be reached within ``timeout`` seconds, and
    ``SettingsError`` if a file for TLS cannot be used.
    """
    tls = create_context(target.tls) if target.tls is not None else None
    topology = create_topology(target, timeout, lambda: tls)
    try:
        await topology.refresh()
    except Unavailable as error:
        raise BrokerUnavailable(f"Redis at {target.safe} cannot be reached: {error.detail}.") from error
    found = []
    for name in topology.names():
        address = topology.address(name)
        assert address is not None  # it was read just now
        credentials = (target.username, target.password)
        try:
            connection = await open_connection(
                address, credentials, target.db, tls, lambda _: None, lambda *_: None, (), timeout
            )
            try:
                found.append(await _inspect(connection, format_name(address)))
            finally:
                connection.abort("it is no longer needed")
        except (Unavailable, ReplyError) as error:
            reason = error.detail if isinstance(error, Unavailable) else error
            raise BrokerUnavailable(f"Redis at {format_name(address)} cannot be reached: {reason}.") from error
    return found


async def _inspect(connection: RedisConnection, address: str) -> ServerInfo:
    lines = (line.partition(":") for line in (await connection.execute("INFO")).decode(errors="replace").splitlines())
    info = {name: value.strip() for name, _, value in lines}
    product = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "")
    try:
        option = "client-output-buffer-limit"
        words = map_value(await connection.execute("CONFIG", "GET", option), option.encode()).decode().split()
        output_buffer = int(words[words.index("pubsub") + 1])
    except (ReplyError, AttributeError, ValueError):  # hosted servers often refuse CONFIG
        output_buffer = None
    return ServerInfo(
        address=address,
        product=product,
        version=tuple(int(part) for part in version.split(".") if part.isdecimal()),
        used_memory=int(info.get("used_memory", 0)),
        max_memory=int(info.get("maxmemory", 0)),
        system_memory=int(info.get("total_system_memory", 0)),
        eviction_policy=info.get("maxmemory_policy", ""),
        output_buffer=output_buffer,
        is_durable={"1": True, "0": False}.get(info.get("aof_enabled", "")),
    )


class _NullListener:
    """A listener that ignores all calls."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


async def rehearse(target: Target, prefix: str, wait: float) -> None:
    """Execute every operation of a node once, with the keys that nodes use; raise ``Unavailable`` if one is refused.

    ``wait`` is in seconds. The room is one that no client can name. All keys expire within five minutes.
    """
    name: Final = f"!doctor-{secrets.token_hex(4)}"
    broker = RedisBroker(target, RedisOptions(prefix=prefix, wait=wait, history_ttl=1.0, id_ttl=1.0))
    listener: Any = _NullListener()
    await broker.start(listener)
    try:
        await broker.ping()
        await broker.subscribe([name])
        await broker.publish(name, b"{}", key=name)
        await broker.history(name)
        await broker.admit(name, 1, 1)
        await broker.release(name, 1)
        await broker.statuses([name])
        await broker.ask({name: b""}, wait)  # no node has this name, so there is no answer
        await broker.enter(name, name, "doctor", 1)
        if await broker.members(name) != [Member(name, "doctor")]:
            raise BrokerUnavailable("Redis does not return the member that was added to a room.")
        await broker.rooms()
        await broker.leave(name, name, 1)
        await broker.claim(name, 1.0)
        await broker.settle(name, None)
        await broker.put(name, b"{}", 1.0)
        await broker.take(name)
        await broker.revoke_all(name, 1.0, 1.0)
        await broker.revoke_one(name, name, 1.0)
        if not await broker.is_revoked(name, 1.0, name):
            raise BrokerUnavailable("Redis does not return the revocation of a token.")
    finally:
        await broker.close()
