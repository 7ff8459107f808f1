"""Tests of how ``transport.connection`` closes a connection after a violation of RFC 6455."""

import asyncio

import pytest
from echo_server import serving, wait_for
from wire import closing, masked

from roomcast.errors import SERVICE_RESTART
from roomcast.protocol import frames
from roomcast.protocol.frames import BINARY, CLOSE, CONTINUATION, TEXT
from roomcast.transport import connection

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")


VIOLATIONS = {
    "unmasked": (frames.text(b"x"), 1002, "Protocol Error"),
    "reserved bit": (masked(TEXT, b"x", rsv=4), 1002, "Protocol Error"),
    "reserved opcode": (masked(0xB), 1002, "Protocol Error"),
    "reserved close code": (closing(1005), 1002, "Protocol Error"),
    "close of one byte": (masked(CLOSE, b"\x03"), 1002, "Protocol Error"),
    "binary": (masked(BINARY, b"x"), 1003, "Binary Frames Are Not Supported"),
    "bad UTF-8": (masked(TEXT, b"\xff"), 1007, "Invalid UTF-8"),
    "bad UTF-8 in fragments": (masked(TEXT, b"\xc3", fin=False) + masked(CONTINUATION), 1007, "Invalid UTF-8"),
    "bad UTF-8 in a close": (masked(CLOSE, b"\x03\xe8\xff"), 1007, "Invalid UTF-8"),
    "too long": (masked(TEXT, b"x" * 1001), 1009, "Message Too Big"),
    "too long, header only": (b"\x81\xff" + (1 << 40).to_bytes(8, "big"), 1009, "Message Too Big"),
    "too long in fragments": (
        masked(TEXT, b"x" * 600, fin=False) + masked(CONTINUATION, b"x" * 401, fin=False),
        1009,
        "Message Too Big",
    ),
}


@pytest.mark.parametrize(("data", "code", "reason"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_violation_closes_with_its_code(data, code, reason):
    """Messages before it are answered. The close frame arrives, and the server hangs up without a reset."""
    async with serving(max_message=1000) as service:
        peer, echo = await service.connect()
        await peer.send(masked(TEXT, b"good") + data + masked(TEXT, b"ignored"))
        assert await peer.frame() == (TEXT, b"good")
        assert await peer.frame() == (CLOSE, code.to_bytes(2, "big") + reason.encode())
        assert await peer.closes_cleanly()
        peer.close()
        await wait_for(echo.ended)
        assert echo.received == [b"good"]
        assert echo.end is not None
        assert echo.end.code == code
        assert echo.calls == ["open", "closing", "end"]


async def test_a_client_that_is_still_sending_gets_the_close_frame():
    """The client can read the close frame and the end of the connection while the rest of its message is not read."""
    async with serving(max_message=1000) as service:
        peer, echo = await service.connect()
        await peer.send(b"\x81\xff" + (1 << 25).to_bytes(8, "big") + b"mask")
        await wait_for(echo.closing_started)
        sending = asyncio.create_task(peer.send(bytes(1 << 25)))
        assert await peer.closed_with() == (1009, "Message Too Big")
        assert await peer.closes_cleanly()
        assert echo._reader is None, "the reader is released"
        assert not sending.done(), "the server has read all"
        sending.cancel()
        peer.close()


async def test_a_violation_after_a_close_frame_causes_no_second_one():
    """The server hangs up, and ``end`` does not change."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        await peer.send(frames.text(b"unmasked"))
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.closes_cleanly()
        peer.close()
        await wait_for(echo.ended)
        assert echo.end is SERVICE_RESTART


async def test_a_client_that_does_not_hang_up_after_a_violation_is_dropped(monkeypatch):
    """It is dropped after ``CLOSE_TIMEOUT``."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.1)
    async with serving(interval=0.1) as service:
        peer, echo = await service.connect()
        await peer.send(masked(BINARY, b"x"))
        await wait_for(echo.ended)
        assert echo.end is not None
        assert echo.end.code == 1003
