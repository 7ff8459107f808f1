"""Messages between the supervisor and a worker, over a pair of Unix sockets that no other process has.

A message is a line with its kind and the length of its body, followed by the body: ``metrics 5\\nhello``. The end of
one process closes the channel of the other. A worker detects by this that its supervisor has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

# From a worker to the supervisor.

#: The worker accepts connections.
READY: Final = "ready"
#: The worker drains and accepts no more connections.
STOPPING: Final = "stopping"
#: The worker cannot start. The body is a sentence with the reason.
FAILED: Final = "failed"
#: Asks for the metrics of all other workers.
GATHER: Final = "gather"
#: The answer to ``PING``: the worker's event loop runs.
PONG: Final = "pong"

# From the supervisor to a worker.

#: Drain, then end.
STOP: Final = "stop"
#: Read certificates and keys again.
RELOAD: Final = "reload"
#: Asks whether the worker's event loop runs.
PING: Final = "ping"
#: The answer to ``GATHER``: a JSON object that maps the workers' numbers to their metrics.
GATHERED: Final = "gathered"

# In both directions.

#: The supervisor asks for a worker's metrics. The worker answers with them, in the OpenMetrics format.
METRICS: Final = "metrics"


def encode(kind: str, body: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    return b"%s %d\n%s" % (kind.encode(), len(body), body)


class Channel:
    """One end of the connection between the supervisor and a worker, for use in an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader: Final = reader
        self._writer: Final = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Return a channel over ``sock``, which it owns from now on."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    @property
    def is_closed(self) -> bool:
        """True if messages can no longer be sent."""
        return self._writer.is_closing()

    def send(self, kind: str, body: bytes = b"") -> None:
        """Send a message. Do nothing if the channel is closed."""
        if not self.is_closed:
            self._writer.write(encode(kind, body))

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield the kind and the body of each message until the other end is closed. Drop an incomplete message."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = (await self._reader.readuntil(b"\n")).split()
                yield kind.decode(), await self._reader.readexactly(int(length))

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


class Question:
    """A message of ``kind`` that asks the other process, and waits up to ``timeout`` seconds for the answer.

    At most one message is in flight. Callers that ask in the meantime share its answer. So frequent scrapes do not
    multiply the messages, and no messages queue up for a process that does not answer.
    """

    def __init__(self, channel: Channel, kind: str, timeout: float) -> None:
        self._channel: Final = channel
        self._kind: Final = kind
        self._timeout: Final = timeout
        self._answer: asyncio.Future[bytes] | None = None

    async def ask(self) -> bytes:
        """Return the answer, or an empty body if there is none in time."""
        if self._channel.is_closed:
            return b""
        if (answer := self._answer) is None:
            answer = self._answer = asyncio.get_running_loop().create_future()
            self._channel.send(self._kind)
        await asyncio.wait([answer], timeout=self._timeout)
        return answer.result() if answer.done() else b""

    def resolve(self, body: bytes) -> None:
        """Return ``body`` to all callers that wait. An empty body means that there will be no answer."""
        if self._answer is not None:
            self._answer.set_result(body)
            self._answer = None
