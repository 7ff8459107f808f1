"""A WebSocket client (RFC 6455, the client's side), for the commands that meet a server as its users do.

It is small and quick because ``roomcast bench`` holds thousands of it on one core: one object per connection, no task,
no queue. ``Stream`` is the one to ``await`` on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import ssl
import struct
from typing import Final, NamedTuple, Self, cast

from yarl import URL

from ..errors import RoomcastError
from ..protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

#: Where a server is found if nothing else is said.
AUTHORITY: Final = "127.0.0.1:8000"
#: Where a server listens for WebSockets, if a URL names no path.
PATH: Final = "/api/v1/ws/connect"
#: The longest frame, and the longest head of a response, that is read, in bytes.
MAX_FRAME: Final = 16 * 1024 * 1024
MAX_HEAD: Final = 64 * 1024
#: How long connecting and the handshake may take together, in seconds.
OPEN_TIMEOUT: Final = 10.0

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_FINAL_TEXT: Final = 0x80 | TEXT


class Unreachable(RoomcastError):
    """There was no connection to be had; the message is a sentence that names the address and the reason."""


class End(NamedTuple):
    """How a connection ended: a close code with its reason, or below 1000 the status of an HTTP answer instead of 101.

    Code 1006 is a connection that was lost without a close frame, 1005 one that was closed without a code.
    """

    code: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{'HTTP status ' if self.code < 1000 else ''}{self.code}{self.reason and ' '}{self.reason}"


class Ended(RoomcastError):
    """The connection is over; ``end`` says how."""

    def __init__(self, end: End) -> None:
        super().__init__(f"the connection ended: {end}")
        self.end = end


class Target(NamedTuple):
    """A server's address, as a URL named it; ``path`` has the query."""

    host: str
    port: int
    path: str
    tls: bool

    @property
    def authority(self) -> str:
        """Host and port, as in a URL and a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def http(self) -> str:
        """The URL of the server's HTTP side."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def target(url: str) -> Target:
    """Read a ws://, wss://, http:// or https:// URL; without a path it means ``PATH``. Raises ``RoomcastError``."""
    try:
        parsed = URL(url)
        port = parsed.port
    except ValueError:
        parsed, port = URL(), None
    if parsed.scheme not in ("ws", "wss", "http", "https") or not parsed.host or not port:
        raise RoomcastError(f"{url!r} is not the URL of a server; give one like ws://127.0.0.1:8000.")
    path = parsed.raw_path_qs if parsed.path not in ("", "/") else PATH + parsed.raw_path_qs.lstrip("/")
    return Target(parsed.raw_host or parsed.host, port, path, parsed.scheme in ("wss", "https"))


