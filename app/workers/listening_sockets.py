"""The sockets on which the workers of ``roomcast serve --workers N`` listen. The supervisor binds them."""

from __future__ import annotations

import socket
import sys
from typing import Final

from ..web import tcp_sockets
from ..web.port import Address, ListenError
from . import unix_socket

#: True where the kernel spreads connections over all sockets that share a port by SO_REUSEPORT. Linux does; macOS gives
#: all connections to one socket.
HAS_BALANCING: Final = sys.platform.startswith("linux")


class ListeningSockets:
    """The sockets of all workers for one port or Unix socket.

    On Linux each worker has a socket of its own for the port (SO_REUSEPORT). The kernel distributes connections by a
    hash of their addresses: of 400 simultaneous connections, each of two workers got 187 to 213. With one shared
    socket, each worker accepts what it can, and got 126 to 274. Long-lived connections keep such an imbalance for
    hours.

    The supervisor keeps every socket open. Connections that a worker had not accepted when it died are therefore not
    reset: its replacement accepts them. During a pause before the replacement starts, the supervisor closes the socket,
    so that new connections go to the other workers.

    A Unix socket cannot be shared by SO_REUSEPORT, and other systems do not balance. In both cases all workers use one
    socket, which stays open as long as any process has it.
    """

    def __init__(self, address: Address) -> None:
        self.address: Final = address
        self._is_balanced: Final = HAS_BALANCING and address.unix_socket is None
        #: The sockets of each worker by its number, if the workers have sockets of their own.
        self._own: Final[dict[int, list[socket.socket]]] = {}
        self._shared: Final[list[socket.socket]] = []
        self._inode = 0
        self.port = address.port

    def of(self, worker: int) -> list[socket.socket]:
        """Return the sockets of a worker. Bind them if they are not open. Raises ``ListenError``."""
        try:
            if self._is_balanced:
                return self._own.get(worker) or self._own.setdefault(worker, self._bind_tcp(share=True))
            if not self._shared:
                is_unix = self.address.unix_socket is not None
                self._shared.extend([self._bind_unix()] if is_unix else self._bind_tcp(share=False))
        except OSError as error:
            raise ListenError(self.address, error) from error
        return self._shared

    def check_port(self) -> None:
        """Raise ``ListenError`` if the port is in use. SO_REUSEPORT alone would let two servers share it unnoticed."""
        if not self._is_balanced or not self.port:
            return
        try:
            sockets = self._bind_tcp(share=False)
        except OSError as error:
            raise ListenError(self.address, error) from error
        for sock in sockets:
            sock.close()

    def close(self, worker: int) -> None:
        """Close the own sockets of a worker, so that new connections go to the others. Keep a shared socket open."""
        for sock in self._own.pop(worker, ()):
            sock.close()

    def close_all(self) -> None:
        """Close all sockets, and remove the file of a Unix socket. Another call does nothing."""
        for worker in list(self._own):
            self.close(worker)
        if self._shared and self.address.unix_socket is not None:
            unix_socket.remove_own(self.address.unix_socket, self._inode)
        while self._shared:
            self._shared.pop().close()

    def _bind_unix(self) -> socket.socket:
        path = self.address.unix_socket
        assert path is not None
        unix_socket.remove_stale(path)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        self._inode = path.stat().st_ino
        return sock

    def _bind_tcp(self, *, share: bool) -> list[socket.socket]:
        """Bind to all addresses of the hosts. Port 0 becomes the port that the first socket got."""
        sockets = tcp_sockets.bind(self.address.hosts, self.port, share=share)
        self.port = sockets[0].getsockname()[1]
        return sockets
