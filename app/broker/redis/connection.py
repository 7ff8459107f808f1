"""One connection to a Redis server: hiredis under a plain ``asyncio.Protocol``, RESP3, everything pipelined.

redis-py's own reading of pub/sub costs 22 us a message and its pipeline 30 us a command; this, 4 us either way. What is
asked during one turn of the event loop goes out in one write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis

from ...errors import Unavailable
from .scripts import Script

log = logging.getLogger("roomcast.redis")

Part = str | bytes | int | float

#: A server that has nothing to do is asked this often whether it is still there, in seconds.
PING_EVERY: Final = 1.0

_NOTHING: Final = object()

#: A command as bytes to write. hiredis' own type says that it has one part.
pack: Final[Callable[[tuple[Part, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]

_PING: Final = pack(("PING",))
#: The end of a conversation in which nothing is said that could be mistaken for it.
_END: Final = b"end"


def _ignore(reply: Any) -> None:
    """Nobody waits for it."""


class ReplyError(Exception):
    """What the server answers to a command that it does not carry out; the first word is its code."""

    @property
    def code(self) -> str:
        """The first word: ``MOVED``, ``NOSCRIPT``, ``OOM``, ..."""
        return str(self).partition(" ")[0]


class Waiting:
    """Somebody who waits for a reply: one, or with ``end`` all up to that one."""

    __slots__ = ("done", "end", "replies", "since")

    def __init__(self, since: float, done: Callable[[Any], None] | None, end: bytes | None = None) -> None:
        self.since = since
        self.done = done
        self.end = end
        self.replies: list[Any] | None = [] if end is not None else None


class _Answer:
    """Somebody who awaits the reply to one command."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future: Final = future

    def __call__(self, reply: Any) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, why: str) -> None:
        if not self.future.done():
            self.future.set_exception(Unavailable(why))


