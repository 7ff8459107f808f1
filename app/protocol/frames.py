"""RFC 6455 frames, server side: read what a client sent, build what it gets. No I/O, no asyncio.

A server must insist on masked frames and must not mask its own (section 5.1), which is why one built frame can be
written to every member of a room.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..aiohttp_internals import websocket_mask
from ..errors import INVALID_TEXT, MESSAGE_TOO_BIG, PROTOCOL_ERROR, UNSUPPORTED_DATA, Close, ProtocolViolation
from ..fastpath.text_frames import encode_frame

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: Close codes a peer may send: RFC 6455 section 7.4 and the IANA registry, which has 1012 to 1014 since.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})

#: The bit of a frame's first byte that marks the last frame of a message (section 5.2).
_FIN = 0x80


def text(payload: bytes) -> bytes:
    """Build one final text frame of ``payload``, which must be UTF-8."""
    return encode_frame(_FIN | TEXT, payload)


def binary(payload: bytes) -> bytes:
    """Build one final binary frame of ``payload``."""
    return encode_frame(_FIN | BINARY, payload)


def ping(payload: bytes = b"") -> bytes:
    """Build a ping; ``payload`` has at most 125 bytes."""
    return encode_frame(_FIN | PING, payload)


def pong(payload: bytes = b"") -> bytes:
    """Build a pong, which repeats the ping's ``payload`` (section 5.5.3)."""
    return encode_frame(_FIN | PONG, payload)


def close(code: int, reason: str = "") -> bytes:
    """Build a close frame; a ``reason`` over 123 bytes of UTF-8 is cut at a character."""
    body = reason.encode()[:123].decode(errors="ignore").encode()
    return encode_frame(_FIN | CLOSE, struct.pack("!H", code) + body)


def _check_utf8(payload: bytes | bytearray) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation(INVALID_TEXT, f"byte {error.start} of a text message: {error.reason}") from None


def close_code(payload: bytes | bytearray) -> int:
    """Return the code in a close frame's ``payload``, 1005 if it has none (section 7.1.5); raise if it is malformed."""
    if not payload:
        return 1005
    if len(payload) == 1:
        raise ProtocolViolation(PROTOCOL_ERROR, "a close frame of one byte")
    code: int = struct.unpack_from("!H", payload)[0]
    if code not in _SENDABLE and not 3000 <= code < 5000:
        raise ProtocolViolation(PROTOCOL_ERROR, f"close code {code} must not be sent")
    _check_utf8(payload[2:])
    return code


class FrameReader:
    """Reads one client's frames from bytes that arrive in any portions.

    ``limit`` is the longest message in bytes, over all its fragments. ``feed`` raises ``ProtocolViolation``
    after it has yielded everything that came before the fault; the reader is of no use then.
    """

    __slots__ = ("_buffer", "_fragments", "_limit", "_opcode")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._fragments: bytearray | None = None
        self._opcode = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is half read: no part of a frame, no fragments of a message."""
        return not self._buffer and self._fragments is None

    def feed(self, data: bytes) -> Iterator[tuple[int, bytearray]]:
        """Take ``data``; yield (opcode, payload) of each message and control frame that is complete."""
        self._buffer += data
        buffer = self._buffer
        position = 0
        try:
            while (frame := self._next(buffer, position)) is not None:
                position, first, payload = frame
                message = self._control(first, payload) if first & 0x08 else self._assemble(first, payload)
                if message is not None:
                    yield message
        finally:
            del buffer[:position]

    def _next(self, buffer: bytearray, position: int) -> tuple[int, int, bytearray] | None:
        """Return (where the next frame begins, first byte, unmasked payload), or None while it is incomplete."""
        available = len(buffer) - position
        if available < 2:
            return None
        first, length = buffer[position], buffer[position + 1]
        if first & 0x70:
            raise ProtocolViolation(PROTOCOL_ERROR, "a reserved bit is set, but no extension was negotiated")
        if not length & 0x80:
            raise ProtocolViolation(PROTOCOL_ERROR, "a client's frame is not masked")
        length &= 0x7F
        header = 6
        if first & 0x08 and (length > 125 or not first & 0x80):
            raise ProtocolViolation(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
        if length == 126:
            header = 8
            if available < 4:
                return None
            (length,) = struct.unpack_from("!H", buffer, position + 2)
        elif length == 127:
            header = 14
            if available < 10:
                return None
            (length,) = struct.unpack_from("!Q", buffer, position + 2)
        # Judged by its header, so that nobody makes the server keep what it will refuse.
        if not first & 0x08 and length + len(self._fragments or b"") > self._limit:
            raise ProtocolViolation(MESSAGE_TOO_BIG, f"a message of more than {self._limit} bytes")
        end = position + header + length
        if len(buffer) < end:
            return None
        payload = buffer[position + header : end]
        websocket_mask(bytes(buffer[position + header - 4 : position + header]), payload)
        return end, first, payload

    @staticmethod
    def _control(first: int, payload: bytearray) -> tuple[int, bytearray]:
        opcode = first & 0x0F
        if opcode > PONG:
            raise ProtocolViolation(PROTOCOL_ERROR, f"opcode {opcode:#x} is reserved")
        return opcode, payload

    def _assemble(self, first: int, payload: bytearray) -> tuple[int, bytearray] | None:
        """Put fragments together (section 5.4); return the message once it is whole."""
        opcode = first & 0x0F
        if opcode > BINARY:
            raise ProtocolViolation(PROTOCOL_ERROR, f"opcode {opcode:#x} is reserved")
        if opcode == CONTINUATION:
            if self._fragments is None:
                raise ProtocolViolation(PROTOCOL_ERROR, "a continuation of no message")
            self._fragments += payload
        elif self._fragments is not None:
            raise ProtocolViolation(PROTOCOL_ERROR, "a new message before the last one ended")
        else:
            self._fragments, self._opcode = payload, opcode
        if not first & 0x80:
            return None
        message, self._fragments = self._fragments, None
        if self._opcode == TEXT and not message.isascii():
            _check_utf8(message)
        return self._opcode, message


def refuse_binary() -> ProtocolViolation:
    """What a server that speaks only JSON text answers to a binary message (section 7.4.1, code 1003)."""
    return ProtocolViolation(UNSUPPORTED_DATA, "a binary message; send JSON in text frames")


def encode_close(close_: Close) -> bytes:
    """Build the close frame of one of the ``errors`` closes."""
    return close(close_.code, close_.reason)
