"""Check the Redis servers of REDIS_URL, and perform each operation of a node on them once."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from ...broker.redis.inspection import ServerInfo, inspect_servers, rehearse
from ...broker.redis.urls import Target
from ...errors import SettingsError, Unavailable
from ...settings import Settings
from ...workers.process import redis_target
from .finding import FAIL, OK, WARN, Finding

#: The oldest supported versions. Redis 6.2 added GETDEL, 7.0 sharded pub/sub in a Cluster.
OLDEST: Final = (6, 2)
OLDEST_CLUSTER: Final = (7, 0)
#: A server that uses more than this part of its memory is nearly full.
FULL: Final = 0.8
#: Up to 128 messages of 128 KiB are sent together. With a smaller output buffer, each such burst disconnects the node.
MIN_OUTPUT_BUFFER: Final = 16 * 2**20
_OUTPUT_BUFFER: Final = '"pubsub 32mb 8mb 60"'
#: How long the operations of a node may take, beyond the time to connect, in seconds.
REHEARSAL_TIMEOUT: Final = 5.0
#: The rights that the user of REDIS_URL needs. ``broker.redis.keys`` defines the names of keys and channels.
RIGHTS: Final = "~*{prefix}:* &*{prefix}:* +@all -@admin -@dangerous +info"

_NULL_HANDLER: Final = logging.NullHandler()


async def check_redis(environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Check all servers of REDIS_URL. Yield nothing if it is not set or the Redis settings are wrong."""
    own = {name: value for name, value in environ.items() if name.startswith("REDIS_")}
    try:
        settings = Settings.from_env({**own, "JWT_SECRET": secrets.token_hex(32)})
    except SettingsError:
        return  # ``check_settings`` reports it
    if settings.redis_url is None:
        return
    logging.getLogger("roomcast.redis").addHandler(_NULL_HANDLER)  # errors become findings, not log lines
    try:
        target = redis_target(settings.redis_url, settings)
        for finding in _check_tls(target, settings):
            yield finding
        for server in await inspect_servers(target, settings.redis_timeout):
            for finding in check_server(server, target.kind == "cluster"):
                yield finding
    except (SettingsError, Unavailable) as error:
        yield Finding(FAIL, _sentence(error))
    else:
        yield await _rehearse(target, settings)


def _check_tls(target: Target, settings: Settings) -> Iterator[Finding]:
    if target.tls is None:
        for name in ("redis_ca", "redis_cert"):
            if getattr(settings, name) is not None:
                yield Finding(WARN, f"{name.upper()} has no effect, because REDIS_URL does not use TLS (rediss://).")
    elif not target.tls.verify:
        yield Finding(WARN, "REDIS_TLS_VERIFY is false: others in the network can pose as Redis, and read all data.")


async def _rehearse(target: Target, settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(settings.redis_wait + REHEARSAL_TIMEOUT):
            await rehearse(target, settings.redis_prefix, settings.redis_wait)
    except (TimeoutError, SettingsError, Unavailable) as error:
        rights = RIGHTS.format(prefix=settings.redis_prefix)
        hint = f" A node needs these rights in all: {rights}." if target.username else ""
        return Finding(FAIL, f"{_sentence(error) or 'Redis did not perform all operations of a node in time.'}{hint}")
    return Finding(OK, "Redis performs all operations that a node needs.")


def _sentence(error: Exception) -> str:
    return error.detail if isinstance(error, Unavailable) else str(error)


def check_server(server: ServerInfo, is_cluster: bool) -> Iterator[Finding]:
    """Check the version, the memory and the configuration of one server."""
    name = f"{server.product} at {server.address}"
    version = ".".join(map(str, server.version))
    oldest = OLDEST_CLUSTER if is_cluster else OLDEST
    if server.version >= oldest:
        yield Finding(OK, f"{name} answers (version {version}).")
    else:
        required = ".".join(map(str, oldest))
        yield Finding(FAIL, f"{name} is too old: it has version {version}, and {required} or later is required.")
    yield from _check_memory(server, name)
    if server.is_durable is False:
        yield Finding(
            WARN,
            f"{name} loses token revocations when it restarts. Set appendonly yes, unless you never revoke tokens.",
        )
    if server.output_buffer is None:
        yield Finding(OK, f"{name} does not show its client-output-buffer-limit for pubsub. The default is sufficient.")
    elif server.output_buffer == 0:
        yield Finding(
            WARN,
            f"{name} has no client-output-buffer-limit for pubsub, so a node that hangs can fill its memory. "
            f"Set it to {_OUTPUT_BUFFER}.",
        )
    elif server.output_buffer < MIN_OUTPUT_BUFFER:
        yield Finding(
            WARN,
            f"{name} disconnects nodes that have {server.output_buffer} bytes to read, which a burst of messages "
            f"exceeds. Set client-output-buffer-limit {_OUTPUT_BUFFER}.",
        )


def _check_memory(server: ServerInfo, name: str) -> Iterator[Finding]:
    """Check what happens when the memory is full.

    With noeviction Redis refuses writes, and publishers get an error. Any other policy deletes data without an error.
    """
    if server.eviction_policy and server.eviction_policy != "noeviction":
        yield Finding(
            FAIL if server.max_memory else WARN,
            f"{name} has maxmemory-policy {server.eviction_policy}: when it is full, it deletes the histories of rooms "
            "and the connections of users without an error. Set it to noeviction; then publishers get an error "
            "instead.",
        )
    limit = server.max_memory or server.system_memory
    if limit and server.used_memory > FULL * limit:
        yield Finding(WARN, f"{name} is nearly full: it uses {_mib(server.used_memory)} of {_mib(limit)}.")
    elif not server.max_memory:
        yield Finding(
            WARN, f"{name} has no maxmemory: it can use all memory of its machine, until the kernel kills it. Set one."
        )
    else:
        yield Finding(OK, f"{name} has free memory: it uses {_mib(server.used_memory)} of {_mib(limit)}.")


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
