"""Fuzzes the HTTP entrance of a whole server: what any client may send to the public port, also after a handshake.

See CONTRIBUTING.md for how to run it. Whatever arrives, the server answers with HTTP or closes the connection. It never
answers 500, logs no error, and keeps nothing of a connection that has ended.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

from fuzzing import run
from serving import KEY, PATH, running, token_for
from waiting import wait_until
from wire import masked

from roomcast.protocol.frames import CLOSE, TEXT

#: How long the server may take for one input, in seconds.
_PATIENCE = 30
#: The iterations of the event loop before the client sends its end of file, in which the server answers most requests.
_ITERATIONS = 30
_status = re.compile(rb"^HTTP/\d\.\d (\d\d\d) ", re.MULTILINE).findall


class Errors(logging.Handler):
    """Keeps what the server logs at ERROR or above, and what the event loop reports."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the log."""
        self.messages.append(self.format(record))

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep a report of the event loop."""
        self.messages.append(repr(context))


class Target:
    """A server in this process, and its event loop, which runs only during ``check``."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._errors = Errors()
        logging.getLogger().addHandler(self._errors)
        logging.raiseExceptions = False
        self._loop.set_exception_handler(self._errors.report)
        self._server = self._loop.run_until_complete(
            self._stack.enter_async_context(running(handshake_timeout=5.0, ws_message_rate=0))
        )

    def check(self, data: bytes) -> None:
        """Send ``data`` on a new connection."""
        self._loop.run_until_complete(asyncio.wait_for(self._exchange(data), _PATIENCE))

    def close(self) -> None:
        """Stop the server."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()
        logging.getLogger().removeHandler(self._errors)

    async def _exchange(self, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        answer = b""
        with suppress(OSError):
            writer.write(data)
            await writer.drain()
            for _ in range(_ITERATIONS):
                await asyncio.sleep(0)
            writer.write_eof()
            answer = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        await wait_until(lambda: not self._server.gateway.keepalive.connections)
        assert not answer or answer.startswith(b"HTTP/"), answer[:200]
        assert b"500" not in _status(answer), answer[:500]
        assert not self._errors.messages, self._errors.messages


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request of HTTP/1.1."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: a", *headers, "", ""]).encode() + body


def upgrade(path: str, *headers: str, frames: bytes = b"") -> bytes:
    """Return a WebSocket handshake, and the frames that follow it."""
    version, key = "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
    return request(f"GET {path}", "Connection: Upgrade", "Upgrade: websocket", version, key, *headers, body=frames)


_TOKEN = token_for(1, exp=4_000_000_000)
_KEY = f"Authorization: Bearer {KEY}"
SEEDS = [
    request("GET /health/ready") + request("GET /metrics"),
    request("GET /docs", 'If-None-Match: "x", W/"y"'),
    request("GET /static/roomcast.js", "Range: bytes=0-9,-5"),
    request("OPTIONS /api/v1/tickets", "Origin: http://b", "Access-Control-Request-Method: POST"),
    request("POST /api/v1/tickets", f"Authorization: Bearer {_TOKEN}", "Content-Length: 2", body=b"{}"),
    request("POST /api/v1/events", _KEY, "Transfer-Encoding: chunked", body=b'6;x=y\r\n{"typ"\r\n0\r\nA: b\r\n\r\n'),
    request("GET /api/v1/rooms/channel%3A1/members?limit=1", _KEY),
    request("POST /console/login", "Cookie: a=b", "Expect: 100-continue", "Content-Length: 5", body=b"key=x"),
    upgrade(f"{PATH}?token={_TOKEN}", frames=masked(TEXT, b'{"type":"ping"}') + masked(CLOSE, b"")),
    upgrade(PATH, "Sec-WebSocket-Protocol: bearer, x", 'Forwarded: for="[::1]:80"', "X-Forwarded-For: 1.2.3.4, ::1"),
]

if __name__ == "__main__":
    run(Target().check, SEEDS)
