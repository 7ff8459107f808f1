"""A WebSocket client (RFC 6455) for the commands that connect to a server as its users do.

``roomcast bench`` opens thousands of connections on one core, and must not be slower than the server. Therefore a
connection is one object, without a task or a queue. aiohttp's client takes 7.0 us of CPU time for a message of 180
bytes and 590 us to connect and receive the ``connected`` frame; this one takes 3.7 us and 210 us. ``listen`` and
``doctor`` use it through ``Stream``, because aiohttp's client drops the body of a refused upgrade, which contains the
reason.

Frames are built with ``encode_frame``, as on the server. They are parsed in this module, because
``protocol.frames.FrameReader`` accepts masked frames only, and takes 2.8 us for each.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import os
import ssl
import struct
from typing import Final, NamedTuple, Self, cast

from ..aiohttp_internals import websocket_mask
from ..errors import RoomcastError
from ..fastpath.text_frames import FINAL_TEXT, encode_frame
from ..protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from .exit_status import Unreachable
from .target import Target, connection_error

#: The maximum sizes of a frame and of the head of the handshake's response, in bytes.
MAX_FRAME: Final = 16 * 1024 * 1024
MAX_HEAD: Final = 64 * 1024
#: How long the connection and the handshake may take, in seconds each.
OPEN_TIMEOUT: Final = 10.0

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_FIN: Final = 0x80
_MASKED: Final = 0x80


class End(NamedTuple):
    """The end of a connection: the close code and the reason.

    A code below 1000 is the HTTP status with which the server refused the upgrade. 1005 is a close frame without a
    code, 1006 a connection that was lost without a close frame.
    """

    code: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{'HTTP status ' if self.code < 1000 else ''}{self.code}{self.reason and ' '}{self.reason}"


class Ended(RoomcastError):
    """The connection has ended; ``end`` has the code and the reason."""

    def __init__(self, end: End) -> None:
        super().__init__(f"the connection ended: {end}")
        self.end = end


def _reason(body: bytes) -> str:
    """Return the sentence in the body of a refusal: ``error`` of roomcast's JSON, or the first line of other text."""
    text = body.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"])
    return text.partition("\n")[0][:200]


def encode_masked(opcode: int, payload: bytes) -> bytes:
    """Build a final frame with a random mask, as a client must (section 5.3)."""
    frame = bytearray(encode_frame(_FIN | opcode, payload))
    header = len(frame) - len(payload)
    frame[1] |= _MASKED
    key = os.urandom(4)
    body = frame[header:]
    websocket_mask(key, body)
    return b"".join((frame[:header], key, body))


