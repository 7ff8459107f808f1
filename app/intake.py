"""The way in from clients: their sockets, read past the transports.

A transport reads each socket by itself: a system call, and 0.7 us until its protocol has the bytes. Where roomcast is
compiled and Linux has epoll, the sockets that are ready are read together, in one call where it has io_uring, and whole
text messages are unmasked straight from what was read: 10 % of the CPU of an echoed message. What is no such message,
the end and errors go the common way.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Final, Protocol

from . import hot


class Reader(Protocol):
    """A connection, as far as it reads."""

    def take(self, payloads: list[bytearray]) -> None:
        """Take whole text messages, which came after all that was read before."""

    def read(self, data: bytes) -> bool:
        """Read anything else; return whether it ends within a message, the rest of which must be read likewise."""

    def hang_up(self) -> None:
        """The socket has ended or failed: remove it, and let its transport read on and deal with that."""

    def failed(self, error: BaseException) -> None:
        """One of the others has raised ``error``, which is not to end the process."""


class Intake:
    """The sockets of one event loop that are read past their transports. Messages have at most ``limit`` bytes.

    Whoever adds a socket pauses its transport, and removes it before the transport closes it.
    """

    __slots__ = ("_context", "_is_watched", "_loop", "_sockets")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop: Final = loop
        #: What clients are heard in, lest it be the context of whoever came first.
        self._context: Final = contextvars.copy_context()
        self._is_watched = False
        self._sockets: Final = None if hot.Sockets is None else hot.Sockets(limit)

    def add(self, fd: int, reader: Reader, *, is_within: bool = False) -> bool:
        """Read the socket ``fd`` for ``reader``; False if its transport must do that.

        ``is_within`` says that the beginning of a message was read already.
        """
        sockets = self._sockets
        if sockets is None or fd < 0:
            return False
        try:
            if not self._is_watched:
                self._context.run(self._loop.add_reader, sockets.fileno(), sockets.read)
                self._is_watched = True
            sockets.add(fd, reader, is_within)
        except OSError:  # more than the system lets one user watch
            self._rest()
            return False
        return True

    def remove(self, fd: int) -> None:
        """Read a socket no more; what was read of it already is still handed over."""
        sockets = self._sockets
        if sockets is not None:
            sockets.remove(fd)
            self._rest()

    def _rest(self) -> None:
        """Leave the loop alone when there is nothing to read."""
        sockets = self._sockets
        if self._is_watched and sockets is not None and not len(sockets):
            self._loop.remove_reader(sockets.fileno())
            self._is_watched = False
