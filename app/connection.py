"""One client on its transport: framing, heartbeat, back-pressure and the closing handshake.

It knows RFC 6455 and nothing of what is said over it: a subclass says what a text message means. There may be 10,000s
of them, so a connection has slots instead of a dict, no task, no timer and no queue of its own; ``Sweep`` keeps the
time for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from . import frames, hot
from .errors import NORMAL, TOO_SLOW, Close, ProtocolViolation
from .frames import Reader
from .hub import Hub
from .intake import Intake

#: How long a peer may take to answer a close frame, in seconds, before the socket is closed without it.
CLOSE_TIMEOUT = 5.0

#: The end of a connection that closed without a close frame (RFC 6455 section 7.1.5: 1006 is never sent).
LOST = Close(1006, "Connection Lost", reconnect=True)
SILENT = Close(1006, "No Heartbeat", reconnect=True)


class Sweep:
    """The clock of all connections: pings the silent, drops the dead, and lets a subclass check more.

    ``interval`` is the heartbeat in seconds: a connection silent for one is pinged, silent for two is dropped.
    ``max_message`` and ``max_buffer`` are the limits in bytes that the connections keep.
    """

    #: So many connections are looked at in one turn of the loop, which takes about 0.1 ms.
    CHUNK: Final = 250

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float, max_message: int, max_buffer: int) -> None:
        self._loop = loop
        self.interval: Final = interval
        self.max_message: Final = max_message
        self.max_buffer: Final = max_buffer
        #: What reads the connections' sockets, where it can.
        self.intake: Final = Intake(loop, max_message)
        #: Loop time of the last tick: what connections take as "now", so that a read costs no clock and no new float.
        self.now = loop.time()
        #: Unix time of the last tick, in seconds.
        self.unix_time = time.time()
        self.connections: Final[dict[Connection, None]] = {}

    async def run(self, also: Callable[[], Awaitable[None]] | None = None) -> None:
        """Sweep until cancelled, and call ``also`` after each round: one a second, or four in a short interval."""
        period = min(1.0, self.interval / 4)
        while True:
            begun = self._loop.time()
            await asyncio.sleep(period)
            self.now = self._loop.time()
            self.unix_time = time.time()
            stall = self.now - begun - period
            if stall > period:
                self._forgive(stall)
                await asyncio.sleep(0)
            everyone = list(self.connections)
            for start in range(0, len(everyone), self.CHUNK):
                for connection in everyone[start : start + self.CHUNK]:
                    connection.check(self.now)
                await asyncio.sleep(0)
            if also is not None:
                await also()

    def _forgive(self, stall: float) -> None:
        """Count no time in which the loop or the machine stood still as anybody's silence: nobody could be heard."""
        for connection in self.connections:
            connection.seen += stall


class _Held:
    """What waits for a client that is too slow for the kernel: the frames, and how many ``bytes`` they are.

    The transport would spend 600 bytes more on each of them.
    """

    __slots__ = ("bytes", "frames")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.bytes = 0


