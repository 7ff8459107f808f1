"""Ends HTTP connections whose client does not read the response.

A response that the client does not read stays in memory, and so do the requests behind it. A slow client that makes
progress keeps its connection. The progress is what the client's kernel has acknowledged: the size of the transport's
buffer can stay the same for many seconds, because the kernel takes more only after a third of its own buffer is free,
and with TLS it excludes what is encrypted already.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Final, NamedTuple

from aiohttp import web

from ..aiohttp_internals import HttpConnection, http_transports
from .failure_logs import FailureLogs

#: How many bytes a client must read within HANDSHAKE_TIMEOUT, or all outstanding bytes if they are fewer.
MIN_PROGRESS: Final = 4096
#: How many bytes of a response may be outstanding when the next request of the connection is handled.
MAX_UNREAD: Final = 65_536
#: How often ``wait_until_read`` checks, in seconds.
_INTERVAL: Final = 0.05
#: The fields tcpi_unacked, tcpi_bytes_acked and tcpi_notsent_bytes of ``struct tcp_info`` (linux/tcp.h).
_TCP_INFO: Final = struct.Struct("=24xI92xQ16xI")
#: With this value of SO_LINGER, the kernel sends a reset and discards what it has not sent.
_RESET: Final = struct.pack("ii", 1, 0)


class _Progress(NamedTuple):
    """How many bytes the client has read so far, when that was found, and how many are outstanding."""

    read: int
    since: float
    outstanding: int


class UnreadResponses:
    """Checks the connections of ``server``. ``timeout`` is HANDSHAKE_TIMEOUT in seconds."""

    def __init__(self, server: web.Server, timeout: float, logs: FailureLogs) -> None:
        self._server: Final = server
        self._timeout: Final = timeout
        self._logs: Final = logs
        #: The connections with a response that was not read completely when they were last checked.
        self._unread: dict[HttpConnection, _Progress] = {}

    def abort_stalled(self, now: float) -> None:
        """Abort connections that have read less than ``MIN_PROGRESS`` for ``timeout`` seconds. Call it regularly."""
        previous, self._unread = self._unread, {}
        for connection, transport in http_transports(self._server):
            if not (connection.may_be_unread or connection.is_responding):
                continue
            progress = _measure(transport, now)
            if not progress.outstanding:
                connection.may_be_unread = False
                continue
            before = previous.get(connection)
            if before is not None and progress.read - before.read < MIN_PROGRESS:
                progress = before
            if now - progress.since < self._timeout:
                self._unread[connection] = progress
            else:
                text = f"dropped a connection that did not read a response for {self._timeout:g} s"
                self._logs.add_refusal("unread", text)
                _reset(transport)


async def wait_until_read(transport: asyncio.Transport, limit: int) -> None:
    """Wait until at most ``limit`` bytes are outstanding, or ``abort_stalled`` has ended the connection."""
    while not transport.is_closing():
        if _measure(transport, 0).outstanding <= limit:
            break
        await asyncio.sleep(_INTERVAL)


def _measure(transport: asyncio.Transport, now: float) -> _Progress:
    buffered = transport.get_write_buffer_size()
    if sys.platform == "linux":
        try:
            info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            unacked, acked, unsent = _TCP_INFO.unpack(info)
        except (OSError, struct.error, ValueError):
            pass  # a Unix socket, Linux before 4.6, or a socket that uvloop has closed in this loop iteration
        else:
            return _Progress(acked, now, buffered + unacked + unsent)
    return _Progress(-buffered, now, buffered)


def _reset(transport: asyncio.Transport) -> None:
    """Close without waiting until the client has read what the kernel has accepted."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
