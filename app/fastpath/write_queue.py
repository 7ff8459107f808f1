"""The frames that wait to be written to one connection, and how they reach its socket.

``native/write_queue.c`` is the C twin of this module. ``roomcast.fastpath`` selects one of them.
"""

from __future__ import annotations

import asyncio


class WriteQueue:
    """The write side of a connection. ``transport.Connection`` extends it.

    ``writer`` is the transport to write to; None before the connection is open and after its end is decided.
    ``pending`` holds the frames that wait for the end of the loop iteration: None, one frame, or a list of frames.
    Only this class and its C twin read it. ``paused`` is True while the kernel accepts no more bytes: frames then go to
    ``defer`` instead of the transport. Otherwise the transport's own buffer is empty, because its write limit is 0, and
    C code may write to the socket without the transport: ``fd`` is then the socket's number, and -1 where only the
    transport may write. ``fd`` must be -1 before the transport closes the socket, because the kernel reuses the number.
    """

    __slots__ = ("fd", "paused", "pending", "writer")

    def __init__(self) -> None:
        self.writer: asyncio.Transport | None = None
        self.pending: bytes | list[bytes] | None = None
        self.fd = -1
        self.paused = False

    def enqueue(self, frame: bytes) -> bool:
        """Append ``frame``; return True if the queue was empty, so that the caller must schedule a flush."""
        pending = self.pending
        if pending is None:
            self.pending = frame
            return True
        if pending.__class__ is list:
            pending.append(frame)
        else:
            self.pending = [pending, frame]  # type: ignore[list-item]
        return False

    def take(self) -> bytes | None:
        """Remove all frames and return them joined, or None if there are none."""
        pending, self.pending = self.pending, None
        return b"".join(pending) if isinstance(pending, list) else pending

    @property
    def queued_bytes(self) -> int:
        """The size of the frames in the queue, in bytes."""
        pending = self.pending
        if pending is None:
            return 0
        return len(pending) if isinstance(pending, bytes) else sum(map(len, pending))

    def defer(self, data: bytes) -> None:
        """Keep ``data`` until the kernel accepts more bytes."""
        raise NotImplementedError


def enqueue_all(queues: dict[WriteQueue, None], frame: bytes, dirty: list[WriteQueue]) -> None:
    """Append ``frame`` to each of ``queues``; add those that were empty to ``dirty``."""
    for queue in queues:
        pending = queue.pending  # inlined from enqueue: a call costs 0.05 us for each member of a room
        if pending is None:
            queue.pending = frame
            dirty.append(queue)
        elif pending.__class__ is list:
            pending.append(frame)
        else:
            queue.pending = [pending, frame]  # type: ignore[list-item]


def flush_all(dirty: list[WriteQueue]) -> None:
    """Write the frames of each queue in ``dirty``, one write for each connection."""
    for queue in dirty:
        pending = queue.pending
        queue.pending = None
        writer = queue.writer  # inlined from take: a call costs 0.1 us for each write
        if pending is not None and writer is not None:
            data: bytes = pending if pending.__class__ is bytes else b"".join(pending)  # type: ignore[arg-type]
            if queue.paused:
                queue.defer(data)
            else:
                writer.write(data)


def uses_io_uring() -> bool:
    """True if one system call writes to many sockets. The answer does not change while the process runs."""
    return False
