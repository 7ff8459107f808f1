"""The client's side of RFC 6455, against a peer that sends what it is told."""

import asyncio
import base64
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomcast.cli.websocket_client import (
    PATH,
    End,
    Ended,
    Stream,
    Target,
    Unreachable,
    WebSocketClient,
    masked,
    target,
)
from roomcast.errors import RoomcastError
from roomcast.protocol import frames
from roomcast.protocol.frames import BINARY, CLOSE, PONG, TEXT, FrameReader
from roomcast.web.upgrade import handshake


@given(st.sampled_from([TEXT, BINARY]), st.integers(0, 200) | st.sampled_from([125, 126, 65535, 65536, 70000]))
@settings(max_examples=100)
def test_a_server_reads_what_was_masked(opcode, size):
    """Of every length, and never as it was written."""
    payload = bytes(index % 95 + 32 for index in range(size))
    frame = masked(opcode, payload)
    assert list(FrameReader(100_000).feed(frame)) == [(opcode, payload)]
    assert size < 16 or payload not in frame


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://127.0.0.1:8000", Target("127.0.0.1", 8000, PATH, False)),
        ("http://127.0.0.1:8000/", Target("127.0.0.1", 8000, PATH, False)),
        ("wss://chat.example.com", Target("chat.example.com", 443, PATH, True)),
        ("https://[::1]:8443/ws?token=a", Target("::1", 8443, "/ws?token=a", True)),
        ("ws://h:1?token=a", Target("h", 1, f"{PATH}?token=a", False)),
    ],
)
def test_a_url_is_read(url, expected):
    """Web URLs serve as well as WebSocket ones, and the path may be left out."""
    assert target(url) == expected


def test_the_path_is_the_servers():
    """The client knows where the server listens without importing it."""
    assert handshake.PATH == PATH


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://h", "ws://", "ws://h:99999", "ws://[::1"])
def test_what_is_no_url_is_refused(url):
    """The sentence shows a good one."""
    with pytest.raises(RoomcastError, match=r"like ws://127\.0\.0\.1:8000"):
        target(url)


class Peer:
    """A server for one connection: it answers the handshake with ``answer`` and then sends ``data`` in pieces."""

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


async def everything(peer: Peer, token: str | None = None) -> list[bytes | End]:
    """All messages that come, and the end."""
    stream = await Stream.open(peer.target, token)
    got: list[bytes | End] = []
    async with asyncio.timeout(10):
        try:
            while True:
                got.append(await stream.receive())
        except Ended as ended:
            return [*got, ended.end]


GOODBYE = frames.close(4401, "Authentication Failed")


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
async def test_frames_are_read_in_any_pieces(piece):
    """Short and long messages, one split by a proxy, and the close with its reason."""
    texts = [b"", b"short", b"x" * 300, b"y" * 70_000 if piece > 1 else b"y" * 300]
    split = bytes((TEXT, 3)) + b"abc" + bytes((0x80, 3)) + b"def"
    async with Peer(b"".join(map(frames.text, texts)) + split + GOODBYE, piece=piece) as peer:
        assert await everything(peer) == [*texts, b"abcdef", End(4401, "Authentication Failed")]


async def test_a_ping_is_answered_and_a_close_too():
    """With the same payload, masked, as the RFC wants."""
    async with Peer(frames.ping(b"are you there") + GOODBYE) as peer:
        await everything(peer)
    assert list(FrameReader(1000).feed(peer.received)) == [(PONG, b"are you there"), (CLOSE, struct.pack("!H", 4401))]


async def test_the_token_is_in_a_header_and_not_in_the_url():
    """Proxies log URLs."""
    async with Peer(GOODBYE) as peer:
        await everything(peer, "the.token.itself")
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
    """What no roomcast sends ends the connection."""
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
async def test_an_answer_that_opens_nothing_is_told(answer, end):
    """The status and the first line of the body, or that it is no server of ours."""
    async with Peer(answer=answer) as peer:
        with pytest.raises(Ended) as ended:
            await Stream.open(peer.target, None)
    assert ended.value.end == end


async def test_after_the_end_sending_does_nothing():
    """Nobody has to ask first."""
    async with Peer(GOODBYE) as peer:
        stream = await Stream.open(peer.target, None)
        with pytest.raises(Ended):
            await stream.receive()
        for act in (lambda: stream.send(b"{}"), stream.ping, stream.close, stream.abort):
            act()
        with pytest.raises(Ended):
            await stream.receive()


async def test_nobody_there_is_unreachable():
    """The sentence has the address and the reason."""
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 cannot be reached: connection refused"):
        await WebSocketClient(Target("127.0.0.1", 1, PATH, False), None).connect()
