"""Bodies that are compressed, and bodies that no handler reads, on real servers."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from serving import PATH, WITH_KEY, Serve, answer, call, task_created
from waiting import PATIENCE
from wire import Peer

from roomcast import Plugin
from roomcast.web import body_limit
from roomcast.web.server import Server

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/nope", PATH, "/nope", "/health/live", "/docs"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity", "x"])
async def test_encoded_bodies_are_refused(serve: Serve, path: str, encoding: str) -> None:
    """Every request with a Content-Encoding gets 415 and is closed: in JSON under /api, else in text."""
    server = await serve()
    body = gzip.compress(json.dumps(task_created()).encode())
    async with answer(server, "POST", path, data=body, headers={"Content-Encoding": encoding}) as response:
        assert response.status == 415
        assert response.headers["Accept-Encoding"] == "identity"
        assert response.headers["Connection"] == "close"
        text = await response.text()
    assert "Content-Encoding" in text
    if path.startswith("/api/"):
        assert json.loads(text)["code"] == "body_encoded"


async def test_an_encoded_request_with_an_expectation_is_refused(serve: Serve) -> None:
    """A client that waits for 100 before it sends its body gets the refusal."""
    server = await serve()
    body = gzip.compress(json.dumps(task_created()).encode())
    headers = WITH_KEY | {"Content-Encoding": "gzip"}
    status, refusal = await call(server, "POST", "/api/v1/events", data=body, headers=headers, expect100=True)
    assert (status, refusal["code"]) == (415, "body_encoded")


async def post_head(server, *headers: str) -> Peer:
    """Send the head of a request that is answered with 404, and whose body follows."""
    peer = await Peer.connect(("127.0.0.1", server.port))
    await peer.send("\r\n".join(["POST /nope HTTP/1.1", "Host: a", *headers, "", ""]).encode())
    return peer


async def read_404(peer: Peer) -> bytes:
    """Read the 404 with its body; return its head."""
    head = await peer.head()
    assert head.startswith(b"HTTP/1.1 404 ")
    await peer.read(int(re.search(rb"(?i)content-length: ([0-9]+)", head)[1]))
    return head


async def test_a_body_that_is_not_read_does_not_reset_the_connection(serve: Serve) -> None:
    """A client that sends all of its body before it reads gets the response, then the end of the connection."""
    server = await serve()
    peer = await post_head(server, "Content-Length: 3000000")
    for _ in range(3):
        await peer.send(bytes(1_000_000))
    assert b"Connection: close" in await read_404(peer)
    assert await peer.closes_cleanly()
    peer.close()


async def test_a_body_that_came_with_its_head_keeps_the_connection(serve: Serve) -> None:
    """If nothing of a body is outstanding, the connection serves the next request."""
    server = await serve()
    peer = await Peer.connect(("127.0.0.1", server.port))
    for _ in range(2):
        await peer.send(b"POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert b"close" not in await read_404(peer)
    peer.close()


@pytest.mark.parametrize("header", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
async def test_endless_bodies_are_not_received(serve: Serve, monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    """The connection is closed when the limit of bytes is exceeded, even if the client does not stop to send."""
    monkeypatch.setattr(body_limit, "LINGER_SECONDS", 10 * PATIENCE)
    monkeypatch.setattr(body_limit, "LINGER_BYTES", 100_000)
    server = await serve()
    peer = await post_head(server, header)
    with pytest.raises(ConnectionError):
        while True:
            await peer.send(b"1\r\nx\r\n" * 10_000)
    peer.close()


async def test_the_rest_of_a_body_is_not_parsed(serve: Serve) -> None:
    """After the response, chunks are received without aiohttp's parser: broken ones make no difference."""
    server = await serve()
    peer = await post_head(server, "Transfer-Encoding: chunked")
    assert b"Connection: close" in await read_404(peer)
    await peer.send(b"this is no chunk\r\n" * 1000)
    assert await peer.closes_cleanly()
    peer.close()


async def test_a_body_that_never_comes_does_not_keep_the_connection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent client is closed after the limit of time."""
    monkeypatch.setattr(body_limit, "LINGER_SECONDS", 0.1)
    server = await serve()
    peer = await post_head(server, "Content-Length: 5")
    await read_404(peer)
    assert await peer.closes_cleanly()
    async with asyncio.timeout(PATIENCE):
        while server.ports[0].runner.server.connections:
            await asyncio.sleep(0.01)
    peer.close()


READS: dict[str, Callable[[web.Request], Awaitable[Any]]] = {
    "read": lambda request: request.read(),
    "json": lambda request: request.json(),
    "post": lambda request: request.post(),
    "content": lambda request: request.content.read(),
}


def reading(read: Callable[[web.Request], Awaitable[Any]]) -> Plugin:
    """Return a plugin with a route that reads its body."""
    plugin = Plugin("reading", "For this test")

    @plugin.route("POST", "/body", auth="public")
    async def read_body(service, request) -> web.Response:
        await read(request)
        return web.Response(text="read")

    return plugin


async def post_to_plugin(server: Server, body: bytes) -> Peer:
    """Send a request to the route of ``reading``, with the beginning of its body."""
    peer = await Peer.connect(("127.0.0.1", server.port))
    form = "Content-Type: application/x-www-form-urlencoded"
    await peer.send(f"POST /plugins/reading/body HTTP/1.1\r\nHost: a\r\n{form}\r\nContent-Length: 100\r\n\r\n".encode())
    await peer.send(body)
    return peer


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_slow_body_of_a_plugins_route_is_408(
    serve: Serve, read: Callable[[web.Request], Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """HANDSHAKE_TIMEOUT is the time for all of the body, however it is read. A handler need not know it."""
    server = await serve(plugins=[reading(read)], handshake_timeout=0.3)
    peer = await post_to_plugin(server, b"a")
    answered = asyncio.create_task(peer.head())
    for _ in range(90):
        if answered.done():
            break
        await peer.send(b"a")
        await asyncio.sleep(0.02)
    head = await answered
    assert head.startswith(b"HTTP/1.1 408 ")
    body = json.loads(await peer.read(int(re.search(rb"(?i)content-length: ([0-9]+)", head)[1])))
    assert body == {"error": "The body did not arrive within 0.3 s.", "code": "body_too_slow"}
    assert await peer.closes_cleanly()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    peer.close()


async def test_a_handler_that_is_slow_itself_is_not_interrupted(serve: Serve) -> None:
    """The time counts for the body only: it may be read later, and a handler that does not need it has more time."""

    async def read_late(request: web.Request) -> None:
        await asyncio.sleep(0.2)
        await request.read()

    for handler, body in ((read_late, bytes(100)), (lambda request: asyncio.sleep(0.2), b"a")):
        server = await serve(plugins=[reading(handler)], handshake_timeout=0.1)
        peer = await post_to_plugin(server, body)
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        peer.close()


async def test_exceptions_of_aiohttp_are_sent_before_the_rest_is_discarded(serve: Serve) -> None:
    """A handler that raises one of aiohttp's exceptions is answered like one that returns a response."""
    raising = Plugin("raising", "For this test")

    @raising.route("POST", "/teapot", auth="public")
    async def refuse(service, request) -> web.Response:
        raise web.HTTPConflict(text="no tea")

    server = await serve(plugins=[raising])
    peer = await Peer.connect(("127.0.0.1", server.port))
    await peer.send(b"POST /plugins/raising/teapot HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(3):
        await peer.send(bytes(1_000_000))
    assert (await peer.head()).startswith(b"HTTP/1.1 409 ")
    assert await peer.read(6) == b"no tea"
    assert await peer.closes_cleanly()
    peer.close()
