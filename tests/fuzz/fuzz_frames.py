"""Fuzzes the readers of WebSocket frames: ``FrameReader`` and both twins of ``decode_text_frames``.

See CONTRIBUTING.md for how to run it. The three readers must agree on every input, however it is split.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from fuzzing import run

from roomcast import fastpath
from roomcast.errors import ProtocolViolation
from roomcast.fastpath import text_frames
from roomcast.protocol import frames
from roomcast.protocol.frames import FrameReader

Result = tuple[list[tuple[int, bytes]], int | None]


def read(pieces: list[bytes], limit: int) -> Result:
    """Return what a ``FrameReader`` yields for ``pieces``, and the close code of the violation that it raises."""
    reader = FrameReader(limit)
    messages: list[tuple[int, bytes]] = []
    try:
        for piece in pieces:
            for opcode, payload in reader.feed(piece):
                messages.append((opcode, bytes(payload)))
                if opcode == frames.CLOSE:
                    frames.close_code(payload)
                    return messages, None
    except ProtocolViolation as violation:
        return messages, violation.close.code
    return messages, None


def check(data: bytes) -> None:
    """Read ``data`` in every way. Its first two bytes are the limit, the third one is the size of the pieces."""
    limit, step, data = int.from_bytes(data[:2]), 1 + (data[2] if len(data) > 2 else 0), data[3:]
    whole = read([data], limit)
    assert read([data[i : i + step] for i in range(0, len(data), step)], limit) == whole
    assert all(len(payload) <= max(limit, 125) for _, payload in whole[0])

    decoded = text_frames.decode_text_frames(data, limit)
    assert fastpath.decode_text_frames(data, limit) == decoded
    if decoded is not None:
        assert whole == ([(frames.TEXT, bytes(payload)) for payload in decoded], None)


SEEDS = [
    (1 << 15).to_bytes(2) + bytes([step]) + data
    for step in (0, 6)
    for data in (
        b"\x81\x85abcd" + bytes(a ^ b for a, b in zip(b"hello", b"abcda", strict=True)),
        b"\x81\xfe\x00\x80abcd" + bytes(128),
        b"\x81\xff\x00\x00\x00\x00\x00\x00\x01\x00abcd" + bytes(256),
        b"\x01\x80abcd\x00\x80abcd\x89\x80abcd\x80\x80abcd",
        b"\x88\x82\x00\x00\x00\x00\x03\xe8",
        b"\x8a\x80abcd" * 5,
        b"\x81\x82\x00\x00\x00\x00\xc3\x28",
    )
]

if __name__ == "__main__":
    run(check, SEEDS)
