"""How a worker and its parent speak: over a pair of Unix sockets that nobody else has, so that no other user gets in.

A message is a line, ``word length``, and so many bytes. The end of the channel is a message, too: to a worker, that its
parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

# What a worker says.

#: It serves.
READY: Final = "ready"
#: It serves no longer, and drains.
STOPPING: Final = "stopping"
#: It cannot serve: a sentence that says why.
FAILED: Final = "failed"
#: It wants the metrics of all others.
GATHER: Final = "gather"
#: Its event loop turns.
PONG: Final = "pong"

# What the parent says.

#: Drain, and end.
STOP: Final = "stop"
#: Does the event loop turn?
PING: Final = "ping"
#: What a worker asked for by ``GATHER``: an object in JSON, of the workers' numbers and their metrics.
GATHERED: Final = "gathered"

#: From the parent the question, from the worker the answer: its metrics in the format OpenMetrics.
METRICS: Final = "metrics"


def pack(word: str, body: bytes = b"") -> bytes:
    """Return a message as it is sent."""
    return b"%s %d\n%s" % (word.encode(), len(body), body)


class Channel:
    """One end, for use in an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader: Final = reader
        self._writer: Final = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Return the channel over ``sock``, which is its own from now on."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    @property
    def closed(self) -> bool:
        """Whether nobody hears what is said any more."""
        return self._writer.is_closing()

    def send(self, word: str, body: bytes = b"") -> None:
        """Say something; without effect if nobody is there."""
        if not self.closed:
            self._writer.write(pack(word, body))

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield each message, its word and its bytes, until the other end is closed."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                word, length = (await self._reader.readuntil(b"\n")).split()
                yield word.decode(), await self._reader.readexactly(int(length))

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


class Question:
    """Something that is asked by ``word``, and answered within ``wait`` seconds or not at all.

    It is asked once for all who want to know it at the same time: so whoever scrapes as fast as they can makes no
    crowd of messages, nor do these heap up for a process that does not answer.
    """

    def __init__(self, channel: Channel, word: str, wait: float) -> None:
        self._channel: Final = channel
        self._word: Final = word
        self._wait: Final = wait
        self._answer: asyncio.Future[bytes] | None = None

    async def ask(self) -> bytes:
        """Return the answer; nothing if there is none in time."""
        if self._channel.closed:
            return b""
        if (answer := self._answer) is None:
            answer = self._answer = asyncio.get_running_loop().create_future()
            self._channel.send(self._word)
        await asyncio.wait([answer], timeout=self._wait)
        return answer.result() if answer.done() else b""

    def answered(self, body: bytes) -> None:
        """Give the answer, or nothing if there will be none, to all who wait for it."""
        if self._answer is not None:
            self._answer.set_result(body)
            self._answer = None