class WebSocketClient(asyncio.Protocol):
    """One connection to ``target``, opened by ``connect``.

    Subclasses override ``on_open``, ``on_text`` and ``on_end``. This class answers pings.
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
        """Called after the handshake: messages can be sent."""

    def on_text(self, payload: bytes) -> None:
        """Called with each text message."""

    def on_end(self, end: End) -> None:
        """Called once, when the connection has ended or the handshake has failed."""

    async def connect(self) -> None:
        """Connect and send the handshake. ``on_open`` or ``on_end`` follows. Raises ``Unreachable``."""
        target, loop = self._target, asyncio.get_running_loop()
        tls = ssl.create_default_context() if target.tls else None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await loop.create_connection(lambda: self, target.host, target.port, ssl=tls)
        except TimeoutError:
            raise Unreachable(f"{target.authority} does not answer.") from None
        except OSError as error:
            raise Unreachable(f"{target.authority} cannot be reached: {connection_error(error)}.") from error

    def send(self, payload: bytes) -> None:
        """Send a text message. Do nothing after the end."""
        self._write(encode_masked(TEXT, payload))

    def ping(self) -> None:
        """Send a ping."""
        self._write(encode_masked(PING, b""))

    def close(self, code: int = 1000) -> None:
        """Send a close frame and close the socket, without waiting for the server's close frame."""
        if self._transport is not None:
            self._end = self._end or End(code)
            self._transport.write(encode_masked(CLOSE, struct.pack("!H", code)))
            self._transport.close()

    def abort(self) -> None:
        """Close the socket at once, without a close frame."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the upgrade request. The token is in a header, because proxies log URLs."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._key = base64.b64encode(os.urandom(16))
        bearer = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        head = (
            f"GET {self._target.path} HTTP/1.1\r\nHost: {self._target.authority}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {self._key.decode()}\r\n"
            f"{bearer}\r\n"
        )
        transport.write(head.encode("ascii", "replace"))

    def data_received(self, data: bytes) -> None:
        """Read the handshake's response, then frames."""
        if self._buffer:
            data = self._buffer + data
        if self._end is None:
            self._buffer = self._read_frames(data) if self.is_open else self._read_handshake(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self.is_open = False
        self._transport = None
        self._buffer = b""
        self.on_end(self._end or End(1006, connection_error(exc) if exc else "Connection Lost"))

    def _read_handshake(self, data: bytes) -> bytes:
        """Read the HTTP response; return the rest of ``data``."""
        head, complete, rest = data.partition(b"\r\n\r\n")
        if not complete:
            if len(head) > MAX_HEAD:
                self._fail(End(1002, "The answer is not HTTP"))
            return data
        lines = head.decode("latin-1").split("\r\n")
        status = lines[0].split(" ", 2)
        fields = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        digest = hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest()
        if status[1:2] != ["101"]:
            reason = _reason(rest) or " ".join(status[2:])
            self._fail(End(int(status[1]), reason) if status[1:] and status[1].isdecimal() else End(1002, "No HTTP"))
        elif headers.get("sec-websocket-accept", "").encode() != binascii.b2a_base64(digest, newline=False):
            self._fail(End(1002, "The answer is not that of a WebSocket server"))
        else:
            self.is_open = True
            self.on_open()
            return self._read_frames(rest)
        return b""

    def _read_frames(self, data: bytes) -> bytes:
        """Handle all whole frames in ``data``; return the rest."""
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
            if first == FINAL_TEXT:
                self.on_text(payload)
            else:
                self._handle_other(first, payload)
        return data[position:]

    def _handle_other(self, first: int, payload: bytes) -> None:
        """Handle a control frame, or a fragment of a message that a proxy has split."""
        opcode = first & 0x0F
        if opcode == PING:
            self._write(encode_masked(PONG, payload))
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self._end = End(code, payload[2:].decode("utf-8", "replace"))
            self._write(encode_masked(CLOSE, payload[:2]))
            if self._transport is not None:
                self._transport.close()
        elif opcode in (TEXT, CONTINUATION) and len(self._fragments) <= MAX_FRAME:
            self._fragments += payload
            if first & _FIN:
                payload, self._fragments = self._fragments, b""
                self.on_text(payload)
        elif opcode != PONG:
            self._fail(End(1003 if opcode == BINARY else 1002, "The server sent a frame that roomcast never sends"))

    def _fail(self, end: End) -> None:
        """Close the socket because the server broke the protocol."""
        self._end = end
        self.abort()


class Stream(WebSocketClient):
    """A connection whose messages are queued until ``receive`` returns them. Open it with ``Stream.open``."""

    __slots__ = ("_queue",)

    def __init__(self, target: Target, token: str | None) -> None:
        super().__init__(target, token)
        #: Messages, after None for the handshake; the end is the last element.
        self._queue: asyncio.Queue[bytes | End | None] = asyncio.Queue()

    @classmethod
    async def open(cls, target: Target, token: str | None) -> Self:
        """Connect. Raises ``Unreachable``, or ``Ended`` if the server refuses the upgrade."""
        stream = cls(target, token)
        await stream.connect()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                opened = await stream._queue.get()
        except TimeoutError:
            stream.abort()
            raise Unreachable(f"{target.authority} accepts connections, but does not answer.") from None
        if isinstance(opened, End):
            raise Ended(opened)
        return stream

    async def receive(self) -> bytes:
        """Return the next text message. Raises ``Ended`` after the last one."""
        message = await self._queue.get()
        if isinstance(message, End):
            self._queue.put_nowait(message)
            raise Ended(message)
        assert message is not None
        return message

    def on_open(self) -> None:
        """Let ``open`` return."""
        self._queue.put_nowait(None)

    def on_text(self, payload: bytes) -> None:
        """Queue the message."""
        self._queue.put_nowait(payload)

    def on_end(self, end: End) -> None:
        """Queue the end."""
        self._queue.put_nowait(end)
