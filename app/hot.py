"""The inner loops of the hot path: in C where that was compiled, else as ``envelope``, ``frames``, ``outlet`` and
``step`` have them, and as ``schemas`` generates them.

``native/`` is compiled when roomcast is installed, where there is a C compiler and the system is not Windows. A write
to a socket is a system call of 5 to 10 us. What comes around it is 0.8 us in Python, most of it the transport's, and
0.1 us in C, which writes to the socket itself. Where Linux has io_uring, all reads and all writes of a turn go to it
in one call. CPU of a delivery, in rooms of ten: 5.61 us in Python, 4.54 in C, 4.07 with io_uring; in a room of 1,000:
1.19, 0.95, 0.83; of a message that comes back to its sender alone: 20.1, 13.7, 12.8. ``ROOMCAST_NATIVE=0`` in the
environment leaves the C out, and ``ROOMCAST_URING=0`` io_uring, to see whether a trouble is theirs.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

__all__ = [
    "IS_NATIVE",
    "Loader",
    "Outlet",
    "Sockets",
    "batches_writes",
    "envelope",
    "event",
    "socket_of",
    "spread",
    "step",
    "texts",
    "write_pending",
]

if TYPE_CHECKING:
    from ._native import Loader as _Loader
    from ._native import Sockets as _Sockets

#: What ``schemas`` checks data with, where it was compiled.
Loader: type[_Loader] | None = None
#: What ``intake`` reads sockets with, where it was compiled and the system has epoll.
Sockets: type[_Sockets] | None = None

try:
    if os.environ.get("ROOMCAST_NATIVE") == "0":
        raise ImportError("the environment says so")
    from . import _native
    from ._native import Outlet, batches_writes, envelope, event, spread, step, texts, write_pending
except ImportError:
    from .envelope import envelope
    from .frames import event, texts
    from .outlet import Outlet, batches_writes, spread, write_pending
    from .step import step
else:
    Loader = _native.Loader
    Sockets = getattr(_native, "Sockets", None)

IS_NATIVE: Final = Outlet.__module__.endswith("_native")


def socket_of(transport: asyncio.Transport) -> int:
    """Return the number of the socket of ``transport``, without TLS, if it will be written to directly; else -1."""
    socket = transport.get_extra_info("socket") if IS_NATIVE else None
    return -1 if socket is None else int(socket.fileno())
