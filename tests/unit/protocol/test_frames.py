"""Tests of ``protocol.frames``: valid frames, all violations of RFC 6455, and generated data."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import masked

from roomcast.errors import MESSAGE_TOO_BIG, Close, ProtocolViolation
from roomcast.fastpath import text_frames
from roomcast.protocol import frames
from roomcast.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, FrameReader

LIMIT = 70_000
#: What is read for a fragment that does not complete its message.
FRAGMENT = (CONTINUATION, b"")


def read(data: bytes, limit: int = LIMIT) -> list[tuple[int, bytes]]:
    """Return all messages, control frames and incomplete fragments in ``data``."""
    return [(opcode, bytes(payload)) for opcode, payload in FrameReader(limit).feed(data)]


def read_until_violation(data: bytes, limit: int = LIMIT) -> tuple[list[tuple[int, bytes]], int]:
    """Return what a reader yields before the violation in ``data``, and the close code."""
    seen = []
    with pytest.raises(ProtocolViolation) as raised:
        seen.extend((opcode, bytes(payload)) for opcode, payload in FrameReader(limit).feed(data))
    return seen, raised.value.close.code


# Building.


def test_an_unmasked_text_is_built_as_in_the_rfc():
    """Section 5.7: a single-frame unmasked text message."""
    assert frames.text(b"Hello") == bytes.fromhex("810548656c6c6f")


def test_a_ping_and_its_pong_are_built_as_in_the_rfc():
    """Section 5.7: an unmasked ping, and the pong with the same payload."""
    assert frames.ping(b"Hello") == bytes.fromhex("890548656c6c6f")
    assert frames.pong(b"Hello") == bytes.fromhex("8a0548656c6c6f")
    assert frames.ping() == b"\x89\x00"
    assert frames.pong() == b"\x8a\x00"


def test_long_binary_frames_are_built_as_in_the_rfc():
    """Section 5.7: 256 bytes need a 16-bit length, 64 KiB need a 64-bit length."""
    assert frames.binary(bytes(256)) == bytes.fromhex("827e0100") + bytes(256)
    assert frames.binary(bytes(65536)) == bytes.fromhex("827f0000000000010000") + bytes(65536)


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "8100"),
        (125, "817d"),
        (126, "817e007e"),
        (65535, "817effff"),
        (65536, "817f0000000000010000"),
    ],
)
def test_a_length_is_written_in_the_shortest_form(size, head):
    """Section 5.2: the minimal number of bytes must be used."""
    assert frames.text(b"x" * size) == bytes.fromhex(head) + b"x" * size


def test_a_close_frame_contains_code_and_reason():
    """Section 5.5.1: a 2-byte code in network order, then UTF-8."""
    assert frames.close(1000) == bytes.fromhex("880203e8")
    assert frames.close(4401, "Nö") == b"\x88\x05\x11\x31N\xc3\xb6"
    assert frames.encode_close(Close(1013, "Too Slow", reconnect=True)) == b"\x88\x0a\x03\xf5Too Slow"


def test_a_long_reason_is_cut_at_a_character():
    """A control frame holds 125 bytes, and half a character would be invalid UTF-8."""
    frame = frames.close(1000, "x" * 122 + "ö")
    assert frame == b"\x88\x7c\x03\xe8" + b"x" * 122
    assert len(frames.close(1000, "x" * 500)) == 127


# Reading.


def test_the_masked_hello_of_the_rfc_is_read():
    """Section 5.7: a single-frame masked text message."""
    data = bytes.fromhex("818537fa213d7f9f4d5158")
    assert read(data) == [(TEXT, b"Hello")]
    assert text_frames.decode_text_frames(data, LIMIT) == [b"Hello"]


def test_the_masked_pong_of_the_rfc_is_read():
    """Section 5.7: the masked answer to a ping."""
    assert read(bytes.fromhex("8a8537fa213d7f9f4d5158")) == [(PONG, b"Hello")]


def test_fragments_are_assembled():
    """The fragmented text of section 5.7, masked as a client's frames must be: 'Hel' and 'lo'."""
    data = bytes.fromhex("018337fa213d") + b"\x7f\x9f\x4d" + bytes.fromhex("808237fa213d") + b"\x5b\x95"
    assert data == masked(TEXT, b"Hel", fin=False) + masked(CONTINUATION, b"lo")
    assert read(data) == [FRAGMENT, (TEXT, b"Hello")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
def test_every_length_form_is_read(size):
    """The three forms of a length, at their limits, for text and binary."""
    payload = b"x" * size
    assert read(masked(TEXT, payload)) == [(TEXT, payload)]
    assert read(masked(BINARY, payload)) == [(BINARY, payload)]


@pytest.mark.parametrize("size", [0, 1, 125])
def test_control_frames_of_up_to_125_bytes_are_read(size):
    """Section 5.5 limits the payload of a control frame to 125 bytes."""
    payload = b"x" * size
    assert read(masked(PING, payload) + masked(PONG, payload)) == [(PING, payload), (PONG, payload)]


def test_control_frames_between_fragments_are_read_at_once():
    """Section 5.4: control frames may be sent in the middle of a fragmented message."""
    reader = FrameReader(LIMIT)
    assert list(reader.feed(masked(TEXT, b"one, ", fin=False) + masked(PING, b"?"))) == [FRAGMENT, (PING, b"?")]
    assert list(reader.feed(masked(CONTINUATION, b"two, ", fin=False) + masked(PONG, b""))) == [FRAGMENT, (PONG, b"")]
    assert list(reader.feed(masked(CONTINUATION, b"three"))) == [(TEXT, b"one, two, three")]


def test_a_character_may_be_split_between_fragments():
    """Section 5.6: UTF-8 is validated over the whole message."""
    euro = "€".encode()
    data = masked(TEXT, euro[:1], fin=False) + masked(CONTINUATION, euro[1:])
    assert read(data) == [FRAGMENT, (TEXT, euro)]


def test_fragments_may_be_empty():
    """The whole message may be empty as well."""
    data = masked(TEXT, b"", fin=False) + masked(CONTINUATION, b"", fin=False) + masked(CONTINUATION, b"")
    assert read(data) == [FRAGMENT, FRAGMENT, (TEXT, b"")]


def test_a_length_in_a_longer_form_is_accepted():
    """Section 5.2 forbids it to the sender, but the meaning is unambiguous."""
    short = b"\x81\xfe\x00\x05" + masked(TEXT, b"Hello")[2:]
    long = b"\x81\xff" + (5).to_bytes(8, "big") + masked(TEXT, b"Hello")[2:]
    assert read(short + long) == [(TEXT, b"Hello"), (TEXT, b"Hello")]
    assert text_frames.decode_text_frames(short, LIMIT) == [b"Hello"]
    assert text_frames.decode_text_frames(long, LIMIT) is None


HELLO = masked(TEXT, b"hello")
BROKEN = {
    "unmasked": (frames.text(b"hello"), 1002),
    "unmasked ping": (frames.ping(), 1002),
    "first reserved bit": (masked(TEXT, b"", rsv=4), 1002),
    "second reserved bit": (masked(TEXT, b"", rsv=2), 1002),
    "third reserved bit": (masked(TEXT, b"", rsv=1), 1002),
    "reserved bit of a control frame": (masked(PING, b"", rsv=4), 1002),
    "fragmented ping": (masked(PING, b"", fin=False), 1002),
    "fragmented close": (masked(CLOSE, b"", fin=False), 1002),
    "ping of 126 bytes": (masked(PING, bytes(126)), 1002),
    "close of 64 KiB, its header alone": (masked(CLOSE, bytes(65536))[:10], 1002),
    "continuation of nothing": (masked(CONTINUATION, b"x"), 1002),
    "unfinished continuation of nothing": (masked(CONTINUATION, b"x", fin=False), 1002),
    "text within a message": (masked(TEXT, b"a", fin=False) + masked(TEXT, b"b"), 1002),
    "binary within a message": (masked(TEXT, b"a", fin=False) + masked(BINARY, b"b", fin=False), 1002),
    "stray byte": (masked(TEXT, b"\xff"), 1007),
    "cut character": (masked(TEXT, "€".encode()[:2]), 1007),
    "surrogate": (masked(TEXT, b"\xed\xa0\x80"), 1007),
    "overlong slash": (masked(TEXT, b"\xc0\xaf"), 1007),
    "beyond Unicode": (masked(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "bad text in fragments": (masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION, b"x"), 1007),
    "over the limit": (masked(TEXT, bytes(LIMIT + 1)), 1009),
    "over the limit, its header alone": (masked(TEXT, bytes(LIMIT + 1))[:10], 1009),
    "over the limit by far": (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1009),
    "over the limit in fragments": (
        masked(TEXT, bytes(LIMIT), fin=False) + masked(CONTINUATION, b"x")[:2],
        1009,
    ),
    **{f"opcode {opcode}": (masked(opcode, b""), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_a_violation_is_raised_after_the_frames_before_it(data, code):
    """Each violation has the close code of section 7.4.1. The messages before it are read."""
    seen, found = read_until_violation(HELLO + data)
    assert ([frame for frame in seen if frame != FRAGMENT], found) == ([(TEXT, b"hello")], code)


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_a_violation_is_found_byte_by_byte(data, code):
    """The same violation is raised if each byte arrives alone, and nothing is read."""
    reader = FrameReader(LIMIT)
    seen = []
    with pytest.raises(ProtocolViolation) as raised:
        for i in range(len(data)):
            seen.extend(reader.feed(data[i : i + 1]))
    assert [frame for frame in seen if frame != FRAGMENT] == []
    assert raised.value.close.code == code


def test_a_message_of_the_maximum_size_is_read():
    """The limit applies to each message, in one frame or several. Control frames do not count."""
    data = masked(TEXT, b"x" * 10)
    parts = masked(TEXT, b"x" * 4, fin=False) + masked(PING, b"p" * 100) + masked(CONTINUATION, b"x" * 6)
    assert read(data + parts + data, limit=10) == [
        (TEXT, b"x" * 10),
        FRAGMENT,
        (PING, b"p" * 100),
        (TEXT, b"x" * 10),
        (TEXT, b"x" * 10),
    ]
    assert read_until_violation(masked(TEXT, b"x" * 11), limit=10) == ([], MESSAGE_TOO_BIG.code)


def test_binary_messages_are_refused_with_1003():
    """Section 7.4.1: an endpoint that understands only text may send 1003."""
    assert frames.refuse_binary().close.code == 1003


# Closing.


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_valid_close_code_is_read(code):
    """Section 7.4.2 and the IANA registry define the codes."""
    assert frames.close_code(struct.pack("!H", code)) == code
    assert frames.close_code(bytearray(struct.pack("!H", code) + "bye, Zoë".encode())) == code


def test_a_close_without_a_code_is_1005():
    """Section 7.1.5: no status code present."""
    assert frames.close_code(b"") == 1005


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_reserved_close_code_is_a_violation(code):
    """Sections 7.4.1 and 7.4.2: reserved codes must not be sent."""
    with pytest.raises(ProtocolViolation) as raised:
        frames.close_code(struct.pack("!H", code) + b"why")
    assert raised.value.close.code == 1002


def test_a_malformed_close_frame_is_a_violation():
    """A payload of one byte has no code (1002), and a reason must be UTF-8 (1007)."""
    with pytest.raises(ProtocolViolation) as short:
        frames.close_code(b"\x03")
    with pytest.raises(ProtocolViolation) as garbled:
        frames.close_code(b"\x03\xe8\xff")
    assert (short.value.close.code, garbled.value.close.code) == (1002, 1007)


# Idle.


def test_a_reader_is_idle_exactly_between_messages():
    """A reader may be discarded only while it is idle."""
    reader = FrameReader(LIMIT)
    assert reader.is_idle
    first, second = masked(TEXT, b"Hel", fin=False), masked(CONTINUATION, b"lo")
    for byte in first[:-1]:
        assert list(reader.feed(bytes([byte]))) == []
        assert not reader.is_idle
    assert list(reader.feed(first[-1:])) == [FRAGMENT]
    assert not reader.is_idle
    for byte in second[:-1]:
        assert list(reader.feed(bytes([byte]))) == []
        assert not reader.is_idle
    assert list(reader.feed(second[-1:])) == [(TEXT, b"Hello")]
    assert reader.is_idle
    assert list(reader.feed(HELLO + b"\x81")) == [(TEXT, b"hello")]
    assert not reader.is_idle


def test_a_reader_is_not_idle_after_a_ping_within_a_message():
    """An empty first fragment counts as the beginning of a message."""
    reader = FrameReader(LIMIT)
    list(reader.feed(masked(TEXT, b"", fin=False)))
    assert not reader.is_idle
    assert list(reader.feed(masked(PING, b""))) == [(PING, b"")]
    assert not reader.is_idle


def test_only_incomplete_frames_are_buffered():
    """The buffer of a reader holds only the part of a frame that is not complete."""
    reader = FrameReader(LIMIT)
    list(reader.feed(masked(BINARY, bytes(LIMIT)) + HELLO[:3]))
    assert len(reader._buffer) == 3


def test_a_consumer_may_stop_and_continue():
    """A caller that leaves the iteration loses no frame."""
    reader = FrameReader(LIMIT)
    for message in reader.feed(HELLO + masked(PING, b"")):
        assert message == (TEXT, b"hello")
        break
    assert list(reader.feed(b"")) == [(PING, b"")]


def test_a_consumer_may_stop_between_fragments():
    """A flood of fragments is not read at once, although it makes no message."""
    reader = FrameReader(LIMIT)
    fragments = reader.feed(masked(TEXT, b"", fin=False) + masked(CONTINUATION, b"x", fin=False) * 1000)
    assert [next(fragments) for _ in range(3)] == [FRAGMENT] * 3
    fragments.close()
    assert len(reader.take_rest()) == 998 * len(masked(CONTINUATION, b"x"))


# Generated data.

PAYLOADS = st.one_of(
    st.text(max_size=200).map(lambda text: (TEXT, text.encode())),
    st.binary(max_size=200).map(lambda data: (BINARY, data)),
    st.sampled_from([125, 126, 127, 65535, 65536]).map(lambda size: (TEXT, b"t" * size)),
)
CONTROLS = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


def in_fragments(draw: st.DrawFn, opcode: int, payload: bytes) -> list[bytes]:
    """Cut the message at arbitrary positions into frames with different masking keys."""
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    return [
        masked(
            opcode if i == 0 else CONTINUATION,
            piece,
            fin=i == len(pieces) - 1,
            key=draw(st.binary(min_size=4, max_size=4)),
        )
        for i, piece in enumerate(pieces)
    ]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[tuple[int, bytes]], bytes]:
    """Valid messages with control frames between their fragments: what must be read, and the bytes."""
    expected, data = [], b""
    for opcode, payload in draw(st.lists(PAYLOADS, max_size=5)):
        pieces = in_fragments(draw, opcode, payload)
        for frame in pieces:
            for control in draw(st.lists(CONTROLS, max_size=2)):
                expected.append(control)
                data += masked(*control)
            data += frame
            expected.append((opcode, payload) if frame is pieces[-1] else FRAGMENT)
    return expected, data


@st.composite
def portions(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The bytes in portions, as a socket may return them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_valid_messages_are_read_as_they_were_sent(data):
    """Valid messages, fragmented, masked and split at any byte, are read unchanged."""
    expected, stream = data.draw(conversations())
    reader = FrameReader(LIMIT)
    seen = []
    for portion in data.draw(portions(stream)):
        seen.extend((opcode, bytes(payload)) for opcode, payload in reader.feed(portion))
    assert seen == expected
    assert reader.is_idle


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=5), st.integers(1, 300))
def test_arbitrary_bytes_raise_at_most_a_violation(garbage, limit):
    """No other exception is raised, and no message or buffer is larger than the limit."""
    reader = FrameReader(limit)
    try:
        for portion in garbage:
            for opcode, payload in reader.feed(portion):
                assert len(payload) <= (125 if opcode & 8 else limit)
                assert opcode in (TEXT, BINARY, CLOSE, PING, PONG) or (opcode, bytes(payload)) == FRAGMENT
                if opcode == TEXT:
                    payload.decode()
            assert len(reader._buffer) < 14 + max(limit, 125)
    except ProtocolViolation as violation:
        assert violation.close.code in (1002, 1007, 1009)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(0, 3))
def test_damaged_frames_raise_at_most_a_violation(seed, size, damages):
    """Frames with a few flipped bits reach code that arbitrary bytes do not reach."""
    rng = random.Random(seed)
    data = bytearray(
        b"".join(
            masked(rng.choice([0, 1, 1, 2, 8, 9]), rng.randbytes(rng.randrange(size)), fin=rng.random() < 0.7)
            for _ in range(3)
        )
    )
    for _ in range(damages):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    try:
        for opcode, payload in FrameReader(300).feed(bytes(data)):
            assert len(payload) <= 300
            if opcode == CLOSE:
                frames.close_code(payload)
    except ProtocolViolation as violation:
        assert violation.close.code in (1002, 1007, 1009)
