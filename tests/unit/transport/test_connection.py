"""Tests of ``transport.connection`` on real sockets: messages, reading, and how a connection ends."""

import asyncio
import contextlib

import pytest
from echo_server import Echo, serving, wait_for
from wire import Peer, closing, masked

from roomcast import fastpath
from roomcast.errors import NORMAL, SERVICE_RESTART, TOO_SLOW, Close
from roomcast.protocol import frames
from roomcast.protocol.frames import CLOSE, CONTINUATION, PING, PONG, TEXT
from roomcast.transport import connection

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")


# Messages.


async def test_a_text_message_is_received_and_answered():
    """The subclass gets the message, and the client gets what the subclass sends."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(masked(TEXT, "Grüße".encode()))
        assert await peer.frame() == (TEXT, "Grüße".encode())
        assert echo.received == ["Grüße".encode()]
        assert echo.calls == ["open"]


async def test_messages_are_received_in_order_for_any_fragmentation():
    """Fragments, pings between them and incomplete frames do not change the order."""
    stream = b"".join(
        [
            masked(TEXT, b"one"),
            masked(TEXT, b"t", fin=False),
            masked(PING, b"in between"),
            masked(CONTINUATION, b"wo"),
            masked(TEXT, b"three" * 100),
            masked(TEXT, b""),
            masked(TEXT, b"five"),
        ]
    )
    expected = [
        (TEXT, b"one"),
        (PONG, b"in between"),
        (TEXT, b"two"),
        (TEXT, b"three" * 100),
        (TEXT, b""),
        (TEXT, b"five"),
    ]
    async with serving() as service:
        for size in (1, 7, 100, len(stream)):
            peer, echo = await service.connect()
            for start in range(0, len(stream), size):
                echo.data_received(stream[start : start + size])
            assert [await peer.frame() for _ in expected] == expected
            assert echo._reader is None, "a reader is kept only within a message"


async def test_early_bytes_are_handled_after_on_open():
    """The response of the handshake is sent first."""
    loop = asyncio.get_running_loop()
    async with serving() as service:
        opened: asyncio.Future[Echo] = loop.create_future()

        class Handshake(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:
                echo = Echo(service.delivery, service.keepalive)
                echo.take_over(transport, b"101\r\n\r\n", masked(TEXT, b"early") + masked(TEXT, b"bi")[:7])
                opened.set_result(echo)

        server = await loop.create_server(Handshake, "127.0.0.1", 0)
        peer = await Peer.connect(server.sockets[0].getsockname())
        assert await peer.head() == b"101\r\n\r\n"
        await peer.send(masked(TEXT, b"bi")[7:])
        assert [await peer.frame(), await peer.frame()] == [(TEXT, b"early"), (TEXT, b"bi")]
        echo = await opened
        assert echo.calls == ["open"]
        peer.close()
        await wait_for(echo.ended)
        server.close()


async def test_a_ping_is_answered_with_its_payload():
    """Section 5.5.2: each ping gets a pong with the same payload. Pongs are not answered."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(masked(PONG, b"unasked") + masked(PING, b"") + masked(PING, b"x" * 125))
        assert await peer.pong() == b""
        assert await peer.pong() == b"x" * 125
        assert echo.received == []


async def test_an_unexpected_exception_ends_only_its_connection():
    """The event loop gets the exception. The message of the next client, in the same iteration, is handled."""

    class Faulty(Echo):
        def on_text(self, payload: bytearray) -> None:
            super().on_text(payload)
            if payload == b"break":
                raise ValueError("unexpected")

    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    async with serving(Faulty) as service:
        (peer, faulty), (other, _) = await service.connect(), await service.connect()
        peer.socket.send(masked(TEXT, b"break"))
        other.socket.send(masked(TEXT, b"fine"))
        assert await other.frame() == (TEXT, b"fine")
        await wait_for(faulty.ended)
        assert [str(context["exception"]) for context in reports] == ["unexpected"]
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                await peer.frame()
        await other.send(masked(TEXT, b"still"))
        assert await other.frame() == (TEXT, b"still")


# Pausing the input.


async def test_reading_can_be_paused_and_resumed():
    """Data that arrives during the pause waits in the kernel."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.pause_reading()
        await peer.send(masked(TEXT, b"waits"))
        other, _ = await service.connect()
        await other.send(masked(TEXT, b"does not"))
        assert await other.frame() == (TEXT, b"does not")
        assert echo.received == []
        echo.resume_reading()
        assert await peer.frame() == (TEXT, b"waits")


async def test_a_close_resumes_reading():
    """The answer to the close frame must be read."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.pause_reading()
        await peer.send(masked(TEXT, b"too late") + closing(1012))
        echo.close(SERVICE_RESTART)
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)
        assert echo.received == []


# The closing handshake.


async def test_the_client_closes_first():
    """The server returns the code and hangs up. ``end`` is the close of the client."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(closing(3001, "bye"))
        assert await peer.closed_with() == (3001, "")
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)
        assert echo.end == Close(3001, "bye", reconnect=False)
        assert echo.calls == ["open", "closing", "end"]
        assert echo not in service.keepalive.connections


async def test_a_close_without_a_code_is_answered_with_1000():
    """Section 7.1.5: the code is then 1005, which must not be sent."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(masked(CLOSE))
        assert await peer.closed_with() == (1000, "")
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)
        assert echo.end == Close(1005, "", reconnect=False)


