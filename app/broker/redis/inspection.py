"""A look at the servers before nodes rely on them: what they are and hold, and whether all that nodes do works."""

from __future__ import annotations

import secrets
from typing import Any, Final, NamedTuple

from ...errors import Unavailable
from ..base import Member
from .broker import RedisBroker
from .connection import RedisConnection, ReplyError, greeting_value, open_connection
from .reconnect import spell
from .topology import create_topology
from .urls import Target


class ServerInfo(NamedTuple):
    """What a server says of itself, sizes in bytes.

    ``limit`` is maxmemory, 0 for none. ``backlog`` is what may wait for a subscriber before the server cuts it off, 0
    for any amount, and None if the server does not tell. ``remembers`` is whether a restart loses next to nothing, for
    each write goes into its append-only file; None if it does not tell.
    """

    address: str
    product: str
    version: tuple[int, ...]
    used: int
    limit: int
    machine: int
    policy: str
    backlog: int | None
    remembers: bool | None


async def inspect_servers(target: Target, timeout: float) -> list[ServerInfo]:  # noqa: ASYNC109  # the links keep it
    """Return the facts of each server that holds keys; raise ``Unavailable`` with the sentence of the first trouble."""
    servers = create_topology(target, timeout)
    try:
        await servers.refresh()
    except Unavailable as error:
        raise Unavailable(f"Redis at {target.safe} cannot be reached: {error}.") from error
    found = []
    for name in servers.names():
        address = servers.address(name)
        assert address is not None  # it was just looked up
        credentials = (target.username, target.password)
        try:
            link = await open_connection(
                address, credentials, target.db, target.ssl_context(), lambda _: None, lambda *_: None, (), timeout
            )
            try:
                found.append(await _ask(link, spell(address)))
            finally:
                link.abort("it is no longer needed")
        except (Unavailable, ReplyError) as error:
            raise Unavailable(f"Redis at {spell(address)} cannot be reached: {error}.") from error
    return found


async def _ask(link: RedisConnection, address: str) -> ServerInfo:
    lines = (line.partition(":") for line in (await link.get("INFO")).decode(errors="replace").splitlines())
    info = {name: value.strip() for name, _, value in lines}
    product = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "")
    try:
        limits = greeting_value(
            await link.get("CONFIG", "GET", "client-output-buffer-limit"), b"client-output-buffer-limit"
        )
        words = limits.decode().split()
        backlog = int(words[words.index("pubsub") + 1])
    except (ReplyError, AttributeError, ValueError):  # who rents a server is often not told
        backlog = None
    return ServerInfo(
        address=address,
        product=product,
        version=tuple(int(part) for part in version.split(".") if part.isdecimal()),
        used=int(info.get("used_memory", 0)),
        limit=int(info.get("maxmemory", 0)),
        machine=int(info.get("total_system_memory", 0)),
        policy=info.get("maxmemory_policy", ""),
        backlog=backlog,
        remembers={"1": True, "0": False}.get(info.get("aof_enabled", "")),
    )


class _Deaf:
    """A listener to whom nothing matters."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


async def rehearse(target: Target, prefix: str, wait: float) -> None:
    """Do once all that a node does, under the names that nodes use; raise ``Unavailable`` if some of it is refused.

    It is done in a room that no client can name. What is left of it expires within five minutes.
    """
    name: Final = f"!doctor-{secrets.token_hex(4)}"
    broker = RedisBroker(target, prefix=prefix, wait=wait, history_ttl=1.0)
    deaf: Any = _Deaf()
    await broker.start(deaf)
    try:
        await broker.ping()
        await broker.subscribe([name])
        await broker.publish(name, b"{}", key=name)
        await broker.history(name)
        await broker.admit(name, 1, 1)
        await broker.release(name, 1)
        await broker.enter(name, name, "doctor", 1)
        if await broker.members(name) != [Member(name, "doctor")]:
            raise Unavailable("Redis does not tell who was entered into a room.")
        await broker.rooms()
        await broker.leave(name, name, 1)
        await broker.claim(name, 1.0)
        await broker.settle(name, None)
        await broker.put(name, b"{}", 1.0)
        await broker.take(name)
        await broker.revoke_all(name, 1.0, 1.0)
        await broker.revoke_one(name, name, 1.0)
        if not await broker.is_revoked(name, 1.0, name):
            raise Unavailable("Redis does not tell that a token was revoked.")
    finally:
        await broker.close()
