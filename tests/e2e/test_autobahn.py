"""Sections 1 to 10 of the Autobahn test suite for servers, against connections that echo."""

import asyncio
import base64
import hashlib
import json
import re
import sysconfig
from collections import Counter
from pathlib import Path

from roomcast.errors import NORMAL
from roomcast.gateway.delivery import Delivery
from roomcast.protocol import frames
from roomcast.transport.connection import Connection, Keepalive

pytest_plugins = ("loops",)
LOOPS = ("uvloop",)

#: The number of cases in each section of Autobahn. Section 11 does not exist; 12 and 13 test compression.
CASES = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1}
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
#: How long the run may take, in seconds. It takes 5 s on two cores; section 9 sends messages of 16 MiB.
PATIENCE = 120.0


class Echo(Connection):
    """A connection that sends every message back."""

    def on_text(self, payload: bytearray) -> None:
        self.scheduler.send(self, frames.text(bytes(payload)))

    def on_binary(self, payload: bytearray) -> None:
        self.scheduler.send(self, frames.binary(bytes(payload)))


class Handshake(asyncio.Protocol):
    """A minimal handshake: waits for the end of a request, and passes the transport to an ``Echo``."""

    def __init__(self, delivery: Delivery, keepalive: Keepalive) -> None:
        self.delivery = delivery
        self.keepalive = keepalive
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, early = self.received.partition(b"\r\n\r\n")
        if end:
            key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)", head)[1]
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            answer = (
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
            Echo(self.delivery, self.keepalive).take_over(self.transport, answer, early)


async def run_suite(port: int, report: Path) -> str:
    """Run the ``kosoku`` of this environment against ``port``; return its output."""
    kosoku = Path(sysconfig.get_path("scripts")) / "kosoku"
    assert kosoku.exists(), f"{kosoku} is missing; it is in the test extra: pip install '.[test]'"
    arguments = ["-p", "4", "-x", "12.*", "-x", "13.*", "-o", str(report), f"127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(
        kosoku, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return output.decode(errors="replace")


async def test_all_cases_pass(tmp_path):
    """Each case is OK or allowed by the RFC, and all cases ran."""
    loop = asyncio.get_running_loop()
    delivery, keepalive = Delivery(loop), Keepalive(loop, 30.0, max_message=1 << 24, max_buffer=1 << 26)
    server = await loop.create_server(lambda: Handshake(delivery, keepalive), "127.0.0.1", 0)
    try:
        output = await run_suite(server.sockets[0].getsockname()[1], tmp_path)
    finally:
        server.close()
        for connection in list(keepalive.connections):
            connection.abort(NORMAL)
        await server.wait_closed()
    reports = list(tmp_path.rglob("index.json"))
    assert len(reports) == 1, output
    (cases,) = json.loads(reports[0].read_text()).values()
    failed = {
        case: result
        for case, result in cases.items()
        if result["behavior"] not in GOOD or result["behaviorClose"] not in GOOD
    }
    assert not failed, output
    assert Counter(int(case.partition(".")[0]) for case in cases) == CASES
