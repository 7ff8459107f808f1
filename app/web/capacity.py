"""How many sockets of clients one server process can have, by its settings and its limit of open files."""

from __future__ import annotations

import math
import sys
from typing import Final, NamedTuple

#: File descriptors that are kept free for everything but clients: the listeners, Redis, the log, the URL in
#: ROOM_ACCESS, plugins, and files. A node uses 20 to 30 of them, and one for each request to that URL.
MAX_RESERVE: Final = 256
MIN_RESERVE: Final = 64
#: Sockets above the limit of WebSockets. New clients, health checks and the HTTP API use them on a full node. Many
#: clients may begin their handshakes at the same time.
MAX_SPARE: Final = 1024
MIN_SPARE: Final = 4


class Capacity(NamedTuple):
    """The limits of one process: of ``connections``, which are WebSockets, and of all ``sockets`` of clients."""

    connections: int
    sockets: int


def capacity(max_connections: int, open_files: int | None, processes: int = 1) -> Capacity:
    """Return the limits of each of ``processes`` server processes.

    ``max_connections`` is the setting, a limit for all processes together; 0 means what ``open_files`` allows.
    ``open_files`` is the limit of each process; None means no limit.
    """
    wanted = math.ceil(max_connections / processes) if max_connections else sys.maxsize
    if open_files is None:
        return Capacity(wanted, min(wanted + MAX_SPARE, sys.maxsize))
    available = open_files - max(MIN_RESERVE, min(MAX_RESERVE, open_files // 4))
    spare = max(MIN_SPARE, min(MAX_SPARE, open_files // 16))
    connections = max(1, min(wanted, available - spare))
    return Capacity(connections, max(connections + spare, min(connections + MAX_SPARE, available)))


def open_file_limit() -> int | None:
    """Return this process's limit of open files; None means no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
