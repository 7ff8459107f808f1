"""For tests of faults: a proxy between a client and a server that can be slow, stall, reset and refuse.

::

    async with Proxy("127.0.0.1", server.port) as proxy:
        ...                 # connect to 127.0.0.1:proxy.port
        proxy.stall()       # as if a cable was pulled: nothing arrives, nothing is closed
        proxy.flow()        # continue
        proxy.reset()       # end all connections with an RST; new ones are accepted
        await proxy.refuse()  # accept no new connections
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from typing import Any, Self

_CHUNK = 65536
_LINGER_0 = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards ``port`` of 127.0.0.1 to port ``target`` of ``host``, in the event loop of the test.

    ``latency`` (in seconds, may be set at any time) is added in each direction. ``connections`` is the number of
    connections accepted so far, ``open`` that of open ones. ``sent`` and ``received`` are the numbers of bytes that
    were forwarded to the server and to clients. With ``tls`` the clients use TLS, but the server does not. With a small
    ``receive_buffer`` (in bytes) a stall soon causes back-pressure at the server.
    """

    def __init__(
        self, host: str, target: int, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> None:
        self.host = host
        self.target = target
        self.port = 0
        self.latency = 0.0
        self.connections = 0
        self.sent = 0
        self.received = 0
        self._tls = tls
        self._receive_buffer = receive_buffer
        self._listener: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[Any], tuple[asyncio.StreamWriter, ...]] = {}
        self._to_server = asyncio.Event()
        self._to_client = asyncio.Event()
        self.flow()

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._pairs)

    async def start(self) -> None:
        """Listen; after ``refuse`` on the same port as before."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections until ``start``. Open connections stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def stop(self) -> None:
        """Refuse new connections and reset the open ones."""
        await self.refuse()
        self.reset()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Forward nothing, to one side or to both, until ``flow``. Close nothing."""
        if to_server:
            self._to_server.clear()
        if to_client:
            self._to_client.clear()

    def flow(self) -> None:
        """Forward again, beginning with the bytes that arrived during the stall."""
        self._to_server.set()
        self._to_client.set()

    def reset(self) -> None:
        """End every connection with an RST to both sides. Bytes that were not forwarded are lost."""
        for task, writers in self._pairs.items():
            for writer in writers:
                sock = writer.get_extra_info("socket")
                if sock is None:  # TLS has failed on it
                    continue
                with suppress(OSError, ValueError):  # it may be closed already
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                writer.transport.abort()
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._pairs[task] = (writer,)
        with suppress(OSError, asyncio.CancelledError):
            try:
                server_reader, server_writer = await self._connect()
                self._pairs[task] = (writer, server_writer)
                await self._forward(reader, writer, server_reader, server_writer)
            finally:
                for one in self._pairs.pop(task):
                    one.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (self.host, self.target))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        """Forward in both directions until either side ends."""
        upstream: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(16)
        downstream: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(16)
        tasks = {
            asyncio.ensure_future(self._read(reader, self._to_server, upstream)),
            asyncio.ensure_future(self._read(server_reader, self._to_client, downstream)),
            asyncio.ensure_future(self._write(server_writer, self._to_server, upstream)),
            asyncio.ensure_future(self._write(writer, self._to_client, downstream)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self, reader: asyncio.StreamReader, gate: asyncio.Event, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        clock = asyncio.get_running_loop().time
        while await gate.wait() and (data := await reader.read(_CHUNK)):
            await queue.put((clock() + self.latency, data))
        await queue.put((clock() + self.latency, b""))
        await asyncio.Future()  # _write ends both directions when everything is forwarded

    async def _write(
        self, writer: asyncio.StreamWriter, gate: asyncio.Event, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            deadline, data = await queue.get()
            if (pause := deadline - clock()) > 0:
                await asyncio.sleep(pause)
            await gate.wait()
            if not data:
                return
            writer.write(data)
            if gate is self._to_server:
                self.sent += len(data)
            else:
                self.received += len(data)
            await writer.drain()