async def test_messages_before_a_close_frame_are_answered_first():
    """A message and a close frame may arrive in one packet."""
    async with serving() as service:
        peer, _ = await service.connect()
        await peer.send(masked(TEXT, b"last") + closing(1000) + masked(TEXT, b"ignored"))
        assert await peer.frame() == (TEXT, b"last")
        assert await peer.closed_with() == (1000, "")
        await peer.wait_until_closed()


async def test_data_after_a_close_frame_is_ignored():
    """Section 5.5.1 requires it."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(closing(1000) + masked(TEXT, b"ignored") + masked(PING, b"?") + closing(1001))
        await wait_for(echo.ended)
        assert echo.received == []
        assert echo.end is not None
        assert echo.end.code == 1000


async def test_the_server_closes_first():
    """Queued frames precede the close frame. The client's answer ends the connection at once."""
    async with serving() as service:
        peer, echo = await service.connect()
        service.delivery.send(echo, frames.text(b"one"))
        service.delivery.send(echo, frames.text(b"two"))
        echo.close(SERVICE_RESTART)
        assert echo.calls == ["open", "closing"]
        assert [await peer.frame(), await peer.frame()] == [(TEXT, b"one"), (TEXT, b"two")]
        assert await peer.closed_with() == (1012, "Service Restart")
        assert not echo.ended.is_set()
        await peer.send(closing(1012))
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)
        assert echo.end is SERVICE_RESTART
        assert echo.calls == ["open", "closing", "end"]


async def test_both_sides_close_at_once():
    """Each close frame is the answer to the other. There is no third one."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        await peer.send(closing(1001))
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.closes_cleanly()
        await wait_for(echo.ended)
        assert echo.end is SERVICE_RESTART


async def test_only_the_first_close_counts():
    """A second close is not sent and changes nothing."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        echo.close(TOO_SLOW)
        await peer.send(closing(1012))
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.closes_cleanly()
        assert echo.calls.count("closing") == 1


async def test_nothing_is_written_after_a_close_frame():
    """Frames of its rooms, and frames for the connection alone, are discarded."""
    async with serving() as service:
        peer, echo = await service.connect()
        service.delivery.join("channel:1", echo)
        service.delivery.deliver("channel:1", frames.text(b"the room's, not sent yet"))
        echo.close(NORMAL)
        service.delivery.send(echo, frames.text(b"late"))
        service.delivery.deliver("channel:1", frames.text(b"latest"))
        assert await peer.closed_with() == (1000, "")
        await peer.send(masked(PING, b"?") + masked(TEXT, b"?") + closing(1000))
        assert await peer.closes_cleanly()
        assert echo.received == []


async def test_an_ended_connection_ignores_all_calls():
    """Other parts of the server may still refer to it."""
    async with serving() as service:
        peer, echo = await service.connect()
        peer.reset()
        await wait_for(echo.ended)
        service.delivery.send(echo, b"x")
        service.delivery.flush()
        echo.close(NORMAL)
        echo.abort(NORMAL)
        echo.pause_reading()
        echo.resume_reading()
        echo.check(service.keepalive.now + 1000)
        assert echo.backlog == 0
        assert echo.calls == ["open", "end"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_lost_without_a_close_frame_ends_with_1006(how):
    """``on_end`` is called once, and ``on_closing`` is not."""
    async with serving() as service:
        peer, echo = await service.connect()
        getattr(peer, how)()
        await wait_for(echo.ended)
        assert echo.end is connection.LOST
        assert echo.calls == ["open", "end"]


async def test_a_client_that_does_not_answer_a_close_frame_is_dropped(monkeypatch):
    """It is dropped after ``CLOSE_TIMEOUT``, also if it keeps sending."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.2)
    async with serving(interval=0.2) as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)

        async def send_messages() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await peer.send(masked(TEXT, b"ignored"))
                    await asyncio.sleep(0.01)

        sending = asyncio.create_task(send_messages())
        await wait_for(echo.ended)
        await sending
        assert echo.end is SERVICE_RESTART
        assert echo.received == []


@pytest.mark.parametrize("how", ["closed by the server", "closed by the client", "lost", "aborted", "violation"])
async def test_an_ending_connection_forgets_its_socket(how):
    """The kernel reuses the number for the next connection."""
    async with serving() as service:
        peer, echo = await service.connect()
        assert echo.fd == (echo._transport.get_extra_info("socket").fileno() if fastpath.IS_NATIVE else -1)
        match how:
            case "closed by the server":
                echo.close(NORMAL)
            case "closed by the client":
                await peer.send(closing(1000))
                await wait_for(echo.closing_started)
            case "lost":
                peer.reset()
                await wait_for(echo.ended)
            case "aborted":
                echo.abort(NORMAL)
            case "violation":
                await peer.send(b"\xff\xff")
                await wait_for(echo.closing_started)
        assert (echo.fd, echo.writer) == (-1, None)
