"""One client on its transport: framing, heartbeat, back-pressure and the closing handshake.

A subclass decides what a text message means. There may be 10,000s of connections, so each has slots instead of a dict,
and no task, timer or queue of its own: ``Keepalive`` keeps the time for all, ``WriteScheduler`` writes for all.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from .. import fastpath
from ..errors import NORMAL, TOO_SLOW, Close, ProtocolViolation
from ..protocol import frames
from ..protocol.frames import FrameReader
from .keepalive import Keepalive
from .write_scheduler import WriteScheduler

#: How long a peer may take to answer a close frame, in seconds. After that the socket is closed without the answer.
CLOSE_TIMEOUT = 5.0
#: How many bytes are read after the end of a connection is decided, to find the peer's close frame. A peer that sends
#: more has to wait until the socket is closed. Otherwise refused clients could keep the event loop busy.
MAX_READ_AFTER_END: Final = 4096

#: The end of a connection that closed without a close frame (RFC 6455 section 7.1.5: 1006 is never sent).
LOST = Close(1006, "Connection Lost", reconnect=True)
SILENT = Close(1006, "No Heartbeat", reconnect=True)


class _Backlog:
    """Frames for a client that reads more slowly than the kernel's buffer allows, and their size.

    The transport would use 600 bytes more for each frame.
    """

    __slots__ = ("frames", "size")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.size = 0


class Connection(fastpath.WriteQueue, asyncio.Protocol):
    """A WebSocket after its handshake. Pass it to a transport with ``take_over``."""

    __slots__ = (
        *("_backlog", "_discards_input", "_is_pinged", "_polled_fd", "_reader", "_transport", "_unread_allowance"),
        *("end", "keepalive", "last_read", "scheduler"),
    )

    def __init__(self, scheduler: WriteScheduler, keepalive: Keepalive) -> None:
        super().__init__()
        self.scheduler: Final = scheduler
        self.keepalive: Final = keepalive
        #: How the connection ends; set as soon as that is decided.
        self.end: Close | None = None
        #: Loop time of the last read, by the clock of ``keepalive``. From ``end`` on: when the closing began.
        self.last_read = keepalive.now
        self._transport: asyncio.Transport | None = None
        #: Keeps an incomplete frame or message; None between messages.
        self._reader: FrameReader | None = None
        #: The socket while the poller reads it, otherwise -1.
        self._polled_fd = -1
        self._backlog: _Backlog | None = None
        self._discards_input = False
        #: How many bytes may still be read once ``end`` is set.
        self._unread_allowance = MAX_READ_AFTER_END
        self._is_pinged = False

    # For subclasses to implement.

    def on_open(self) -> None:
        """Handle that the connection is open. No message has been read yet."""

    def on_text(self, payload: bytearray) -> None:
        """Handle a text message."""
        raise NotImplementedError

    def on_binary(self, payload: bytearray) -> None:
        """Handle a binary message. By default the connection closes with 1003, because roomcast sends only text."""
        raise frames.refuse_binary()

    def on_ping(self, payload: bytes) -> None:
        """Answer a ping (section 5.5.2)."""
        self.scheduler.send(self, frames.pong(payload))

    def on_unanswered_frame(self, payload: bytearray) -> None:
        """Handle a frame that is not answered: a pong, or a fragment that does not complete its message (empty)."""

    def on_closing(self) -> None:
        """Handle that ``end`` is decided and the close frame written. The connection still exists."""

    def on_end(self) -> None:
        """Handle that the connection is over; ``end`` is the reason. Called once."""

    # Opening.

    def take_over(self, transport: asyncio.Transport, response: bytes, early: bytes = b"") -> None:
        """Become the protocol of ``transport``, and send ``response``, the 101 with its headers.

        ``early`` is data that the peer sent with its request. The response and the first frames leave in one write. The
        write limit of 0 has two effects that the code relies on: the transport tries to write at once, and it calls
        ``pause_writing`` as soon as the kernel accepts no more bytes. A TLS transport would pause permanently at 0,
        because an empty buffer reaches that limit.
        """
        is_encrypted = transport.get_extra_info("sslcontext") is not None
        transport.set_protocol(self)
        transport.set_write_buffer_limits(1 if is_encrypted else 0)
        # An HTTP response before the handshake may be unsent. If it paused the transport, aiohttp received that call.
        self.paused = transport.get_write_buffer_size() > 0
        self.keepalive.connections[self] = None
        self._transport = self.writer = transport
        self.fd = -1 if is_encrypted else fastpath.direct_fd(transport)
        if self.fd >= 0 and transport.is_reading() and self._start_polling():
            try:
                transport.pause_reading()
            except RuntimeError:  # the peer has closed already
                self._stop_polling()
        self.scheduler.send(self, response)
        self.on_open()
        if early:
            self.data_received(early)
            if self._reader is not None and self._polled_fd >= 0:
                self._stop_polling()  # and start again, this time within a message
                self._start_polling()

    # Reading: called by the transport.

    def data_received(self, data: bytes) -> None:
        """Handle bytes that the transport has read."""
        payloads = None
        if self._reader is None and self.end is None:
            payloads = fastpath.decode_text_frames(data, self.keepalive.max_message)
        if payloads is None:
            self.bytes_received(data)
        else:
            self.messages_received(payloads)

    # Reading: called by the socket poller (see ``SocketReader``).

    def messages_received(self, payloads: list[bytearray]) -> None:
        """Handle whole text messages. A protocol violation closes the connection with its code."""
        if self.end is None:
            self.last_read = self.keepalive.now
            try:
                for payload in payloads:
                    self.on_text(payload)
                    if self.end is not None:
                        break
            except ProtocolViolation as violation:
                self._close_on_violation(violation.close)
        else:  # none of them is the peer's close frame
            self._count_after_end(sum(map(len, payloads)) + frames.MIN_SIZE * len(payloads))

    def bytes_received(self, data: bytes) -> bool:
        """Handle any bytes; return True if they end within a frame or message."""
        if self.end is None:
            self.last_read = self.keepalive.now
        else:
            data = data[: self._count_after_end(len(data))]
        try:
            self._read_frames(data)
        except ProtocolViolation as violation:
            self._close_on_violation(violation.close)
        return self._reader is not None

    def _count_after_end(self, size: int) -> int:
        """Return how many of ``size`` bytes may be read, since ``end`` is set. If that is not all, stop reading."""
        allowed = min(size, self._unread_allowance)
        self._unread_allowance -= allowed
        if allowed < size:
            self.pause_reading()  # until ``check`` aborts the connection
            if self._transport is not None and self._transport.can_write_eof():
                self._transport.write_eof()  # the peer sees the end of the connection although it is not answered
        return allowed

    def read_failed(self) -> None:
        """Let the transport read the end of file, or the error, of the socket."""
        self._stop_polling()
        self._resume_transport()

    def reader_raised(self, error: BaseException) -> None:
        """Drop the connection after an unexpected exception, as an event loop does for ``data_received``."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": "Reading from a client failed.", "exception": error, "protocol": self}
        )
        self.abort(LOST)

    def _start_polling(self) -> bool:
        """Let the poller read the socket; return True if it does."""
        if self._polled_fd < 0 and self.keepalive.poller.add(self.fd, self, is_within_message=self._reader is not None):
            self._polled_fd = self.fd
        return self._polled_fd >= 0

    def _stop_polling(self) -> None:
        if self._polled_fd >= 0:
            self.keepalive.poller.remove(self._polled_fd)
            self._polled_fd = -1

    def _read_frames(self, data: bytes) -> None:
        if self._discards_input:
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = FrameReader(self.keepalive.max_message)
        was_open = self.end is None
        for opcode, payload in reader.feed(data):
            if opcode == frames.CLOSE:
                self._close_received(payload)
                return
            if self.end is not None:
                continue
            if opcode == frames.TEXT:
                self.on_text(payload)
            elif opcode == frames.PING:
                self.on_ping(bytes(payload))
            elif opcode == frames.BINARY:
                self.on_binary(payload)
            else:
                self.on_unanswered_frame(payload)
            if self.end is not None:
                break
        if was_open and self.end is not None:
            rest = reader.take_rest()
            self._read_frames(rest[: self._count_after_end(len(rest))])
        elif reader.is_idle:
            self._reader = None

    def _close_received(self, payload: bytearray) -> None:
        """Answer the peer's close frame with its code, unless it is an answer itself, and hang up (section 5.5.1)."""
        code = frames.close_code(payload)
        if self.end is None:
            self._decide_end(
                Close(code, bytes(payload[2:]).decode(), reconnect=False),
                frames.close(NORMAL.code if code == frames.NO_CODE else code),
            )
        if self._transport is not None:
            self._transport.close()

    def _close_on_violation(self, close: Close) -> None:
        """Close a connection whose peer broke the protocol, and discard further input.

        Some of the input is still read, so that the peer can hang up. Closing a socket with unread bytes sends a reset,
        which can destroy the close frame before the peer has read it.
        """
        self._discards_input = True
        self._reader = None
        self.close(close)
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def pause_reading(self) -> None:
        """Stop reading: the peer sends faster than its messages can be handled."""
        if self._polled_fd >= 0:
            self._stop_polling()
        elif self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue reading after ``pause_reading``."""
        if not self._start_polling():
            self._resume_transport()

    def _resume_transport(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # it is closing already
                self._transport.resume_reading()

    # Writing.

    def pause_writing(self) -> None:
        """Keep frames from now on, up to the limit: the kernel accepts no more bytes."""
        self.paused = True
        self._check_backlog()

    def defer(self, data: bytes) -> None:
        """Keep ``data`` until the kernel accepts more; close the connection if the backlog exceeds its limit."""
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = _Backlog()
        backlog.frames.append(data)
        backlog.size += len(data)
        self._check_backlog()

    def _check_backlog(self) -> None:
        if self.writer is not None and self.backlog > self.keepalive.max_buffer:
            self.close(TOO_SLOW)

    def resume_writing(self) -> None:
        """Pass the backlog to the transport, whose own buffer is empty now."""
        self.paused = False
        backlog, self._backlog = self._backlog, None
        if backlog is not None and self._transport is not None:
            # Not writelines: in Python 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 it does not call pause_writing
            # (CVE-2024-12254), and a direct write to the socket would overtake the transport's buffer.
            self._transport.write(b"".join(backlog.frames))

    @property
    def backlog(self) -> int:
        """Bytes that were written for this client and that the kernel has not accepted."""
        size = 0 if self._backlog is None else self._backlog.size
        return size if self._transport is None else size + self._transport.get_write_buffer_size()

    # Ending.

    def close(self, close: Close) -> None:
        """Write all queued frames, then a close frame. The peer has ``CLOSE_TIMEOUT`` to answer it."""
        if self.end is None:
            self._decide_end(close, frames.encode_close(close))

    def _decide_end(self, end: Close, frame: bytes) -> None:
        """Set ``end``; write what is queued and then the close ``frame``. Nothing may be written after it."""
        self.end = end
        self._refuse_writes()
        self.last_read = self.keepalive.now
        queued = self.take()
        if self._transport is None:
            return
        self.keepalive.closing[self] = end
        self.resume_reading()  # to receive the peer's answer
        backlog, self._backlog = self._backlog, None
        unsent = [] if backlog is None else backlog.frames
        if queued is not None:
            unsent.append(queued)
        self._transport.writelines([*unsent, frame])  # everything, because the caller may close the transport next
        self.on_closing()

    def _refuse_writes(self) -> None:
        self.writer = None
        self.fd = -1

    def abort(self, end: Close) -> None:
        """Drop the connection without a close frame."""
        if self.end is None:
            self.end = end
        self._refuse_writes()
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the transport and call ``on_end`` once."""
        self._stop_polling()
        self._transport = self._reader = self._backlog = None
        self._refuse_writes()
        self.take()
        self.keepalive.connections.pop(self, None)
        self.keepalive.closing.pop(self, None)
        if self.end is None:
            self.end = LOST
        self.on_end()

    # Heartbeat.

    def check(self, now: float) -> bool:
        """Ping or drop a silent peer, and drop one that does not answer a close frame. Called about every second.

        Return True if it is dropped.
        """
        silence = now - self.last_read
        if self.end is not None:
            if silence > CLOSE_TIMEOUT:
                self.abort(self.end)
                return True
        elif silence >= self.keepalive.interval:
            if not self._is_pinged:
                self._is_pinged = True
                self.scheduler.send(self, frames.ping())
            elif silence >= 2 * self.keepalive.interval and self._is_reading():
                self.abort(SILENT)
                return True
        else:
            self._is_pinged = False
        return False

    def probe(self) -> None:
        """Ping the peer now. Follow with ``drop_if_silent_since``."""
        if self.end is None:
            self.scheduler.send(self, frames.ping())

    def drop_if_silent_since(self, moment: float) -> None:
        """Drop the peer if nothing was read from it since ``moment``, a time that ``Keepalive.refresh`` returned."""
        if self.end is None and self.last_read < moment and self._is_reading():
            self.abort(SILENT)

    def _is_reading(self) -> bool:
        """True if we are reading, so that silence means the peer is idle.

        Also True if the transport is closing and waits until the peer reads the rest or hangs up.
        """
        transport = self._transport
        return self._polled_fd >= 0 or transport is None or transport.is_reading() or transport.is_closing()
