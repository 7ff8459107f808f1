"""The WebSocket client of the commands, against a peer that sends given bytes."""

import asyncio
import base64
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomcast.cli.exit_status import Unreachable
from roomcast.cli.target import Target
from roomcast.cli.websocket_client import End, Ended, Stream, WebSocketClient, encode_masked
from roomcast.protocol import frames
from roomcast.protocol.frames import BINARY, CLOSE, PONG, TEXT, FrameReader
from roomcast.web.upgrade.handshake import PATH


@given(st.sampled_from([TEXT, BINARY]), st.integers(0, 200) | st.sampled_from([125, 126, 65535, 65536, 70000]))
@settings(max_examples=100)
def test_a_server_reads_masked_frames(opcode, size):
    """Frames of all lengths are read, and their bytes on the wire differ from the payload."""
    payload = bytes(index % 95 + 32 for index in range(size))
    frame = encode_masked(opcode, payload)
    assert list(FrameReader(100_000).feed(frame)) == [(opcode, payload)]
    assert size < 16 or payload not in frame


class Peer:
    """A server for one connection: it answers the handshake with ``answer``, then sends ``data`` in pieces."""

    def __init__(self, data: bytes = b"", answer: bytes | None = None, piece: int = 1 << 20) -> None:
        self.data, self.answer, self.piece = data, answer, piece
        self.request = b""
        self.received = b""

    async def __aenter__(self) -> "Peer":
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.target = Target(host, port, PATH, False)
        self.over = asyncio.Event()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        async with asyncio.timeout(10):
            await self.over.wait()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.request = await reader.readuntil(b"\r\n\r\n")
            key = self.request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            accept = b"HTTP/1.1 101 Hi\r\nSec-Websocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
            stream = (accept if self.answer is None else self.answer) + self.data
            for start in range(0, len(stream), self.piece):
                writer.write(stream[start : start + self.piece])
                await writer.drain()
                await asyncio.sleep(0)
            self.received = await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.over.set()


async def receive_all(peer: Peer, token: str | None = None) -> list[bytes | End]:
    """Connect; return all messages and the end."""
    stream = await Stream.open(peer.target, token)
    received: list[bytes | End] = []
    async with asyncio.timeout(10):
        try:
            while True:
                received.append(await stream.receive())
        except Ended as ended:
            return [*received, ended.end]


CLOSE_FRAME = frames.close(4401, "Authentication Failed")


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
async def test_frames_are_read_in_any_pieces(piece):
    """The peer sends short and long messages, one that a proxy has split, and a close frame."""
    texts = [b"", b"short", b"x" * 300, b"y" * 70_000 if piece > 1 else b"y" * 300]
    split = bytes((TEXT, 3)) + b"abc" + bytes((0x80, 3)) + b"def"
    async with Peer(b"".join(map(frames.text, texts)) + split + CLOSE_FRAME, piece=piece) as peer:
        assert await receive_all(peer) == [*texts, b"abcdef", End(4401, "Authentication Failed")]


async def test_pings_and_close_frames_are_answered():
    """The answers repeat the payload of the ping and the code of the close frame, masked."""
    async with Peer(frames.ping(b"are you there") + CLOSE_FRAME) as peer:
        await receive_all(peer)
    assert list(FrameReader(1000).feed(peer.received)) == [(PONG, b"are you there"), (CLOSE, struct.pack("!H", 4401))]


async def test_the_token_is_in_a_header_and_not_in_the_url():
    """Proxies log URLs, but not the Authorization header."""
    async with Peer(CLOSE_FRAME) as peer:
        await receive_all(peer, "the.token.itself")
    line, _, head = peer.request.partition(b"\r\n")
    assert b"Authorization: Bearer the.token.itself\r\n" in head
    assert b"token" not in line


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 1006),
        (frames.binary(b"x"), 1003),
        (bytes((0x83, 0)), 1002),
        (bytes((0x81, 127)) + struct.pack("!Q", 1 << 40), 1009),
        (bytes((0x88, 0)), 1005),
    ],
)
async def test_other_ends_have_codes_too(data, code):
    """A frame that roomcast never sends and a lost connection each end with a code."""
    async with Peer(data) as peer:
        stream = await Stream.open(peer.target, None)
        if not data:
            stream.abort()
        with pytest.raises(Ended) as ended:
            await stream.receive()
    assert ended.value.end.code == code


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\nThis page may not connect.\nmore", End(403, "This page may not connect.")),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", End(404, "Not Found")),
        (b"SSH-2.0-OpenSSH\r\n\r\n", End(1002, "No HTTP")),
        (
            b"HTTP/1.1 101 Hi\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
            End(1002, "The answer is not that of a WebSocket server"),
        ),
        (b"x" * 70_000, End(1002, "The answer is not HTTP")),
    ],
)
async def test_a_refused_upgrade_is_explained(answer, end):
    """The end has the status and the first line of the body, or states that this is not a WebSocket server."""
    async with Peer(answer=answer) as peer:
        with pytest.raises(Ended) as ended:
            await Stream.open(peer.target, None)
    assert ended.value.end == end


async def test_after_the_end_sending_does_nothing():
    """Callers need not check whether the connection has ended."""
    async with Peer(CLOSE_FRAME) as peer:
        stream = await Stream.open(peer.target, None)
        with pytest.raises(Ended):
            await stream.receive()
        for act in (lambda: stream.send(b"{}"), stream.ping, stream.close, stream.abort):
            act()
        with pytest.raises(Ended):
            await stream.receive()


async def test_a_closed_port_is_unreachable():
    """The sentence has the address and the reason."""
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 cannot be reached: connection refused"):
        await WebSocketClient(Target("127.0.0.1", 1, PATH, False), None).connect()
