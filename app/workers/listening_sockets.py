"""Where all workers of ``roomcast serve --workers N`` listen: sockets that the parent binds."""

from __future__ import annotations

import socket
import sys
from typing import Final

from ..web.server import Address
from . import process

#: Linux spreads connections over all sockets that share a port by SO_REUSEPORT; macOS gives them to one.
SPREADS: Final = sys.platform.startswith("linux")


class ListeningSockets:
    """The port or the Unix socket that all workers serve.

    On Linux each worker has a socket of its own for the port (SO_REUSEPORT), and the kernel deals connections out
    evenly, by a hash of their addresses: of 400 that came at once, 187 to 213 went to each of two. From one socket for
    all each takes what it can get, which was 126 to 274, and what a crowd has come back to it stays with for hours.

    The parent keeps a copy of each socket: connections that a worker had not accepted when it died wait for the next to
    take its place, and are not reset. While none is to come for a while, the copy is closed, and all go to the others.
    Unix sockets and other systems know no such thing; there all share one, whose queue outlives every worker.
    """

    def __init__(self, address: Address) -> None:
        self._address: Final = address
        self._spreads: Final = SPREADS and address.unix_socket is None
        self._shared: Final[list[socket.socket]] = []
        self._inode = 0
        self.port = address.port

    def open(self) -> list[socket.socket]:
        """Return the sockets for one worker, bound; who listens on them first opens the door. Raises ``OSError``."""
        if self._shared:
            return self._shared
        if self._address.unix_socket is not None:
            self._shared.append(self._bind_unix())
            return self._shared
        if self._spreads:
            return self._bind(share=True)
        self._shared.extend(self._bind(share=False))
        return self._shared

    def probe(self) -> None:
        """Raise ``OSError`` if somebody listens at the port: with SO_REUSEPORT alone we would share it with them."""
        if self._spreads and self.port:
            self.close(self._bind(share=False))

    def close(self, sockets: list[socket.socket]) -> None:
        """Let connections come to the other workers from now on; no effect on a socket of all."""
        if sockets is not self._shared:
            while sockets:
                sockets.pop().close()

    def close_all(self) -> None:
        """Close what all share, and remove a Unix socket's path."""
        while self._shared:
            self._shared.pop().close()
        if self._address.unix_socket is not None:
            process.remove_socket(self._address.unix_socket, self._inode)

    def _bind_unix(self) -> socket.socket:
        path = self._address.unix_socket
        assert path is not None
        process.make_way(path)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        self._inode = path.stat().st_ino
        return sock

    def _bind(self, *, share: bool) -> list[socket.socket]:
        """Bind to all addresses of the host, as asyncio does; with port 0, to the one that the first was given."""
        infos = socket.getaddrinfo(
            self._address.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets: list[socket.socket] = []
        try:
            for family, type, protocol, _, name in dict.fromkeys(infos):
                sockets.append(sock := socket.socket(family, type, protocol))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if share:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((name[0], self.port, *name[2:]))
                self.port = sock.getsockname()[1]
        except BaseException:
            self.close(sockets)
            raise
        return sockets
