"""RFC 6455 frames, server side: read a client's frames and build the server's. No I/O and no asyncio.

A client must mask its frames and a server must not (section 5.1). A frame of the server is therefore the same for every
client, and is built once for all members of a room.

``fastpath.text_frames`` decodes whole text frames in a third of the time of a ``FrameReader``; its docstring has the
figures. The reader gets all other data: parts of frames, fragments, control frames and violations.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from ..aiohttp_internals import websocket_mask
from ..errors import INVALID_TEXT, MESSAGE_TOO_BIG, PROTOCOL_ERROR, UNSUPPORTED_DATA, Close, ProtocolViolation
from ..fastpath.text_frames import FIN, LENGTH_IN_2_BYTES, LENGTH_IN_8_BYTES, MASKED, encode_frame
from ..fastpath.text_frames import TEXT as TEXT

#: The opcodes besides ``TEXT`` (section 5.2).
CONTINUATION, BINARY, CLOSE, PING, PONG = 0x0, 0x2, 0x8, 0x9, 0xA
#: Parts of a frame's first byte: the opcode, its bit that marks control frames, and the reserved bits.
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_RESERVED: Final = 0x70
#: The size of the smallest frame of a client: two bytes and the masking key.
MIN_SIZE: Final = 6
#: The largest payload of a control frame (section 5.5).
_MAX_CONTROL: Final = 125

#: The code of a close frame without a code (section 7.1.5). It is never sent.
NO_CODE: Final = 1005
#: Close codes that a peer may send: section 7.4.1, and 1012 to 1014 from the IANA registry.
_SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def text(payload: bytes) -> bytes:
    """Build one final text frame of ``payload``, which must be UTF-8."""
    return encode_frame(FIN | TEXT, payload)


def binary(payload: bytes) -> bytes:
    """Build one final binary frame of ``payload``."""
    return encode_frame(FIN | BINARY, payload)


def ping(payload: bytes = b"") -> bytes:
    """Build a ping; ``payload`` has at most 125 bytes."""
    return encode_frame(FIN | PING, payload)


def pong(payload: bytes = b"") -> bytes:
    """Build a pong, which repeats the ``payload`` of the ping (section 5.5.3)."""
    return encode_frame(FIN | PONG, payload)


def close(code: int, reason: str = "") -> bytes:
    """Build a close frame. A ``reason`` of more than 123 bytes of UTF-8 is cut after a whole character."""
    body = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore").encode()
    return encode_frame(FIN | CLOSE, struct.pack("!H", code) + body)


def encode_close(close_: Close) -> bytes:
    """Build the close frame of one of the closes in ``errors``."""
    return close(close_.code, close_.reason)


def close_code(payload: bytes | bytearray) -> int:
    """Return the code in the ``payload`` of a close frame, or ``NO_CODE``.

    Raises ``ProtocolViolation`` if the payload is malformed or the code is reserved (section 7.4).
    """
    if not payload:
        return NO_CODE
    if len(payload) == 1:
        raise ProtocolViolation(PROTOCOL_ERROR, "a close frame of one byte")
    code: int = struct.unpack_from("!H", payload)[0]
    if code not in _SENDABLE and not 3000 <= code < 5000:
        raise ProtocolViolation(PROTOCOL_ERROR, f"close code {code} must not be sent")
    _check_utf8(payload[2:])
    return code


def refuse_binary() -> ProtocolViolation:
    """Return the error with which a server that accepts only text refuses a binary message (code 1003)."""
    return ProtocolViolation(UNSUPPORTED_DATA, "a binary message; send JSON in text frames")


def _check_utf8(payload: bytes | bytearray) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation(INVALID_TEXT, f"byte {error.start} of a text message: {error.reason}") from None


class FrameReader:
    """Reads the frames of one client from data that is split at any byte.

    ``limit`` is the maximum size of a message in bytes, over all its fragments.
    """

    __slots__ = ("_buffer", "_fragments", "_limit", "_opcode")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._fragments: bytearray | None = None
        self._opcode = 0

    @property
    def is_idle(self) -> bool:
        """True between messages: the reader keeps no part of a frame and no fragments of a message."""
        return not self._buffer and self._fragments is None

    def feed(self, data: bytes) -> Iterator[tuple[int, bytearray]]:
        """Add ``data``; yield (opcode, payload) of each message and control frame that is complete.

        A fragment that does not complete its message is yielded as (``CONTINUATION``, empty), so that the caller can
        count it and stop. Raises ``ProtocolViolation`` after it has yielded everything that precedes the violation. The
        reader cannot be used after that.
        """
        self._buffer += data
        buffer = self._buffer
        position = 0
        try:
            while (frame := self._next_frame(buffer, position)) is not None:
                position, first, payload = frame
                yield self._control_frame(first, payload) if first & _CONTROL else self._add_fragment(first, payload)
        finally:
            del buffer[:position]

    def take_rest(self) -> bytes:
        """Remove and return the bytes after the last frame that ``feed`` has yielded."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _next_frame(self, buffer: bytearray, position: int) -> tuple[int, int, bytearray] | None:
        """Return (the position after the frame, its first byte, its unmasked payload), or None if it is incomplete."""
        available = len(buffer) - position
        if available < 2:
            return None
        first, length = buffer[position], buffer[position + 1]
        if first & _RESERVED:
            raise ProtocolViolation(PROTOCOL_ERROR, "a reserved bit is set, but no extension was negotiated")
        if not length & MASKED:
            raise ProtocolViolation(PROTOCOL_ERROR, "a client's frame is not masked")
        length &= ~MASKED
        header = 6
        if first & _CONTROL and (length > _MAX_CONTROL or not first & FIN):
            raise ProtocolViolation(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
        if length == LENGTH_IN_2_BYTES:
            header = 8
            if available < 4:
                return None
            (length,) = struct.unpack_from("!H", buffer, position + 2)
        elif length == LENGTH_IN_8_BYTES:
            header = 14
            if available < 10:
                return None
            (length,) = struct.unpack_from("!Q", buffer, position + 2)
        # Checked before the payload arrives, so that the server does not buffer a message that it will refuse.
        if not first & _CONTROL and length + len(self._fragments or b"") > self._limit:
            raise ProtocolViolation(MESSAGE_TOO_BIG, f"a message of more than {self._limit} bytes")
        end = position + header + length
        if len(buffer) < end:
            return None
        payload = buffer[position + header : end]
        websocket_mask(bytes(buffer[position + header - 4 : position + header]), payload)
        return end, first, payload

    @staticmethod
    def _control_frame(first: int, payload: bytearray) -> tuple[int, bytearray]:
        opcode = first & _OPCODE
        if opcode > PONG:
            raise ProtocolViolation(PROTOCOL_ERROR, f"opcode {opcode:#x} is reserved")
        return opcode, payload

    def _add_fragment(self, first: int, payload: bytearray) -> tuple[int, bytearray]:
        """Add a frame to the current message (section 5.4).

        Return the message if it is complete, otherwise (``CONTINUATION``, empty).
        """
        opcode = first & _OPCODE
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
        if not first & FIN:
            return CONTINUATION, bytearray()
        message, self._fragments = self._fragments, None
        if self._opcode == TEXT and not message.isascii():
            _check_utf8(message)
        return self._opcode, message
