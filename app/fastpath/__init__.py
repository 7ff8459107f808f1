"""The inner loops of message handling, in C where that is compiled, otherwise in Python.

Import these names from this module, which selects the implementation:

- ``decode_text_frames``, ``encode_event_frame``: ``text_frames.py``
- ``build_envelope``: ``envelope.py``
- ``WriteQueue``, ``enqueue_all``, ``flush_all``, ``uses_io_uring``: ``write_queue.py``
- ``start_coroutine``: ``coroutine.py``
- ``FieldLoader``: C only; otherwise ``schemas.fast_loader`` generates Python code
- ``NativeSocketPoller``: C only; otherwise the transports read (``transport.socket_poller``)

``native/`` is compiled when roomcast is installed, where there is a C compiler and the system is not Windows. Each C
file has the name of the Python module that it replaces. A write to a socket is a system call of 5 to 10 us. The code
around it takes 0.8 us in Python, most of it in the transport, and 0.1 us in C, which writes to the socket itself. With
io_uring, one system call does all reads or all writes of a loop iteration. CPU time of a delivery in rooms of ten: 5.61
us in Python, 4.54 in C, 4.07 with io_uring; in a room of 1,000: 1.19, 0.95, 0.83; of a message that only returns to its
sender: 20.1, 13.7, 12.8. To find out whether a problem is in the C code or in io_uring, set ``ROOMCAST_NATIVE=0`` or
``ROOMCAST_URING=0``.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

__all__ = [
    "IS_NATIVE",
    "FieldLoader",
    "NativeSocketPoller",
    "WriteQueue",
    "build_envelope",
    "decode_text_frames",
    "direct_fd",
    "encode_event_frame",
    "enqueue_all",
    "flush_all",
    "start_coroutine",
    "uses_io_uring",
]

if TYPE_CHECKING:
    from .._native import FieldLoader as _FieldLoader
    from .._native import SocketPoller as _SocketPoller

#: Checks data against a schema of plain fields; None where it is not compiled.
FieldLoader: type[_FieldLoader] | None = None
#: Reads many sockets at once; None where it is not compiled or the system has no epoll.
NativeSocketPoller: type[_SocketPoller] | None = None

try:
    if os.environ.get("ROOMCAST_NATIVE") == "0":
        raise ImportError("ROOMCAST_NATIVE=0")
    from .. import _native
    from .._native import (
        WriteQueue,
        build_envelope,
        decode_text_frames,
        encode_event_frame,
        enqueue_all,
        flush_all,
        start_coroutine,
        uses_io_uring,
    )
except ImportError:
    from .coroutine import start_coroutine
    from .envelope import build_envelope
    from .text_frames import decode_text_frames, encode_event_frame
    from .write_queue import WriteQueue, enqueue_all, flush_all, uses_io_uring
else:
    FieldLoader = _native.FieldLoader
    NativeSocketPoller = getattr(_native, "SocketPoller", None)

IS_NATIVE: Final = WriteQueue.__module__.endswith("_native")


def direct_fd(transport: asyncio.Transport) -> int:
    """Return the number of the socket under ``transport`` if C code may write to it directly, otherwise -1.

    Do not call this for a transport with TLS.
    """
    socket = transport.get_extra_info("socket") if IS_NATIVE else None
    return -1 if socket is None else int(socket.fileno())