class RedisConnection(asyncio.Protocol):
    """A connection. ``on_push`` gets what the server sends unasked, ``on_lost`` once the sentence of what ended it.

    What ``on_push`` and those who asked raise goes to the log; ``on_lost`` may not raise. A server that has been silent
    for ``timeout`` seconds while somebody waits is given up: a stopped process (SIGSTOP) or a vanished machine shows in
    no other way.
    """

    def __init__(
        self, on_push: Callable[[list[Any]], None], on_lost: Callable[[RedisConnection, str], None], timeout: float
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._on_push: Final = on_push
        self._on_lost: Final = on_lost
        self._timeout: Final = timeout
        self._reader: Final = hiredis.Reader(
            replyError=ReplyError, protocolError=ConnectionError, notEnoughData=_NOTHING
        )
        self._waiting: Final[deque[Waiting]] = deque()
        self._out: list[bytes] = []
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._why = ""
        #: Of the server's process; another one may have lost what was acknowledged.
        self.run_id = b""
        #: How many seconds that process had run when this link was made, up to one too many.
        self.uptime = 0

    # Asking.

    def ask(self, packed: bytes, done: Callable[[Any], None] | None) -> None:
        """Send a packed command at the end of this turn; ``done`` gets its reply, maybe a ``ReplyError``.

        If the connection is lost before, ``done`` is never called: ``abandoned`` tells who is still waiting.
        """
        self._send(packed, Waiting(self._loop.time(), done))

    def converse(self, packed: bytes, end: bytes, done: Callable[[Any], None]) -> None:
        """Send packed commands and then a PING of ``end``; ``done`` gets the list of all replies before its echo.

        For subscriptions, which are confirmed by pushes and refused by replies.
        """
        self._send(packed + pack(("PING", end)), Waiting(self._loop.time(), done, end))

    def tell(self, packed: bytes) -> None:
        """Send packed commands that are answered by pushes, or refused by replies, which nobody waits for."""
        self.converse(packed, _END, _ignore)

    async def get(self, *parts: Part) -> Any:
        """Carry out one command and return its reply; raise ``ReplyError``, or ``Unavailable`` if it is lost."""
        answer = _Answer(self._loop.create_future())
        self.ask(pack(parts), answer)
        try:
            async with asyncio.timeout(self._timeout):
                reply = await answer.future
        except TimeoutError:
            raise Unavailable(f"it has not answered for {self._timeout:g} s") from None
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def _send(self, packed: bytes, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        self._write(packed)

    def _write(self, packed: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(packed)

    def flush(self) -> None:
        """Write what was asked so far."""
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out = []

    @property
    def abandoned(self) -> list[Callable[[Any], None]]:
        """Of a lost connection: the ``done`` of those who got no reply, in the order they asked."""
        return [waiting.done for waiting in self._waiting if waiting.done is not None]

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._transport is not None and not self._why

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no asyncio.Transport
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._pause(), self._watch)
        if self._out:
            self.flush()

    def data_received(self, data: bytes) -> None:
        """Parse replies and pushes, in the order the server sent them."""
        self._heard = self._loop.time()
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                try:
                    if reply.__class__ is hiredis.PushNotification:
                        self._on_push(reply)
                    else:
                        self._reply(reply)
                except Exception:  # of who was told; the rest is for others, and asyncio would end the connection
                    log.exception("Something that Redis sent could not be taken")
        except ConnectionError as error:
            self.abort(f"it does not speak RESP3: {error}")

    def _reply(self, reply: Any) -> None:
        if not self._waiting:  # a farewell of the server
            return
        waiting = self._waiting[0]
        replies = waiting.replies
        if replies is not None:
            if reply != waiting.end:
                replies.append(reply)
                return
            reply = replies
        self._waiting.popleft()
        if waiting.done is not None:
            waiting.done(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        if self._timer is not None:
            self._timer.cancel()
        self._why = self._why or (f"the connection broke: {exc}" if exc else "it closed the connection")
        self._transport = None
        for done in self.abandoned:
            if isinstance(done, _Answer):
                done.fail(self._why)
        self._on_lost(self, self._why)

    def _pause(self) -> float:
        return min(PING_EVERY, self._timeout) / 4

    def _watch(self) -> None:
        """Give up a server that keeps somebody waiting; see to it that somebody always waits."""
        now = self._loop.time()
        if self._waiting:
            since = max(self._waiting[0].since, self._heard)
            if now - since > self._timeout:
                self.abort(f"it has not answered for {self._timeout:g} s")
                return
        elif now - self._heard > min(PING_EVERY, self._timeout) / 2:
            self.ask(_PING, None)
        self._timer = self._loop.call_later(self._pause(), self._watch)

    def abort(self, why: str) -> None:
        """Drop the connection at once; ``why`` completes "Redis at … cannot be reached: "."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()


async def open_connection(
    address: tuple[str, int] | str,
    credentials: tuple[str | None, str | None],
    db: int,
    tls: ssl.SSLContext | None,
    on_push: Callable[[list[Any]], None],
    on_lost: Callable[[RedisConnection, str], None],
    scripts: Sequence[Script],
    timeout: float,  # noqa: ASYNC109  # the link keeps it
) -> RedisConnection:
    """Connect to a host and port, or to a Unix socket, and get ready to work; raise ``Unavailable`` with the reason.

    ``credentials`` are user name and password. The server must be a primary. ``scripts`` are loaded, so that a call by
    their ``sha`` finds them.
    """
    loop = asyncio.get_running_loop()
    ready = False

    def lost(link: RedisConnection, why: str) -> None:
        if ready:
            on_lost(link, why)

    def make() -> RedisConnection:
        return RedisConnection(on_push, lost, timeout)

    link: RedisConnection | None = None
    try:
        async with asyncio.timeout(timeout):
            if isinstance(address, str):
                _, link = await loop.create_unix_connection(make, address)
            else:
                _, link = await loop.create_connection(
                    make, *address, ssl=tls, server_hostname=address[0] if tls else None
                )
            await _greet(link, credentials, db, scripts)
            ready = True
            if not link.is_open:
                raise Unavailable("the connection broke as it was made")
            return link
    except TimeoutError:
        raise Unavailable(f"it has not answered for {timeout:g} s") from None
    except ssl.SSLError as error:
        raise Unavailable(f"TLS failed: {getattr(error, 'verify_message', None) or error.reason or error}") from error
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise Unavailable(reason) from error
    finally:
        if not ready and link is not None:
            link.abort("it was given up as it was made")


async def _greet(
    link: RedisConnection, credentials: tuple[str | None, str | None], db: int, scripts: Sequence[Script]
) -> None:
    user, password = credentials
    hello: list[Part] = ["HELLO", 3]
    if password is not None:
        hello += ["AUTH", user or "default", password]
    try:
        hello += ["SETNAME", "roomcast"]
        greeting = await link.get(*hello)
        if greeting_value(greeting, b"role") not in (b"master", b"primary"):
            raise Unavailable("it is a replica now, not a primary")
        if db:
            await link.get("SELECT", db)
        info = await link.get("INFO", "server")
        link.run_id = _told(info, b"run_id")
        link.uptime = int(_told(info, b"uptime_in_seconds"))
        for script in scripts:
            link.ask(pack(("SCRIPT", "LOAD", script.text)), None)
    except ReplyError as error:
        raise Unavailable(_refused(error, password)) from None  # it may say the password


def greeting_value(greeting: Any, name: bytes) -> Any:
    """A value of HELLO's answer, a map, which hiredis gives as a dict or a flat list."""
    if isinstance(greeting, dict):
        return greeting.get(name)
    return dict(zip(greeting[::2], greeting[1::2], strict=False)).get(name)


def _told(info: bytes, name: bytes) -> bytes:
    for line in info.splitlines():
        if line.startswith(name + b":"):
            return line[len(name) + 1 :].strip()
    raise Unavailable(f"it does not tell its {name.decode()} (INFO server)")


def _refused(error: ReplyError, password: str | None) -> str:
    """What a server means that refuses the greeting; some repeat what they were sent, the password, too."""
    if str(error).startswith("ERR unknown command"):
        return "it does not know HELLO or INFO: it is too old (Redis 6.2 or later does), or they were taken from it"
    text = str(error).replace(password, "…") if password else str(error)
    return {
        "WRONGPASS": "it refused the user name or the password in REDIS_URL",
        "NOAUTH": "it wants a password; give it in REDIS_URL",
        "NOPROTO": "it is too old: it does not speak RESP3 (Redis 6.2 or later does)",
        "LOADING": "it is still loading its data",
    }.get(error.code, f"it refused the greeting: {text}")