def masked(opcode: int, payload: bytes) -> bytes:
    """Build a final frame with a new mask, as a client must (section 5.3)."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
    key = os.urandom(4)
    mask = (key * (length // 4 + 1))[:length]
    body = int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")  # 0.7 us for 150 bytes; byte by byte, 11
    return head + key + body.to_bytes(length, "little")


class WebSocketClient(asyncio.Protocol):
    """One connection to ``target``; a subclass says what happens. ``connect`` opens it.

    ``on_open`` is called after the handshake, ``on_text`` with each text message, ``on_end`` once, when it is over.
    Pings are answered here.
    """

    __slots__ = ("_buffer", "_end", "_fragments", "_key", "_target", "_token", "_transport", "is_open")

    def __init__(self, target: Target, token: str | None) -> None:
        self.is_open = False
        self._target = target
        self._token = token
        self._key = b""
        self._buffer = b""
        self._fragments = b""
        self._end: End | None = None
        self._transport: asyncio.Transport | None = None

    def on_open(self) -> None:
        """Be told that messages can be sent."""

    def on_text(self, payload: bytes) -> None:
        """Be given a text message."""

    def on_end(self, end: End) -> None:
        """Be told that the connection is over, or never came to be."""

    async def connect(self) -> None:
        """Connect, and send the handshake; its answer comes to ``on_open`` or ``on_end``. Raises ``Unreachable``."""
        at, loop = self._target, asyncio.get_running_loop()
        tls = ssl.create_default_context() if at.tls else None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await loop.create_connection(lambda: self, at.host, at.port, ssl=tls)
        except TimeoutError:
            raise Unreachable(f"{at.authority} does not answer.") from None
        except OSError as error:
            raise Unreachable(f"{at.authority} cannot be reached: {why(error)}.") from error

    def send(self, payload: bytes) -> None:
        """Send a text message; after the end, do nothing."""
        self._write(masked(TEXT, payload))

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._write(masked(PING, b""))

    def close(self, code: int = 1000) -> None:
        """Say goodbye, and hang up as soon as that is sent; the server's own goodbye is not waited for."""
        if self._transport is not None:
            self._end = self._end or End(code)
            self._transport.write(masked(CLOSE, struct.pack("!H", code)))
            self._transport.close()

    def abort(self) -> None:
        """Hang up without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade. The token goes in a header: URLs end up in the logs of proxies."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._key = base64.b64encode(os.urandom(16))
        bearer = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        head = (
            f"GET {self._target.path} HTTP/1.1\r\nHost: {self._target.authority}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {self._key.decode()}\r\n"
            f"{bearer}\r\n"
        )
        transport.write(head.encode("ascii", "replace"))

    def data_received(self, data: bytes) -> None:
        """Read the handshake's answer, then frames."""
        if self._buffer:
            data = self._buffer + data
        if self._end is None:
            self._buffer = self._frames(data) if self.is_open else self._handshake(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self.is_open = False
        self._transport = None
        self._buffer = b""
        self.on_end(self._end or End(1006, why(exc) if exc else "Connection Lost"))

    def _handshake(self, data: bytes) -> bytes:
        """Read an HTTP response; return what is left of ``data``."""
        head, complete, rest = data.partition(b"\r\n\r\n")
        if not complete:
            if len(head) > MAX_HEAD:
                self._fail(End(1002, "The answer is not HTTP"))
            return data
        lines = head.decode("latin-1").split("\r\n")
        status = lines[0].split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        digest = hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest()
        if status[1:2] != ["101"]:
            words = rest.decode("utf-8", "replace").strip().split("\n")[0][:200] or " ".join(status[2:])
            self._fail(End(int(status[1]), words) if status[1:] and status[1].isdecimal() else End(1002, "No HTTP"))
        elif headers.get("sec-websocket-accept", "").encode() != binascii.b2a_base64(digest, newline=False):
            self._fail(End(1002, "The answer is not that of a WebSocket server"))
        else:
            self.is_open = True
            self.on_open()
            return self._frames(rest)
        return b""

    def _frames(self, data: bytes) -> bytes:
        """Take all whole frames out of ``data``; return what is left."""
        position, size = 0, len(data)
        while size - position >= 2:
            first, length, start = data[position], data[position + 1], position + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[start - 2 : start], "big")
            elif length == 127:
                start += 8
                length = int.from_bytes(data[start - 8 : start], "big")
            if length > MAX_FRAME:
                self._fail(End(1009, "The server sent a frame that is too long"))
                return b""
            if start > size or start + length > size:
                break
            payload = data[start : start + length]
            position = start + length
            if first == _FINAL_TEXT:
                self.on_text(payload)
            else:
                self._other(first, payload)
        return data[position:]

    def _other(self, first: int, payload: bytes) -> None:
        """Take a frame that is no whole text message: a control frame, or a part of what a proxy has split."""
        opcode = first & 0x0F
        if opcode == PING:
            self._write(masked(PONG, payload))
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self._end = End(code, payload[2:].decode("utf-8", "replace"))
            self._write(masked(CLOSE, payload[:2]))
            if self._transport is not None:
                self._transport.close()
        elif opcode in (TEXT, CONTINUATION) and len(self._fragments) <= MAX_FRAME:
            self._fragments += payload
            if first & 0x80:
                payload, self._fragments = self._fragments, b""
                self.on_text(payload)
        elif opcode != PONG:
            self._fail(End(1003 if opcode == BINARY else 1002, "The server sent what no roomcast sends"))

    def _fail(self, end: End) -> None:
        """Hang up for what the server did."""
        self._end = end
        self.abort()


class Stream(WebSocketClient):
    """A connection whose messages wait until they are received. ``await Stream.open(…)`` makes one."""

    __slots__ = ("_arrived",)

    def __init__(self, target: Target, token: str | None) -> None:
        super().__init__(target, token)
        self._arrived: asyncio.Queue[bytes | End | None] = asyncio.Queue()

    @classmethod
    async def open(cls, target: Target, token: str | None) -> Self:
        """Connect; raise ``Unreachable``, or ``Ended`` if the server answers but not with a WebSocket."""
        stream = cls(target, token)
        await stream.connect()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                opened = await stream._arrived.get()
        except TimeoutError:
            stream.abort()
            raise Unreachable(f"{target.authority} accepts connections, but does not answer.") from None
        if isinstance(opened, End):
            raise Ended(opened)
        return stream

    async def receive(self) -> bytes:
        """Return the next text message; raise ``Ended`` when there will be none."""
        message = await self._arrived.get()
        if isinstance(message, End):
            self._arrived.put_nowait(message)
            raise Ended(message)
        assert message is not None
        return message

    def on_open(self) -> None:
        """Let ``open`` go on."""
        self._arrived.put_nowait(None)

    def on_text(self, payload: bytes) -> None:
        """Keep the message."""
        self._arrived.put_nowait(payload)

    def on_end(self, end: End) -> None:
        """Let whoever waits know."""
        self._arrived.put_nowait(end)


def why(error: Exception) -> str:
    """Return why a connection failed, in an operating system's or TLS's words, without numbers and C identifiers."""
    error = getattr(error, "os_error", error)  # aiohttp's wrap the one that tells
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS as expected ({error.reason or error})"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
