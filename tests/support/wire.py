"""For tests close to the socket: a client that sends and reads any bytes."""

import asyncio
import json
import socket
import struct
from typing import Any

from waiting import PATIENCE

from roomcast.protocol.frames import CLOSE, PONG, TEXT

#: The masking key of the examples in RFC 6455 section 5.7.
MASK = bytes.fromhex("37fa213d")


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, key: bytes = MASK, rsv: int = 0) -> bytes:
    """Return a client's frame (RFC 6455 section 5.2). It is built byte by byte, without the code under test."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        head += bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + len(payload).to_bytes(8, "big")
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def closing(code: int, reason: str = "") -> bytes:
    """Return a client's close frame."""
    return masked(CLOSE, struct.pack("!H", code) + reason.encode())


class Peer:
    """A client that sends any bytes, valid or not, and reads only when a method is called."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()

    @classmethod
    async def connect(
        cls, address: tuple[str, int] | str, *, receive_buffer: int | None = None, source: str | None = None
    ) -> "Peer":
        """Connect to a port or a Unix socket. With a small ``receive_buffer`` the client is soon full.

        ``source`` is the client's own address. On Linux that can be any address in 127.0.0.0/8.
        """
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            if source is not None:
                sock.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def send(self, data: bytes) -> None:
        """Send bytes unchanged."""
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self.socket, data)

    async def read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes; raise ``EOFError`` if the server closes before."""
        async with asyncio.timeout(PATIENCE):
            while len(self._received) < size:
                data = await self._loop.sock_recv(self.socket, 65536)
                if not data:
                    raise EOFError(f"the server hung up after {bytes(self._received)!r}")
                self._received += data
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def head(self) -> bytes:
        """Read the head of an HTTP response."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += await self.read(1)
        return data

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame; return its opcode and payload. The server must not fragment or mask it."""
        first, length = await self.read(2)
        assert first & 0xF0 == 0x80, f"a fragment, or a frame with reserved bits: {first:#x}"
        assert length < 0x80, "a server must not mask its frames"
        if length == 126:
            (length,) = struct.unpack("!H", await self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.read(8))
        return first & 0x0F, await self.read(length)

    async def event(self) -> dict[str, Any]:
        """Read one frame, which must be text, and return its JSON."""
        opcode, payload = await self.frame()
        assert opcode == TEXT
        event: dict[str, Any] = json.loads(payload)
        return event

    async def closed_with(self) -> tuple[int, str]:
        """Read frames up to the close frame; return its code and reason."""
        opcode = payload = None
        while opcode != CLOSE:
            opcode, payload = await self.frame()
        assert payload is not None
        return struct.unpack_from("!H", payload)[0], payload[2:].decode()

    async def pong(self) -> bytes:
        """Read the next frame, which must be a pong; return its payload."""
        opcode, payload = await self.frame()
        assert opcode == PONG
        return payload

    async def closes_cleanly(self) -> bool:
        """Wait until the server closes; return True if it sends no more bytes and no reset."""
        async with asyncio.timeout(PATIENCE):
            try:
                return not self._received and not await self._loop.sock_recv(self.socket, 1)
            except ConnectionResetError:
                return False

    async def wait_until_closed(self) -> None:
        """Wait until the connection ends in any way, and discard all bytes."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await self._loop.sock_recv(self.socket, 65536):
                    pass
            except ConnectionError:
                pass

    def close(self) -> None:
        """Close the socket without a close frame."""
        self.socket.close()

    def reset(self) -> None:
        """Close the socket with a reset, as a machine does after a crash."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
