"""The inner loops of the hot path: in C where that was compiled, else as ``frames`` and ``outlet`` have them.

``native/native.c`` is compiled when roomcast is installed, where there is a C compiler and the system is not Windows.
A write to a socket is a system call of 5 to 10 us. What comes around it is 0.8 us in Python, most of it the
transport's, and 0.1 us in C, which writes to the socket itself: a fifth of the server's CPU in rooms of ten.
``ROOMCAST_NATIVE=0`` in the environment leaves the C out, to see whether a trouble is its.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

__all__ = ["IS_NATIVE", "Outlet", "event", "socket_of", "spread", "texts", "write_all", "write_pending"]

try:
    if os.environ.get("ROOMCAST_NATIVE") == "0":
        raise ImportError("the environment says so")
    from ._native import Outlet, event, spread, texts, write_all, write_pending
except ImportError:
    from .frames import event, texts
    from .outlet import Outlet, spread, write_all, write_pending

IS_NATIVE: Final = Outlet.__module__.endswith("_native")


def socket_of(transport: asyncio.Transport) -> int:
    """Return the number of the socket of ``transport``, without TLS, if it will be written to directly; else -1."""
    socket = transport.get_extra_info("socket") if IS_NATIVE else None
    return -1 if socket is None else int(socket.fileno())
