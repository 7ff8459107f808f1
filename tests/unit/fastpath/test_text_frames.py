"""Tests of ``fastpath.text_frames`` and its C twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire import MASK, masked

from roomcast import fastpath
from roomcast.fastpath import text_frames
from roomcast.protocol import frames
from roomcast.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, FrameReader

LIMIT = 70_000
HELLO = masked(TEXT, b"hello")


# Python.


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535])
def test_a_single_text_frame_is_decoded(size):
    """A whole text frame below 64 KiB is decoded with any masking key."""
    payload = ("é" * size).encode()[:size] if size % 2 == 0 else b"x" * size
    for key in (MASK, bytes(4), b"\xff\x00\xff\x00"):
        assert text_frames.decode_text_frames(masked(TEXT, payload, key=key), LIMIT) == [payload]


@pytest.mark.parametrize(
    "data",
    [
        HELLO[:1],
        HELLO[:-1],
        HELLO + b"\x81",
        HELLO + masked(PING, b""),
        HELLO + masked(TEXT, b"\xc3\x28"),
        masked(TEXT, b"x" * 300)[:-1],
        masked(TEXT, b"x" * 300) + b"x",
        masked(TEXT, b"x" * 65536),
        masked(BINARY, b"hello"),
        masked(CONTINUATION, b"hello"),
        masked(PING, b"hello"),
        masked(CLOSE, b""),
        masked(TEXT, b"hello", fin=False),
        masked(TEXT, b"hello", rsv=4),
        frames.text(b"hello"),
        frames.text(b"x" * 126),
        frames.text(b"x" * 65535),
    ],
)
def test_other_data_returns_none(data):
    """Only a sequence of whole, final, masked, valid text frames is decoded."""
    assert text_frames.decode_text_frames(data, LIMIT) is None


def test_a_payload_above_the_limit_returns_none():
    """The limit is the size of the longest payload that is decoded."""
    assert text_frames.decode_text_frames(masked(TEXT, b"x" * 11), 10) is None
    assert text_frames.decode_text_frames(masked(TEXT, b"x" * 10), 10) == [b"x" * 10]
    assert text_frames.decode_text_frames(masked(TEXT, b"x" * 300), 299) is None


def test_several_frames_are_decoded_in_order():
    """Frames from one read are returned in one list."""
    data = HELLO + masked(TEXT, b"x" * 200) + masked(TEXT, "ü".encode())
    assert text_frames.decode_text_frames(data, LIMIT) == [b"hello", b"x" * 200, "ü".encode()]


@pytest.mark.parametrize("decode", [text_frames.decode_text_frames, fastpath.decode_text_frames], ids=["python", "c"])
def test_a_flood_of_frames_returns_none(decode):
    """With more than ``MAX_FRAMES`` frames, a ``FrameReader`` must decide how many of them are read."""
    most = text_frames.MAX_FRAMES
    assert decode(HELLO * most, LIMIT) == [b"hello"] * most
    assert decode(HELLO * (most + 1), LIMIT) is None


@pytest.mark.parametrize("size", [60, 100, 200, 65500, 65536])
def test_an_event_frame_contains_the_id(size):
    """The frame is the text frame of the event with the id as its last field, for each form of the length."""
    payload = b'{"type":"message","data":"%b"}' % (b"x" * size)
    assert text_frames.encode_event_frame(payload, "abc-7") == frames.text(payload[:-1] + b',"id":"abc-7"}')


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=50),
        st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=200)).map(lambda frame: masked(*frame)),
        st.sampled_from([125, 126, 127, 65535, 65536]).map(lambda size: masked(TEXT, b"t" * size)),
        st.text().map(lambda t: masked(TEXT, t.encode())),
    )
)
def test_a_frame_reader_returns_the_same_payloads(data):
    """If ``decode_text_frames`` returns payloads, a ``FrameReader`` returns the same."""
    payloads = text_frames.decode_text_frames(data, LIMIT)
    if payloads is not None:
        messages = [(opcode, bytes(payload)) for opcode, payload in FrameReader(LIMIT).feed(data)]
        assert messages == [(TEXT, payload) for payload in payloads]


# C and Python.

payloads = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.integers(100, 70_000).map(lambda size: b"x" * size),
    st.integers(100, 300).map(lambda size: "é✓".encode() * size),
)
whole_frames = st.builds(masked, st.just(frames.TEXT), payloads, key=st.binary(min_size=4, max_size=4))
any_frames = st.builds(masked, st.integers(0, 15), payloads, fin=st.booleans(), rsv=st.integers(0, 7))
reads = st.one_of(
    st.binary(max_size=60),
    st.lists(st.one_of(whole_frames, whole_frames, any_frames), max_size=4).map(b"".join),
)


@settings(max_examples=200)
@given(reads, st.integers(0, 12), st.sampled_from([0, 5, 125, 126, 65_536, 10**9]))
@example(b"\x81\xfe\x00", 0, 100)
@example(b"\x81\xfe\x00\x7e\0\0\0", 0, 1000)
@example(masked(frames.TEXT, b"\xed\xa0\x80"), 0, 100)
@example(masked(frames.TEXT, b"x" * 126), 0, 125)
def test_c_decodes_as_python_does(data: bytes, cut: int, limit: int) -> None:
    """C returns the same payloads, or None, for whole frames, parts of frames and arbitrary bytes."""
    data = data[: len(data) - cut]
    expected, found = text_frames.decode_text_frames(data, limit), fastpath.decode_text_frames(data, limit)
    assert found == expected
    assert found is None or all(type(payload) is bytearray for payload in found)


@settings(max_examples=100)
@given(st.one_of(st.binary(min_size=1, max_size=300), st.integers(65_400, 65_600)), st.text())
@example(b"{}", "")
@example(114, "ab-1")
@example(115, "ab-1")
@example(65_523, "ab-1")
@example(65_524, "ab-1")
def test_c_encodes_event_frames_as_python_does(given: bytes | int, id: str) -> None:
    """The frames are equal in every byte, for each form of the length."""
    payload = bytes(given)
    try:
        expected = text_frames.encode_event_frame(payload, id)
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            fastpath.encode_event_frame(payload, id)
    else:
        assert fastpath.encode_event_frame(payload, id) == expected


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastpath.decode_text_frames("x", 1),
        lambda: fastpath.decode_text_frames(b"x", "1"),
        lambda: fastpath.decode_text_frames(b"x"),
        lambda: fastpath.encode_event_frame("x", "1"),
        lambda: fastpath.encode_event_frame(b"x", b"1"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(call: Callable[[], Any]) -> None:
    """C raises ``TypeError`` for arguments of the wrong type."""
    if fastpath.IS_NATIVE:
        with pytest.raises(TypeError):
            call()
