"""The headers of all responses, and idle connections."""

from __future__ import annotations

import pytest
from serving import Serve
from wire import Peer


@pytest.mark.parametrize("request_line", ["GET /health/live HTTP/1.1", "GET /nowhere HTTP/1.1", "BREW /pot HTCPCP/1.0"])
async def test_responses_do_not_reveal_versions(serve: Serve, request_line: str):
    """No response has the versions of Python or aiohttp, even to bytes that are not HTTP."""
    server = await serve()
    peer = await Peer.connect(("127.0.0.1", server.port))
    await peer.send(f"{request_line}\r\nHost: localhost\r\n\r\n".encode())
    lines = (await peer.head()).decode().lower().split("\r\n")
    assert [line for line in lines if line.startswith("server:")] == ["server: roomcast"]
    assert not any("python" in line or "aiohttp" in line for line in lines)
    peer.close()


async def test_idle_http_connections_are_closed(serve: Serve):
    """A connection is closed when it has been idle for HTTP_KEEPALIVE."""
    server = await serve(http_keepalive=0.2)
    peer = await Peer.connect(("127.0.0.1", server.port))
    await peer.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await peer.head()).startswith(b"HTTP/1.1 200")
    assert await peer.read(13) == b'{"live":true}'
    assert await peer.closes_cleanly()
    peer.close()
