"""The RFC 6455 work that every message causes: decode a client's text frames, encode an event's frame.

``native/text_frames.c`` is the C twin of ``decode_text_frames`` and ``encode_event_frame``. ``protocol.frames`` handles
everything else that RFC 6455 allows.
"""

from __future__ import annotations

import struct

from ..aiohttp_internals import websocket_mask

#: The first byte of a whole, uncompressed text frame.
FINAL_TEXT = 0x81


def encode_frame(first: int, payload: bytes) -> bytes:
    """Build one unmasked frame; ``first`` is its first byte, the FIN bit and the opcode (section 5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload


def decode_text_frames(data: bytes, limit: int) -> list[bytearray] | None:
    """Return the payloads if ``data`` is a sequence of whole, final, masked, valid text frames below 64 KiB, else None.

    ``limit`` is the maximum payload size in bytes. Nearly every read is such a sequence, and this function takes half
    the time of ``protocol.frames.FrameReader``: 0.6 us for a frame of 150 bytes, 1.4 us for two, against 2.8 us. None
    is not an error: give the same data to a ``FrameReader``.
    """
    size = len(data)
    position = 0
    payloads = []
    while position < size:
        start = position + 6
        if start > size or data[position] != FINAL_TEXT:
            return None
        length = data[position + 1] - 0x80
        if length == 126 and start + 2 <= size:
            length = data[position + 2] << 8 | data[position + 3]
            start += 2
        elif not 0 <= length < 126:
            return None
        position = start + length
        if position > size or length > limit:
            return None
        payload = bytearray(data[start:position])
        websocket_mask(data[start - 4 : start], payload)
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                return None
        payloads.append(payload)
    return payloads


def encode_event_frame(payload: bytes, id: str) -> bytes:
    """Build the text frame of an event: its JSON object ``payload`` with ``id`` appended as the last field.

    Only the broker can assign the id. Appending and framing in one step takes 0.3 us instead of 0.8 us.
    """
    end = id.encode()
    length = len(payload) + len(end) + 8
    if 126 <= length < 65536:
        return b'\x81\x7e%c%c%b,"id":"%b"}' % (length >> 8, length & 0xFF, payload[:-1], end)
    return encode_frame(FINAL_TEXT, b'%b,"id":"%b"}' % (payload[:-1], end))
