"""Connections on real sockets: how they close, what breaks them, who is too slow, who is dead."""

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest
from wire import PATIENCE, Peer, closing, masked

from roomcast import fastpath
from roomcast.errors import NORMAL, SERVICE_RESTART, TOO_SLOW, Close
from roomcast.gateway.delivery import Delivery
from roomcast.protocol import frames
from roomcast.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from roomcast.transport import connection
from roomcast.transport.connection import Connection, Keepalive

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop", "asyncio")


class Echo(Connection):
    """Says every text once more, and remembers what became of it."""

    def __init__(self, hub: Delivery, keepalive: Keepalive) -> None:
        super().__init__(hub, keepalive)
        self.heard: list[bytes] = []
        self.text_came = asyncio.Event()
        self.closing_began = asyncio.Event()
        self.ended = asyncio.Event()
        self.told: list[str] = []

    def on_open(self) -> None:
        self.told.append("open")

    def on_text(self, payload: bytearray) -> None:
        self.heard.append(bytes(payload))
        self.text_came.set()
        self.scheduler.send(self, frames.text(bytes(payload)))

    def on_closing(self) -> None:
        self.told.append("closing")
        self.closing_began.set()

    def on_end(self) -> None:
        self.told.append("end")
        self.ended.set()


class Service:
    """Connections behind a listening socket, without the handshake."""

    def __init__(self, kind: type[Connection], keepalive: Keepalive, hub: Delivery) -> None:
        self.kind = kind
        self.delivery = hub
        self.keepalive = keepalive
        self.accepted: asyncio.Queue[Echo] = asyncio.Queue()
        self.peers: list[Peer] = []
        self.address = ("", 0)
        #: What is done with a transport before it is taken over.
        self.prelude: Callable[[asyncio.Transport], None] = lambda transport: None

    def accept(self) -> asyncio.Protocol:
        service = self

        class Greeter(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:
                # As after a handshake: the transport is reading.
                asyncio.get_running_loop().call_soon(self.hand_over, transport)

            def hand_over(self, transport: asyncio.Transport) -> None:
                service.prelude(transport)
                one = service.kind(service.delivery, service.keepalive)
                one.take_over(transport, b"")
                service.accepted.put_nowait(one)

        return Greeter()

    async def connect(self, *, receive_buffer: int | None = None) -> tuple[Peer, Echo]:
        peer = await Peer.connect(self.address, receive_buffer=receive_buffer)
        self.peers.append(peer)
        async with asyncio.timeout(PATIENCE):
            return peer, await self.accepted.get()


@contextlib.asynccontextmanager
async def serving(
    kind: type[Connection] = Echo,
    *,
    interval: float = 30.0,
    max_message: int = 65536,
    max_buffer: int = 1 << 20,
    send_buffer: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Service]:
    """A service on a free port, whose sockets hold ``send_buffer`` bytes in the kernel."""
    loop = asyncio.get_running_loop()
    service = Service(kind, Keepalive(loop, interval, max_message, max_buffer), Delivery(loop))
    sock = socket.socket()
    if send_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    sock.bind(("127.0.0.1", 0))
    service.address = sock.getsockname()
    server = await loop.create_server(service.accept, sock=sock, ssl=tls)
    sweeping = asyncio.create_task(service.keepalive.run())
    try:
        yield service
    finally:
        sweeping.cancel()
        for one in list(service.keepalive.connections):
            one.abort(NORMAL)
        for peer in service.peers:
            peer.close()
        server.close()
        async with asyncio.timeout(PATIENCE):
            await server.wait_closed()


async def happens(event: asyncio.Event) -> None:
    """Wait for what must come."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()


# Messages.


async def test_a_text_is_heard_and_answered():
    """A text message reaches the subclass; what it sends reaches the client."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(masked(TEXT, "Grüße".encode()))
        assert await peer.frame() == (TEXT, "Grüße".encode())
        assert echo.heard == ["Grüße".encode()]
        assert echo.told == ["open"]


async def test_messages_are_heard_in_order_however_they_are_cut():
    """Fragments, pings between them and halves of frames change nothing about the order."""
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
            assert echo._reader is None, "a reader is only kept while something is half read"


async def test_early_bytes_are_heard_after_the_opening():
    """What came behind the handshake is read after on_open, and the answer goes ahead of all."""
    loop = asyncio.get_running_loop()
    async with serving() as service:
        taken: asyncio.Future[Echo] = loop.create_future()

        class Greeter(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:
                one = Echo(service.delivery, service.keepalive)
                one.take_over(transport, b"101\r\n\r\n", masked(TEXT, b"early") + masked(TEXT, b"bi")[:7])
                taken.set_result(one)

        server = await loop.create_server(Greeter, "127.0.0.1", 0)
        peer = await Peer.connect(server.sockets[0].getsockname())
        assert await peer.head() == b"101\r\n\r\n"
        await peer.send(masked(TEXT, b"bi")[7:])
        assert [await peer.frame(), await peer.frame()] == [(TEXT, b"early"), (TEXT, b"bi")]
        echo = await taken
        assert echo.told == ["open"]
        peer.close()
        await happens(echo.ended)
        server.close()


async def test_a_ping_is_answered_with_its_payload():
    """Section 5.5.2: a pong for each ping, with the same body; pongs are not answered."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(masked(PONG, b"unasked") + masked(PING, b"") + masked(PING, b"x" * 125))
        assert await peer.pong() == b""
        assert await peer.pong() == b"x" * 125
        assert echo.heard == []


async def test_a_fault_of_ours_ends_the_connection_and_no_other():
    """An exception that nobody foresaw is told to the loop, and the next client is heard in the same turn."""

    class Faulty(Echo):
        def on_text(self, payload: bytearray) -> None:
            super().on_text(payload)
            if payload == b"break":
                raise ValueError("nobody foresaw this")

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    async with serving(Faulty) as service:
        (peer, faulty), (other, _) = await service.connect(), await service.connect()
        peer.socket.send(masked(TEXT, b"break"))
        other.socket.send(masked(TEXT, b"fine"))
        assert await other.frame() == (TEXT, b"fine")
        await happens(faulty.ended)
        assert [str(context["exception"]) for context in told] == ["nobody foresaw this"]
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                await peer.frame()
        await other.send(masked(TEXT, b"still"))
        assert await other.frame() == (TEXT, b"still")


# The closing handshake.


async def test_the_client_closes_first():
    """Its code comes back, the server hangs up, and the end is the client's close."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(closing(3001, "bye"))
        assert await peer.closed_with() == (3001, "")
        assert await peer.hung_up()
        await happens(echo.ended)
        assert echo.end == Close(3001, "bye", reconnect=False)
        assert echo.told == ["open", "closing", "end"]
        assert echo not in service.keepalive.connections


async def test_a_close_without_a_code_is_answered_with_1000():
    """Section 7.1.5: no code is 1005, which must not be sent back."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(masked(CLOSE))
        assert await peer.closed_with() == (1000, "")
        assert await peer.hung_up()
        await happens(echo.ended)
        assert echo.end == Close(1005, "", reconnect=False)


async def test_what_was_sent_before_a_close_comes_before_its_answer():
    """A message and a close in one packet: the reply to the first is not lost."""
    async with serving() as service:
        peer, _ = await service.connect()
        await peer.send(masked(TEXT, b"last words") + closing(1000) + masked(TEXT, b"from the grave"))
        assert await peer.frame() == (TEXT, b"last words")
        assert await peer.closed_with() == (1000, "")
        await peer.cut_off()


async def test_nothing_is_heard_behind_a_close():
    """Section 5.5.1: what follows a close frame does not count."""
    async with serving() as service:
        peer, echo = await service.connect()
        await peer.send(closing(1000) + masked(TEXT, b"from the grave") + masked(PING, b"?") + closing(1001))
        await happens(echo.ended)
        assert echo.heard == []
        assert echo.end is not None
        assert echo.end.code == 1000


async def test_the_server_closes_first():
    """What waits is sent, then the close; the client's answer ends the connection at once."""
    async with serving() as service:
        peer, echo = await service.connect()
        service.delivery.send(echo, frames.text(b"one"))
        service.delivery.send(echo, frames.text(b"two"))
        echo.close(SERVICE_RESTART)
        assert echo.told == ["open", "closing"]
        assert [await peer.frame(), await peer.frame()] == [(TEXT, b"one"), (TEXT, b"two")]
        assert await peer.closed_with() == (1012, "Service Restart")
        assert not echo.ended.is_set()
        await peer.send(closing(1012))
        assert await peer.hung_up()
        await happens(echo.ended)
        assert echo.end is SERVICE_RESTART
        assert echo.told == ["open", "closing", "end"]


async def test_both_close_at_once():
    """Each frame is the answer to the other: there is no third one."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        await peer.send(closing(1001))
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.hung_up()
        await happens(echo.ended)
        assert echo.end is SERVICE_RESTART


async def test_only_the_first_close_counts():
    """A second close is not sent, and changes nothing."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        echo.close(TOO_SLOW)
        await peer.send(closing(1012))
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.hung_up()
        assert echo.told.count("closing") == 1


async def test_nothing_is_written_after_a_close():
    """What the hub has for it then, its room's or its own, is let go at the turn's end."""
    async with serving() as service:
        peer, echo = await service.connect()
        service.delivery.join("channel:1", echo)
        service.delivery.deliver("channel:1", frames.text(b"the room's, not sent yet"))
        echo.close(NORMAL)
        service.delivery.send(echo, frames.text(b"late"))
        service.delivery.deliver("channel:1", frames.text(b"latest"))
        assert await peer.closed_with() == (1000, "")
        await peer.send(masked(PING, b"?") + masked(TEXT, b"?") + closing(1000))
        assert await peer.hung_up()
        assert echo.heard == []


async def test_a_dead_connection_takes_everything_in_its_stride():
    """What others still do with it after its end is nothing."""
    async with serving() as service:
        peer, echo = await service.connect()
        peer.reset()
        await happens(echo.ended)
        service.delivery.send(echo, b"x")
        service.delivery.flush()
        echo.close(NORMAL)
        echo.abort(NORMAL)
        echo.pause_reading()
        echo.resume_reading()
        echo.check(service.keepalive.now + 1000)
        assert echo.backlog == 0
        assert echo.told == ["open", "end"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_vanishes_ends_with_1006(how):
    """No close frame: the end is LOST, told once."""
    async with serving() as service:
        peer, echo = await service.connect()
        getattr(peer, how)()
        await happens(echo.ended)
        assert echo.end is connection.LOST
        assert echo.told == ["open", "end"]


async def test_a_peer_that_does_not_answer_a_close_is_cut_off(monkeypatch):
    """CLOSE_TIMEOUT after the close frame, even if it goes on sending all the while."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.2)
    async with serving(interval=0.2) as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)

        async def chatter() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await peer.send(masked(TEXT, b"and another thing"))
                    await asyncio.sleep(0.01)

        chattering = asyncio.create_task(chatter())
        await happens(echo.ended)
        await chattering
        assert echo.end is SERVICE_RESTART
        assert echo.heard == []


# Violations.

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
    "over-long": (masked(TEXT, b"x" * 1001), 1009, "Message Too Big"),
    "over-long by its header": (b"\x81\xff" + (1 << 40).to_bytes(8, "big"), 1009, "Message Too Big"),
    "over-long in fragments": (
        masked(TEXT, b"x" * 600, fin=False) + masked(CONTINUATION, b"x" * 401, fin=False),
        1009,
        "Message Too Big",
    ),
}


@pytest.mark.parametrize(("data", "code", "reason"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_violation_closes_with_its_code(data, code, reason):
    """What came before is answered, the close frame arrives, and the server hangs up without a reset."""
    async with serving(max_message=1000) as service:
        peer, echo = await service.connect()
        await peer.send(masked(TEXT, b"good") + data + masked(TEXT, b"not heard"))
        assert await peer.frame() == (TEXT, b"good")
        assert await peer.frame() == (CLOSE, code.to_bytes(2, "big") + reason.encode())
        assert await peer.hung_up()
        peer.close()
        await happens(echo.ended)
        assert echo.heard == [b"good"]
        assert echo.end is not None
        assert echo.end.code == code
        assert echo.told == ["open", "closing", "end"]


async def test_a_client_that_is_still_sending_reads_why_it_was_closed():
    """The rest of a message that is too long is thrown away as it comes; a reset would eat the close frame."""
    async with serving(max_message=1000) as service:
        peer, echo = await service.connect()
        await peer.send(b"\x81\xff" + (1 << 23).to_bytes(8, "big") + b"mask")
        await happens(echo.closing_began)
        for _ in range(128):
            await peer.send(bytes(65536))
        assert await peer.closed_with() == (1009, "Message Too Big")
        assert await peer.hung_up()
        assert echo._reader is None, "nothing of it is kept"
        peer.close()
        await happens(echo.ended)


async def test_a_violation_during_the_closing_is_no_second_close():
    """The server has said its close; a client that answers with nonsense is just hung up on."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.close(SERVICE_RESTART)
        await peer.send(frames.text(b"unmasked"))
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.hung_up()
        peer.close()
        await happens(echo.ended)
        assert echo.end is SERVICE_RESTART


async def test_a_violator_that_does_not_hang_up_is_cut_off(monkeypatch):
    """A peer that was closed for its fault and goes on sending is dropped after CLOSE_TIMEOUT."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.1)
    async with serving(interval=0.1) as service:
        peer, echo = await service.connect()
        await peer.send(masked(BINARY, b"x"))
        await happens(echo.ended)
        assert echo.end is not None
        assert echo.end.code == 1003


# The heartbeat.


async def test_a_silent_client_is_pinged_and_lives_by_its_pongs():
    """Ping after ping is sent while it answers; it is not dropped."""
    async with serving(interval=0.1) as service:
        peer, echo = await service.connect()
        for _ in range(5):
            assert await peer.frame() == (PING, b"")
            await peer.send(masked(PONG))
        assert echo.end is None


async def test_a_client_that_does_not_answer_pings_is_dropped():
    """One ping, no pong: the connection is gone, without a close frame."""
    async with serving(interval=0.1) as service:
        peer, echo = await service.connect()
        assert await peer.frame() == (PING, b"")
        await peer.cut_off()
        await happens(echo.ended)
        assert echo.end is connection.SILENT
        assert echo.told == ["open", "end"]


async def test_a_client_that_speaks_is_not_pinged():
    """Any bytes are a sign of life: half a frame in each of ten rounds keeps the pings away."""
    async with serving() as service:
        peer, echo = await service.connect()
        data = masked(TEXT, b"slowly but")
        for byte in data:
            echo.data_received(bytes([byte]))
            service.keepalive.now += 29.0
            echo.check(service.keepalive.now)
        assert await peer.frame() == (TEXT, b"slowly but")
        await peer.send(masked(PING, b"1"))
        assert await peer.frame() == (PONG, b"1"), "no ping of the server's came before"


async def test_a_ping_comes_after_one_interval_and_the_end_after_two():
    """By the sweep's clock, to the second; nothing before."""
    async with serving(interval=30.0) as service:
        peer, echo = await service.connect()
        start = echo.last_read
        for second in range(60):
            echo.check(start + second)
            assert echo._is_pinged == (second >= 30)
            assert echo.end is None
        echo.check(start + 60)
        assert echo.end is connection.SILENT
        await happens(echo.ended)
        peer.close()


async def test_a_stall_of_the_server_kills_nobody():
    """After a second in which the server was frozen, a client's pong is read before it is judged."""
    async with serving(interval=0.2) as service:
        peer, echo = await service.connect()
        assert await peer.frame() == (PING, b"")
        await peer.send(masked(PONG) + masked(TEXT, b"here"))
        time.sleep(1.0)
        assert await peer.frame() == (TEXT, b"here")
        assert await peer.frame() == (PING, b"")
        assert echo.end is None


async def test_nobody_is_dropped_unasked():
    """A sweep that comes very late pings first; only silence after a ping is death."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.check(echo.last_read + 1000)
        assert echo.end is None
        assert await peer.frame() == (PING, b"")
        echo.check(echo.last_read + 1001)
        assert echo.end is connection.SILENT


# Slow clients.


async def fill(echo: Echo, size: int = 4096) -> int:
    """Write numbered messages until the connection is closed for it; return how many."""
    count = 0
    while echo.end is None:
        echo.scheduler.send(echo, frames.text(b"%08d" % count + bytes(size - 8)))
        count += 1
        await asyncio.sleep(0)
        assert count < 100_000, "a client that never reads was never closed"
    return count


async def test_a_client_that_never_reads_is_closed_with_1013():
    """Once more than max_buffer waits it is closed; when it reads at last, it sees whole frames and the reason."""
    async with serving(max_buffer=100_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        count = await fill(echo)
        assert echo.end is TOO_SLOW
        assert 100_000 < echo.backlog < 100_000 + 2 * 4200
        for number in range(count):
            opcode, payload = await peer.frame()
            assert (opcode, payload[:8], len(payload)) == (TEXT, b"%08d" % number, 4096)
        assert await peer.frame() == (CLOSE, b"\x03\xf5Too Slow")
        await peer.send(closing(1013))
        assert await peer.hung_up()
        await happens(echo.ended)
        assert echo.told == ["open", "closing", "end"]


async def test_a_slow_client_that_says_goodbye_gets_what_it_is_owed():
    """A close of the client's own, with a backlog before it, is answered behind the backlog."""
    async with serving(max_buffer=1 << 20, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        for _ in range(100):
            service.delivery.send(echo, frames.text(bytes(4096)))
        await peer.send(closing(1000))
        await happens(echo.closing_began)
        assert echo.backlog > 0
        for _ in range(100):
            assert await peer.frame() == (TEXT, bytes(4096))
        assert await peer.closed_with() == (1000, "")
        assert await peer.hung_up()
        await happens(echo.ended)


async def test_a_client_that_never_reads_its_close_either_is_cut_off(monkeypatch):
    """CLOSE_TIMEOUT later its backlog is thrown away with it."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.1)
    async with serving(interval=0.1, max_buffer=100_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        await fill(echo)
        await happens(echo.ended)
        assert echo.end is TOO_SLOW
        assert echo.backlog == 0
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                await peer.frame()


async def test_a_client_just_slow_enough_is_not_closed():
    """A backlog within max_buffer is no fault, however often it comes; read and empty, it starts anew."""
    async with serving(max_buffer=200_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        for _ in range(5):
            for _ in range(40):
                service.delivery.send(echo, frames.text(bytes(4096)))
            await asyncio.sleep(0)
            assert echo.backlog > 50_000
            for _ in range(40):
                assert await peer.frame() == (TEXT, bytes(4096))
        assert echo.end is None


async def test_a_client_that_reads_by_fits_and_starts_gets_all_in_order():
    """Whatever was sent to the socket, left to the transport or held, single frames and many at a time."""
    async with serving(max_buffer=1 << 30, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        service.delivery.join("channel:1", echo)
        draw = random.Random(7)  # any will do
        sent = read = 0
        while sent < 2000:
            for _ in range(draw.choice((1, 1, 2, 60))):
                frame = frames.text(b"%08d" % sent + bytes(draw.choice((0, 10, 3000, 40_000))))
                if draw.random() < 0.5:
                    service.delivery.send(echo, frame)
                    await asyncio.sleep(0)  # what is sent to one goes before what its rooms get in the same turn
                else:
                    service.delivery.deliver("channel:1", frame)
                    await asyncio.sleep(0)
                sent += 1
            while read < sent and draw.random() < 0.95:
                assert (await peer.frame())[1][:8] == b"%08d" % read
                read += 1
        echo.close(NORMAL)
        for number in range(read, sent):
            assert (await peer.frame())[1][:8] == b"%08d" % number
        assert await peer.closed_with() == (1000, "")


@pytest.mark.parametrize("much", [0, 100_000], ids=["a little", "enough to pause"])
async def test_what_is_unsent_at_the_handshake_is_not_overtaken(much):
    """An HTTP answer, say: what follows waits behind it, and against the limit, though its writer was another."""
    written = bytearray()

    def answer(transport: asyncio.Transport) -> None:
        while not transport.get_write_buffer_size():
            transport.write(bytes(4096))
            written.extend(bytes(4096))
        transport.write(bytes(much))
        written.extend(bytes(much))

    async with serving(max_buffer=200_000, send_buffer=16384) as service:
        service.prelude = answer
        peer, echo = await service.connect(receive_buffer=16384)
        assert echo.backlog > much
        data = peer.socket.recv(1 << 20)  # the kernel has room again, which the transport has not heard of
        for number in range(3):
            service.delivery.send(echo, frames.text(b"%d" % number))
            service.delivery.flush()
        expected = bytes(written) + b"".join(frames.text(b"%d" % number) for number in range(3))
        assert data + await peer.read(len(expected) - len(data)) == expected
        peer, echo = await service.connect(receive_buffer=16384)
        await fill(echo)
        assert echo.end is TOO_SLOW
        assert echo.backlog < 200_000 + 2 * 4200


async def test_what_was_held_is_not_overtaken_where_writelines_pauses_nobody(monkeypatch):
    """As asyncio's in Python 3.12.0 to 3.12.8 (CVE-2024-12254): what it has left would not be known to be there."""
    kind = asyncio.selector_events._SelectorSocketTransport

    def careless(transport: asyncio.Transport, lines: list[bytes]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(kind, "_maybe_pause_protocol", lambda transport: None)
            transport.write(b"".join(lines))

    monkeypatch.setattr(kind, "writelines", careless)
    async with serving(max_buffer=1 << 30, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)
        expected, data = b"", b""
        while echo._backlog is None or echo._backlog.size < 1_000_000:
            frame = frames.text(b"%08d" % len(expected) + bytes(20_000))
            expected += frame
            service.delivery.send(echo, frame)
            service.delivery.flush()
        async with asyncio.timeout(PATIENCE):
            while echo._backlog is not None:
                with contextlib.suppress(BlockingIOError):
                    data += peer.socket.recv(4096)
                await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            data += peer.socket.recv(1 << 20)  # the kernel has room again, which the transport has not heard of
        service.delivery.send(echo, frames.text(b"last"))
        service.delivery.flush()
        expected += frames.text(b"last")
        assert data + await peer.read(len(expected) - len(data)) == expected


async def test_a_slow_client_behind_tls_gets_all_in_order(certificate, server_tls):
    """The transport alone writes there; what it cannot write is held, and goes out when it can."""
    trust = ssl.create_default_context(cafile=certificate)
    async with serving(max_buffer=1 << 30, send_buffer=16384, tls=server_tls) as service:
        reader, writer = await asyncio.open_connection(*service.address, ssl=trust, limit=4096)
        async with asyncio.timeout(PATIENCE):
            echo = await service.accepted.get()
            assert echo.fd == -1
            expected = b""
            while echo._backlog is None or echo._backlog.size < 1_000_000:
                frame = frames.text(b"%08d" % len(expected) + bytes(20_000))
                expected += frame
                service.delivery.send(echo, frame)
                await asyncio.sleep(0)
            assert await reader.readexactly(len(expected)) == expected
            service.delivery.send(echo, frames.text(b"and more"))
            assert await reader.readexactly(10) == frames.text(b"and more")
        echo.close(NORMAL)
        writer.close()


@pytest.mark.parametrize("how", ["closed by the server", "closed by the client", "vanished", "aborted", "violated"])
async def test_nobody_writes_to_the_socket_of_a_connection_that_ends(how):
    """From its end on its socket is forgotten: the system gives the number to whoever comes next."""
    async with serving() as service:
        peer, echo = await service.connect()
        assert echo.fd == (echo._transport.get_extra_info("socket").fileno() if fastpath.IS_NATIVE else -1)
        match how:
            case "closed by the server":
                echo.close(NORMAL)
            case "closed by the client":
                await peer.send(closing(1000))
                await happens(echo.closing_began)
            case "vanished":
                peer.reset()
                await happens(echo.ended)
            case "aborted":
                echo.abort(NORMAL)
            case "violated":
                await peer.send(b"\xff\xff")
                await happens(echo.closing_began)
        assert (echo.fd, echo.writer) == (-1, None)


async def test_a_slow_client_in_a_room_takes_nothing_from_the_others():
    """Nineteen readers and one that never reads: they get everything, in order, and it gets 1013."""
    async with serving(max_buffer=50_000, send_buffer=16384) as service:
        everyone = [await service.connect(receive_buffer=16384) for _ in range(20)]
        for _, echo in everyone:
            service.delivery.join("channel:1", echo)
        (_, lazy), *others = everyone
        for number in range(100):
            service.delivery.deliver("channel:1", frames.text(b"%04d" % number * 500))
            for peer, _ in others:
                assert await peer.frame() == (TEXT, b"%04d" % number * 500)
        assert lazy.end is TOO_SLOW
        assert all(echo.end is None for _, echo in others)


async def test_the_backlogs_of_slow_clients_are_bounded_in_memory():
    """Ten clients that never read hold no more of the server's memory than ten times the bound."""
    async with serving(max_buffer=100_000, send_buffer=16384) as service:
        everyone = [await service.connect(receive_buffer=16384) for _ in range(10)]
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(200):
                for _, echo in everyone:
                    service.delivery.send(echo, frames.text(b"%04d" % number * 1024))
                await asyncio.sleep(0)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert all(echo.end is TOO_SLOW for _, echo in everyone)
        assert held < 10 * (100_000 + 8 * 4200)


async def test_a_flood_of_pings_that_nobody_reads_the_pongs_of_is_bounded():
    """Pongs count against the bound like everything else."""
    async with serving(max_buffer=50_000, send_buffer=16384) as service:
        peer, echo = await service.connect(receive_buffer=16384)

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):
                while echo.end is None:
                    await peer.send(masked(PING, b"x" * 125) * 50)

        async with asyncio.timeout(PATIENCE):
            await flood()
        assert echo.end is TOO_SLOW


async def test_who_hangs_up_and_does_not_read_is_dropped():
    """A half-closed peer with unread bytes would hold its place for ever: the transport waits until it has read."""
    async with serving(interval=0.2, send_buffer=4096) as service:
        peer, echo = await service.connect(receive_buffer=4096)
        echo.scheduler.send(echo, frames.text(bytes(300_000)))
        echo.scheduler.flush()
        assert echo.paused
        peer.socket.shutdown(socket.SHUT_WR)
        await happens(echo.ended)
        assert echo.end is connection.SILENT


# Reading less.


async def test_reading_can_be_paused_and_resumed():
    """What is sent meanwhile waits in the kernel and is heard afterwards."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.pause_reading()
        await peer.send(masked(TEXT, b"waits"))
        other, _ = await service.connect()
        await other.send(masked(TEXT, b"does not"))
        assert await other.frame() == (TEXT, b"does not")
        assert echo.heard == []
        echo.resume_reading()
        assert await peer.frame() == (TEXT, b"waits")


async def test_a_close_resumes_reading():
    """A client that was not listened to is heard again when it answers the close."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.pause_reading()
        await peer.send(masked(TEXT, b"too late") + closing(1012))
        echo.close(SERVICE_RESTART)
        assert await peer.closed_with() == (1012, "Service Restart")
        assert await peer.hung_up()
        await happens(echo.ended)
        assert echo.heard == []


async def test_a_client_that_is_not_listened_to_is_not_silent():
    """Its pong cannot be heard while reading is paused, so it is not dropped for that."""
    async with serving() as service:
        peer, echo = await service.connect()
        echo.pause_reading()
        start = echo.last_read
        echo.check(start + 30)
        assert await peer.frame() == (PING, b"")
        echo.check(start + 60)
        echo.check(start + 90)
        assert echo.end is None
        echo.resume_reading()
        await peer.send(masked(TEXT, b"here"))
        assert await peer.frame() == (TEXT, b"here")


async def test_a_sweep_looks_at_every_connection_and_calls_what_it_was_given():
    """Also when there are more than one chunk of them, and when some go meanwhile."""
    loop = asyncio.get_running_loop()
    keepalive = Keepalive(loop, 0.04, 1000, 1000)
    checked: list[int] = []
    rounds = asyncio.Event()

    class One(Connection):
        def __init__(self, number: int) -> None:
            super().__init__(Delivery(loop), keepalive)
            self.number = number

        def check(self, now: float) -> None:
            assert now == keepalive.now
            checked.append(self.number)
            keepalive.connections.pop(self, None)

    everyone = [One(number) for number in range(2 * Keepalive.CHUNK + 1)]
    keepalive.connections.update(dict.fromkeys(everyone))

    async def also() -> None:
        rounds.set()

    sweeping = asyncio.create_task(keepalive.run(also))
    await happens(rounds)
    sweeping.cancel()
    assert checked == list(range(2 * Keepalive.CHUNK + 1))
