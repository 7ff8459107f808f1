"""Requests that arrive in large pieces: they are parsed a part at a time, and completely."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from handshakes import request, serving
from serving import KEY, PATH, task_created, token_for
from wire import Peer, masked

from roomcast.aiohttp_internals import HttpConnection
from roomcast.protocol.frames import TEXT

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")

HEAD = f"POST /api/v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"


def chunked(body: bytes, size: int) -> bytes:
    """Return a request with ``body`` in chunks of ``size`` bytes."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


def whole(body: bytes) -> bytes:
    """Return a request with ``body`` and its length."""
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes that aiohttp's connections parsed, for each call."""
    sizes: list[int] = []
    original = web.RequestHandler.data_received

    def data_received(handler: web.RequestHandler, data: bytes) -> None:
        sizes.append(len(data))
        original(handler, data)

    monkeypatch.setattr(web.RequestHandler, "data_received", data_received)
    return sizes


async def statuses(peer: Peer, count: int) -> list[bytes]:
    """Read ``count`` responses with a Content-Length; return their status codes."""
    found = []
    for _ in range(count):
        head = await peer.head()
        found.append(head.split()[1])
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await peer.read(int(length.partition(b":")[2]))
    return found


async def test_large_requests_are_parsed_in_parts(parsed: list[int]) -> None:
    """Bodies of any form, and requests that follow them in the same read, are complete; each part is small."""
    events = json.dumps([task_created("x" * 100) for _ in range(900)]).encode()
    data = whole(events) + chunked(events, 1) + chunked(events, 5000) + whole(b"{") + whole(events)
    async with serving() as running:
        peer = await running.peer()
        sending = asyncio.create_task(peer.send(data))
        assert await statuses(peer, 5) == [b"200", b"200", b"200", b"400", b"200"]
        await sending
    assert max(parsed) <= HttpConnection.PARSE_AT_ONCE
    assert sum(parsed) >= len(data)


async def test_pipelined_requests_in_one_piece_are_answered_in_order() -> None:
    """More requests than aiohttp queues are all answered."""
    one = b"GET /health/live HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200 + b"\r\n\r\n"
    async with serving() as running:
        peer = await running.peer()
        sending = asyncio.create_task(peer.send(one * 500 + one.replace(b"/health/live", b"/nope")))
        assert await statuses(peer, 501) == [b"200"] * 500 + [b"404"]
        await sending


@pytest.mark.parametrize("first", [1, 50])
async def test_frames_after_an_upgrade_request_are_kept(first: int) -> None:
    """A handshake that aiohttp parses may be followed by more bytes than are parsed at once."""
    frames = masked(TEXT, json.dumps({"type": "ping", "data": {}, "id": "x" * 100}).encode()) * 300
    assert len(frames) > 2 * HttpConnection.PARSE_AT_ONCE
    async with serving() as running:
        peer, head = await running.peer(), request(f"{PATH}?token={token_for()}")
        await peer.send(head[:first])
        while not running.aiohttp_handlers:
            await asyncio.sleep(0)
        await peer.send(head[first:] + frames)
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.event())["type"] == "connected"
        for _ in range(300):
            assert (await peer.event())["type"] == "pong"
        assert running.aiohttp_requests == 1


async def test_a_client_that_leaves_within_a_large_request_is_forgotten() -> None:
    """Parts that were not parsed are dropped with the connection."""
    async with serving() as running:
        for _ in range(5):
            peer = await running.peer()
            await peer.send(chunked(bytes(40_000), 1)[:-100])
            peer.close()
        await running.wait_until_released()