class Connection(hot.Outlet, asyncio.Protocol):
    """A WebSocket after its handshake. Give it to a transport with ``take_over``."""

    __slots__ = ("_deaf", "_held", "_pinged", "_reader", "_source", "_transport", "end", "hub", "seen", "sweep")

    def __init__(self, hub: Hub, sweep: Sweep) -> None:
        super().__init__()
        self.hub = hub
        self.sweep = sweep
        #: How the connection ends, from the moment that is decided.
        self.end: Close | None = None
        #: Loop time of the last read, as the sweep tells it; from ``end`` on, when the closing began.
        self.seen = sweep.now
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._source = -1  # the socket, while the intake reads it
        self._held: _Held | None = None
        self._deaf = False
        self._pinged = False

    # What a subclass says.

    def on_open(self) -> None:
        """The transport is taken over, and nothing was read from it yet."""

    def on_text(self, payload: bytearray) -> None:
        """Take a text message."""
        raise NotImplementedError

    def on_binary(self, payload: bytearray) -> None:
        """Take a binary message; roomcast speaks only text (1003)."""
        raise frames.refuse_binary()

    def on_ping(self, payload: bytes) -> None:
        """Answer a ping (section 5.5.2)."""
        self.hub.send(self, frames.pong(payload))

    def on_closing(self) -> None:
        """The ``end`` is decided and the close frame written; the connection is not over yet."""

    def on_end(self) -> None:
        """The connection is over: ``end`` says why. Called once."""

    # What the transport says.

    def take_over(self, transport: asyncio.Transport, answer: bytes, early: bytes = b"") -> None:
        """Become the protocol of ``transport``, whose peer is sent ``answer`` first, the 101 with its headers.

        ``early`` is what the peer has sent already. The answer leaves together with the greeting, in one write.
        The write limit of 0 has two effects that are counted on: a write is tried at once, and ``pause_writing`` comes
        as soon as the kernel takes no more. TLS would pause for good at 0, which an empty buffer reaches.
        """
        is_encrypted = transport.get_extra_info("sslcontext") is not None
        transport.set_protocol(self)
        transport.set_write_buffer_limits(1 if is_encrypted else 0)
        # An HTTP answer before the handshake may be unsent yet. If it was enough to pause, aiohttp was told, not we.
        self.paused = transport.get_write_buffer_size() > 0
        self.sweep.connections[self] = None
        self._transport = self.outlet = transport
        self.fd = -1 if is_encrypted else hot.socket_of(transport)
        if self.fd >= 0 and transport.is_reading() and self._draw():
            try:
                transport.pause_reading()
            except RuntimeError:  # the peer is gone already
                self._release()
        self.hub.send(self, answer)
        self.on_open()
        if early:
            self.data_received(early)
            if self._reader is not None and self._source >= 0:
                self._release()  # and draw anew, within a message
                self._draw()

    def data_received(self, data: bytes) -> None:
        """Read what the transport has read."""
        payloads = hot.texts(data, self.sweep.max_message) if self._reader is None else None
        if payloads is None:
            self.read(data)
        else:
            self.take(payloads)

    def take(self, payloads: list[bytearray]) -> None:
        """Take whole text messages; a fault of the peer closes the connection with its code."""
        if self.end is None:
            self.seen = self.sweep.now
            try:
                for payload in payloads:
                    self.on_text(payload)
                    if self.end is not None:
                        break
            except ProtocolViolation as violation:
                self._fail(violation.close)

    def read(self, data: bytes) -> bool:
        """Read whatever frames and parts of frames there are; return whether the last is not whole yet."""
        if self.end is None:
            self.seen = self.sweep.now
        try:
            self._read(data)
        except ProtocolViolation as violation:
            self._fail(violation.close)
        return self._reader is not None

    def hang_up(self) -> None:
        """Let the transport read the end, or the error, that the socket has."""
        self._release()
        self._resume_transport()

    def failed(self, error: BaseException) -> None:
        """Drop a connection whose message met a fault of ours, as a loop does where ``data_received`` raises."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": "Reading what a client sent failed.", "exception": error, "protocol": self}
        )
        self.abort(LOST)

    def _draw(self) -> bool:
        """Have the intake read the socket, if it can."""
        if self._source < 0 and self.sweep.intake.add(self.fd, self, is_within=self._reader is not None):
            self._source = self.fd
        return self._source >= 0

    def _release(self) -> None:
        """Have the intake read the socket no more."""
        if self._source >= 0:
            self.sweep.intake.remove(self._source)
            self._source = -1

    def _read(self, data: bytes) -> None:
        if self._deaf:
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = Reader(self.sweep.max_message)
        for opcode, payload in reader.feed(data):
            if opcode == frames.CLOSE:
                self._on_close(payload)
                return
            if self.end is not None:
                continue
            if opcode == frames.TEXT:
                self.on_text(payload)
            elif opcode == frames.PING:
                self.on_ping(bytes(payload))
            elif opcode == frames.BINARY:
                self.on_binary(payload)
        if reader.idle:
            self._reader = None

    def _on_close(self, payload: bytearray) -> None:
        """The peer closes: answer with its code, unless this is its answer, and hang up (section 5.5.1)."""
        code = frames.close_code(payload)
        if self.end is None:
            self._end(
                Close(code, bytes(payload[2:]).decode(), reconnect=False),
                frames.close(NORMAL.code if code == 1005 else code),
            )
        if self._transport is not None:
            self._transport.close()

    def _fail(self, close: Close) -> None:
        """Close on a peer that broke the protocol, and listen to it no more.

        What it still sends is read and thrown away until it hangs up too: closing a socket with unread bytes sends a
        reset, which can take the close frame from the peer before it was read.
        """
        self._deaf = True
        self._reader = None
        self.close(close)
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport, and tell the subclass once."""
        self._release()
        self._transport = self._reader = self._held = None
        self._shut()
        self.pending = None
        self.sweep.connections.pop(self, None)
        if self.end is None:
            self.end = LOST
        self.on_end()

    def pause_writing(self) -> None:
        """The kernel takes no more: from now on frames are held, and against the limit."""
        self.paused = True
        self._check_backlog()

    def hold(self, data: bytes) -> None:
        """Keep ``data`` until the kernel takes more; close the peer if that is more than may wait."""
        held = self._held
        if held is None:
            held = self._held = _Held()
        held.frames.append(data)
        held.bytes += len(data)
        self._check_backlog()

    def _check_backlog(self) -> None:
        """Close a peer for which more waits than may."""
        if self.outlet is not None and self.backlog > self.sweep.max_buffer:
            self.close(TOO_SLOW)

    def resume_writing(self) -> None:
        """What the transport had is written; it gets what was held."""
        self.paused = False
        held, self._held = self._held, None
        if held is not None and self._transport is not None:
            # Not with writelines: asyncio's pauses nobody in Python 3.12.0 to 3.12.8, 3.13.0 and 3.13.1
            # (CVE-2024-12254), and what is sent past the transport would overtake what it has left.
            self._transport.write(b"".join(held.frames))

    # What the server does.

    def close(self, close: Close) -> None:
        """Say everything that waits, then ``close``; the peer gets ``CLOSE_TIMEOUT`` to answer."""
        if self.end is None:
            self._end(close, frames.encode_close(close))

    def _end(self, end: Close, frame: bytes) -> None:
        """Decide the ``end``; write what waits and then the close ``frame``, after which nothing may follow."""
        self.end = end
        self._shut()
        self.seen = self.sweep.now
        pending, self.pending = self.pending, None
        if self._transport is None:
            return
        self.resume_reading()  # or the peer's answer would not be heard
        held, self._held = self._held, None
        unsent = [] if held is None else held.frames
        if pending is not None:
            unsent += [pending] if isinstance(pending, bytes) else pending
        self._transport.writelines([*unsent, frame])  # all of it, for the transport may be told to close now
        self.on_closing()

    def _shut(self) -> None:
        """Nobody may write any more."""
        self.outlet = None
        self.fd = -1

    def abort(self, end: Close) -> None:
        """Drop the connection without a word."""
        if self.end is None:
            self.end = end
        self._shut()
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Look after the connection; the sweep calls this every second or oftener."""
        silence = now - self.seen
        if self.end is not None:
            if silence > CLOSE_TIMEOUT:
                self.abort(self.end)
        elif silence >= self.sweep.interval:
            if not self._pinged:
                self._pinged = True
                self.hub.send(self, frames.ping())
            elif silence >= 2 * self.sweep.interval and self._is_heard():
                self.abort(SILENT)
        else:
            self._pinged = False

    def _is_heard(self) -> bool:
        """Whether the peer's silence is its own, and not ours who do not read what it says.

        One that has hung up and does not read, so that the transport waits for it, is silent, too.
        """
        transport = self._transport
        return self._source >= 0 or transport is None or transport.is_reading() or transport.is_closing()

    def pause_reading(self) -> None:
        """Read no more for now: the peer is ahead of what can be done for it."""
        if self._source >= 0:
            self._release()
        elif self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self._draw():
            self._resume_transport()

    def _resume_transport(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # it is closing already
                self._transport.resume_reading()

    @property
    def backlog(self) -> int:
        """Unsent bytes that wait for this client."""
        held = 0 if self._held is None else self._held.bytes
        return held if self._transport is None else held + self._transport.get_write_buffer_size()
