"""Open a connection to a Redis server: TCP or TLS, HELLO with the credentials, SELECT, and loading the scripts."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...errors import BrokerUnavailable
from .command_check import describe_missing, find_refusals
from .connection import Part, RedisConnection, ReplyError, pack
from .keys import Keys
from .scripts import Script
from .tls import explain

#: User name and password.
Credentials = tuple[str | None, str | None]

_REFUSALS: Final = {
    "WRONGPASS": "it refused the user name or the password in REDIS_URL",
    "NOAUTH": "it requires a password; give it in REDIS_URL",
    "NOPROTO": "it is too old: it does not speak RESP3 (Redis 6.2 or later does)",
    "LOADING": "it is still loading its data",
    "BUSY": "it is busy running a script",
}


async def open_connection(
    address: tuple[str, int] | str,
    credentials: Credentials,
    db: int,
    tls: ssl.SSLContext | None,
    on_push: Callable[[list[Any]], None],
    on_lost: Callable[[RedisConnection, str], None],
    scripts: Sequence[Script],
    timeout: float,  # noqa: ASYNC109  # the connection keeps it
) -> RedisConnection:
    """Connect to ``address``, a host and port or the path of a Unix socket; raise ``Unavailable`` with the reason.

    The server must be a primary. ``scripts`` are loaded, so that EVALSHA finds them. ``on_push``, ``on_lost`` and
    ``timeout``, in seconds, are as in ``RedisConnection``; ``on_lost`` is not called if this raises.
    """
    loop = asyncio.get_running_loop()
    is_ready = False

    def lost(connection: RedisConnection, reason: str) -> None:
        if is_ready:
            on_lost(connection, reason)

    def create() -> RedisConnection:
        return RedisConnection(on_push, lost, timeout)

    connection: RedisConnection | None = None
    try:
        async with asyncio.timeout(timeout):
            if isinstance(address, str):
                _, connection = await loop.create_unix_connection(create, address)
            else:
                _, connection = await loop.create_connection(
                    create, *address, ssl=tls, server_hostname=address[0] if tls else None
                )
            await _set_up(connection, credentials, db, scripts)
            is_ready = True
            if not connection.is_open:
                raise BrokerUnavailable("the connection broke during the handshake")
            return connection
    except TimeoutError:
        # A Redis without TLS waits for the end of the line.
        hint = " the TLS handshake (or does it not use TLS?)" if tls is not None and connection is None else ""
        raise BrokerUnavailable(f"it has not answered{hint} for {timeout:g} s") from None
    except ssl.SSLError as error:
        raise BrokerUnavailable(explain(error)) from error
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise BrokerUnavailable(reason) from error
    finally:
        if not is_ready and connection is not None:
            connection.abort("the handshake failed")


async def _set_up(connection: RedisConnection, credentials: Credentials, db: int, scripts: Sequence[Script]) -> None:
    """Authenticate, check that the server is a primary, select ``db`` and load ``scripts``; raise ``Unavailable``."""
    user, password = credentials
    hello: list[Part] = ["HELLO", 3]
    if password is not None:
        hello += ["AUTH", user or "default", password]
    try:
        hello += ["SETNAME", "roomcast"]
        greeting = await connection.execute(*hello)
        if map_value(greeting, b"role") not in (b"master", b"primary"):
            raise BrokerUnavailable("it is a replica now, not a primary")
        if db:
            await connection.execute("SELECT", db)
        info = await connection.execute("INFO", "server")
        connection.run_id = _info_field(info, b"run_id")
        connection.uptime = int(_info_field(info, b"uptime_in_seconds"))
        connection.generation = generation(connection.run_id, await connection.execute("INFO", "replication"))
        for script in scripts:
            connection.send(pack(("SCRIPT", "LOAD", script.text)), None)
    except ReplyError as error:
        if error.code == "NOPERM":  # name all commands that the user lacks, not only the first one
            refusals = await find_refusals(connection, Keys(""), db)
            rights = [one for one in refusals if one.missing_rule("") == f"+{one.command}"]
            raise BrokerUnavailable(" ".join(f"it {phrase}" for phrase in describe_missing(rights, user, ""))) from None
        raise BrokerUnavailable(_refusal(error, password)) from None  # the error may contain the password


def map_value(reply: Any, name: bytes) -> Any:
    """Return a value of a map reply, which hiredis returns as a dict or as a flat list."""
    if isinstance(reply, dict):
        return reply.get(name)
    return dict(zip(reply[::2], reply[1::2], strict=False)).get(name)


def generation(run_id: bytes, replication: bytes) -> bytes:
    """Return what identifies the data of a server, which ``room.lua`` computes in the same way.

    A restart changes the ``run_id``. A promotion changes the replication id in ``replication``, the reply to INFO
    replication, so that a server that was replaced and promoted again does not assign ids that it has assigned before.
    Raises ``Unavailable``.
    """
    return run_id[:8] + _info_field(replication, b"master_replid")[:8]


def _info_field(info: bytes, name: bytes) -> bytes:
    for line in info.splitlines():
        if line.startswith(name + b":"):
            return line[len(name) + 1 :].strip()
    raise BrokerUnavailable(f"it does not report its {name.decode()} (INFO server)")


def _refusal(error: ReplyError, password: str | None) -> str:
    """Return the reason for which a server refused the handshake, without the password, which some servers repeat."""
    if str(error).startswith("ERR unknown command"):
        return "it has no HELLO or INFO: it is too old (Redis 6.2 or later has both), or they are disabled"
    text = str(error).replace(password, "…") if password else str(error)
    return _REFUSALS.get(error.code, f"it refused the greeting: {text}")
