"""The way out to clients: what is done for each connection that a frame goes to. ``hot`` has it in C, too."""

from __future__ import annotations

import asyncio


class Outlet:
    """What a connection is to those who write to it.

    ``outlet`` is the transport while frames may be written to it, ``pending`` what waits for the end of the turn:
    nothing, one frame, or several. ``paused`` says that the kernel takes no more: what is written then is given to
    ``hold``. Else the transport, whose write limit is 0, has nothing left to write, and native code may pass it by:
    ``fd`` is then its socket, and -1 where the transport alone may write. It must be -1 before the transport closes
    it, for another client could get its number.
    """

    __slots__ = ("fd", "outlet", "paused", "pending")

    def __init__(self) -> None:
        self.outlet: asyncio.Transport | None = None
        self.pending: bytes | list[bytes] | None = None
        self.fd = -1
        self.paused = False

    def hold(self, data: bytes) -> None:
        """Keep ``data`` until the kernel takes more."""
        raise NotImplementedError


def spread(outlets: dict[Outlet, None], data: bytes, due: list[Outlet]) -> None:
    """Let ``data`` wait for each of ``outlets``; those for which nothing waited yet are added to ``due``."""
    for one in outlets:
        pending = one.pending
        if pending is None:
            one.pending = data
            due.append(one)
        elif pending.__class__ is list:
            pending.append(data)
        else:
            one.pending = [pending, data]  # type: ignore[list-item]


def write_pending(due: list[Outlet]) -> None:
    """Write what waits for each of ``due``, in one piece."""
    for one in due:
        pending = one.pending
        one.pending = None
        outlet = one.outlet  # here, not in a function of its own: 0.1 us for each write
        if pending is not None and outlet is not None:
            data: bytes = pending if pending.__class__ is bytes else b"".join(pending)  # type: ignore[arg-type]
            if one.paused:
                one.hold(data)
            else:
                outlet.write(data)


def batches_writes() -> bool:
    """Whether many writes go to the kernel in one call, which it may forbid; the answer is the same ever after."""
    return False
