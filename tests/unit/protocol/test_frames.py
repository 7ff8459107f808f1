"""Frames: RFC 6455 byte for byte, every way to break it, and whatever hypothesis makes of both."""

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


def read(data: bytes, limit: int = LIMIT) -> list[tuple[int, bytes]]:
    """Everything that a reader makes of ``data``."""
    return [(opcode, bytes(payload)) for opcode, payload in FrameReader(limit).feed(data)]


def violation(data: bytes, limit: int = LIMIT) -> tuple[list[tuple[int, bytes]], int]:
    """What is read of ``data`` before it breaks the rules, and the close code for that."""
    seen = []
    with pytest.raises(ProtocolViolation) as raised:
        seen.extend((opcode, bytes(payload)) for opcode, payload in FrameReader(limit).feed(data))
    return seen, raised.value.close.code


# What the server writes.


def test_an_unmasked_text_is_built_as_in_the_rfc():
    """Section 5.7: a single-frame unmasked text message."""
    assert frames.text(b"Hello") == bytes.fromhex("810548656c6c6f")


def test_a_ping_and_its_pong_are_built_as_in_the_rfc():
    """Section 5.7: an unmasked ping, and the pong with the same body."""
    assert frames.ping(b"Hello") == bytes.fromhex("890548656c6c6f")
    assert frames.pong(b"Hello") == bytes.fromhex("8a0548656c6c6f")
    assert frames.ping() == b"\x89\x00"
    assert frames.pong() == b"\x8a\x00"


def test_long_binaries_are_built_as_in_the_rfc():
    """Section 5.7: 256 bytes take a 16-bit length, 64 KiB a 64-bit one."""
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
def test_a_length_is_written_in_as_few_bytes_as_it_takes(size, head):
    """Section 5.2: the minimal number of bytes must be used."""
    assert frames.text(b"x" * size) == bytes.fromhex(head) + b"x" * size


def test_a_close_carries_code_and_reason():
    """Section 5.5.1: a 2-byte code in network order, then UTF-8."""
    assert frames.close(1000) == bytes.fromhex("880203e8")
    assert frames.close(4401, "Nö") == b"\x88\x05\x11\x31N\xc3\xb6"
    assert frames.encode_close(Close(1013, "Too Slow", reconnect=True)) == b"\x88\x0a\x03\xf5Too Slow"


def test_a_long_reason_is_cut_at_a_character():
    """A control frame holds 125 bytes, and half a character would be invalid UTF-8."""
    frame = frames.close(1000, "x" * 122 + "ö")
    assert frame == b"\x88\x7c\x03\xe8" + b"x" * 122
    assert len(frames.close(1000, "x" * 500)) == 127


# What the server reads.


def test_the_masked_hello_of_the_rfc_is_read():
    """Section 5.7: a single-frame masked text message."""
    data = bytes.fromhex("818537fa213d7f9f4d5158")
    assert read(data) == [(TEXT, b"Hello")]
    assert text_frames.decode_text_frames(data, LIMIT) == [b"Hello"]


def test_the_masked_pong_of_the_rfc_is_read():
    """Section 5.7: the masked answer to a ping."""
    assert read(bytes.fromhex("8a8537fa213d7f9f4d5158")) == [(PONG, b"Hello")]


def test_fragments_are_put_together():
    """Section 5.7's fragmented text, masked as a client must: 'Hel' and 'lo'."""
    data = bytes.fromhex("018337fa213d") + b"\x7f\x9f\x4d" + bytes.fromhex("808237fa213d") + b"\x5b\x95"
    assert data == masked(TEXT, b"Hel", fin=False) + masked(CONTINUATION, b"lo")
    assert read(data) == [(TEXT, b"Hello")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
def test_every_length_form_is_read(size):
    """The three forms of a length, at their bounds, as text and as binary."""
    payload = b"x" * size
    assert read(masked(TEXT, payload)) == [(TEXT, payload)]
    assert read(masked(BINARY, payload)) == [(BINARY, payload)]


@pytest.mark.parametrize("size", [0, 1, 125])
def test_control_frames_are_read_up_to_their_longest(size):
    """Section 5.5: a control frame's payload has 125 bytes at most."""
    payload = b"x" * size
    assert read(masked(PING, payload) + masked(PONG, payload)) == [(PING, payload), (PONG, payload)]


def test_control_frames_come_through_between_fragments():
    """Section 5.4: control frames may be injected in the middle of a message, and are read at once."""
    reader = FrameReader(LIMIT)
    assert list(reader.feed(masked(TEXT, b"one, ", fin=False) + masked(PING, b"?"))) == [(PING, b"?")]
    assert list(reader.feed(masked(CONTINUATION, b"two, ", fin=False) + masked(PONG, b""))) == [(PONG, b"")]
    assert list(reader.feed(masked(CONTINUATION, b"three"))) == [(TEXT, b"one, two, three")]


def test_a_character_may_be_split_between_fragments():
    """Section 5.6: UTF-8 is judged over the whole message."""
    euro = "€".encode()
    data = masked(TEXT, euro[:1], fin=False) + masked(CONTINUATION, euro[1:])
    assert read(data) == [(TEXT, euro)]


def test_empty_fragments_are_nothing():
    """Fragments may be empty, the whole message too."""
    data = masked(TEXT, b"", fin=False) + masked(CONTINUATION, b"", fin=False) + masked(CONTINUATION, b"")
    assert read(data) == [(TEXT, b"")]


def test_a_length_in_more_bytes_than_it_takes_is_read():
    """A sender must not do so (section 5.2), but no two readers can understand it differently."""
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
def test_a_violation_names_its_close_code_after_what_came_before(data, code):
    """Each fault has the code of section 7.4.1, and takes nothing from the messages ahead of it."""
    assert violation(HELLO + data) == ([(TEXT, b"hello")], code)


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_a_violation_is_found_however_the_bytes_arrive(data, code):
    """Byte by byte the same fault is found, and nothing else is read."""
    reader = FrameReader(LIMIT)
    seen = []
    with pytest.raises(ProtocolViolation) as raised:
        for i in range(len(data)):
            seen.extend(reader.feed(data[i : i + 1]))
    assert (seen, raised.value.close.code) == ([], code)


def test_a_message_of_the_limit_is_read():
    """The limit is the longest allowed, in one frame or in several; the next message has all of it again."""
    data = masked(TEXT, b"x" * 10)
    parts = masked(TEXT, b"x" * 4, fin=False) + masked(PING, b"p" * 100) + masked(CONTINUATION, b"x" * 6)
    assert read(data + parts + data, limit=10) == [
        (TEXT, b"x" * 10),
        (PING, b"p" * 100),
        (TEXT, b"x" * 10),
        (TEXT, b"x" * 10),
    ]
    assert violation(masked(TEXT, b"x" * 11), limit=10) == ([], MESSAGE_TOO_BIG.code)


def test_binary_messages_are_refused_with_1003():
    """Section 7.4.1: an endpoint that understands only text may say so."""
    assert frames.refuse_binary().close.code == 1003


# Closing.


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_code_that_may_be_sent_is_read(code):
    """Section 7.4.2, and IANA's registry."""
    assert frames.close_code(struct.pack("!H", code)) == code
    assert frames.close_code(bytearray(struct.pack("!H", code) + "bye, Zoë".encode())) == code


def test_a_close_without_a_code_is_1005():
    """Section 7.1.5: no status code present."""
    assert frames.close_code(b"") == 1005


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_code_that_must_not_be_sent_is_a_violation(code):
    """Sections 7.4.1 and 7.4.2: reserved codes never travel."""
    with pytest.raises(ProtocolViolation) as raised:
        frames.close_code(struct.pack("!H", code) + b"why")
    assert raised.value.close.code == 1002


def test_a_malformed_close_is_a_violation():
    """One byte is no code (1002), and a reason must be UTF-8 (1007)."""
    with pytest.raises(ProtocolViolation) as short:
        frames.close_code(b"\x03")
    with pytest.raises(ProtocolViolation) as garbled:
        frames.close_code(b"\x03\xe8\xff")
    assert (short.value.close.code, garbled.value.close.code) == (1002, 1007)


# Idle.


def test_a_reader_is_idle_exactly_between_messages():
    """Nothing may be half read when a reader is thrown away."""
    reader = FrameReader(LIMIT)
    assert reader.idle
    first, second = masked(TEXT, b"Hel", fin=False), masked(CONTINUATION, b"lo")
    for byte in first + second[:-1]:
        assert list(reader.feed(bytes([byte]))) == []
        assert not reader.idle
    assert list(reader.feed(second[-1:])) == [(TEXT, b"Hello")]
    assert reader.idle
    assert list(reader.feed(HELLO + b"\x81")) == [(TEXT, b"hello")]
    assert not reader.idle


def test_a_ping_within_a_message_leaves_the_reader_busy():
    """An empty first fragment counts too."""
    reader = FrameReader(LIMIT)
    list(reader.feed(masked(TEXT, b"", fin=False)))
    assert not reader.idle
    assert list(reader.feed(masked(PING, b""))) == [(PING, b"")]
    assert not reader.idle


def test_what_was_read_is_not_kept():
    """A reader's buffer holds only the part of a frame that is not complete."""
    reader = FrameReader(LIMIT)
    list(reader.feed(masked(BINARY, bytes(LIMIT)) + HELLO[:3]))
    assert len(reader._buffer) == 3


def test_reading_may_stop_in_the_middle_and_go_on():
    """A consumer that leaves the loop loses nothing of what it has not seen."""
    reader = FrameReader(LIMIT)
    for message in reader.feed(HELLO + masked(PING, b"")):
        assert message == (TEXT, b"hello")
        break
    assert list(reader.feed(b"")) == [(PING, b"")]


# Anything at all.

PAYLOADS = st.one_of(
    st.text(max_size=200).map(lambda text: (TEXT, text.encode())),
    st.binary(max_size=200).map(lambda data: (BINARY, data)),
    st.sampled_from([125, 126, 127, 65535, 65536]).map(lambda size: (TEXT, b"t" * size)),
)
CONTROLS = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


def in_fragments(draw: st.DrawFn, opcode: int, payload: bytes) -> list[bytes]:
    """The message cut anywhere into frames, each with a key of its own."""
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
    """Valid messages with control frames among their fragments, and all their bytes."""
    expected, data = [], b""
    for opcode, payload in draw(st.lists(PAYLOADS, max_size=5)):
        for frame in in_fragments(draw, opcode, payload):
            for control in draw(st.lists(CONTROLS, max_size=2)):
                expected.append(control)
                data += masked(*control)
            data += frame
        expected.append((opcode, payload))
    return expected, data


@st.composite
def portions(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The bytes in portions as a socket might give them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_sent_arrives(data):
    """Any valid messages, fragmented, masked and split anywhere, come out as they went in."""
    expected, stream = data.draw(conversations())
    reader = FrameReader(LIMIT)
    seen = []
    for portion in data.draw(portions(stream)):
        seen.extend((opcode, bytes(payload)) for opcode, payload in reader.feed(portion))
    assert seen == expected
    assert reader.idle


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=5), st.integers(1, 300))
def test_garbage_is_a_violation_at_worst(garbage, limit):
    """Whatever arrives, nothing but ProtocolViolation is raised, and no message is longer than the limit."""
    reader = FrameReader(limit)
    try:
        for portion in garbage:
            for opcode, payload in reader.feed(portion):
                assert len(payload) <= (125 if opcode & 8 else limit)
                assert opcode in (TEXT, BINARY, CLOSE, PING, PONG)
                if opcode == TEXT:
                    payload.decode()
            assert len(reader._buffer) < 14 + max(limit, 125)
    except ProtocolViolation as violation:
        assert violation.close.code in (1002, 1007, 1009)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(0, 3))
def test_damaged_frames_are_a_violation_at_worst(seed, size, damages):
    """Frames with a few bits turned over reach what plain garbage would not; both ways read them alike."""
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
