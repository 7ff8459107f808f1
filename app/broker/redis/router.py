"""Send commands and scripts to the server that stores their key, and follow changes of the topology.

While a server cannot be reached, a call fails at once, or, if its caller allows it to wait, is queued in order and with
a limit. If a connection breaks, the server may have executed the unanswered calls or not. Only calls that may wait are
sent again, so executing them twice must have no effect.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...backoff import Backoff, wait_at_most
from ...errors import BrokerUnavailable, Unavailable
from .connection import Part, RedisConnection
from .reconnect import OpenConnection
from .scripts import Script
from .server_queue import Call, ServerQueue
from .topology import ServerName, Topology

log = logging.getLogger("roomcast.redis")

#: For how long a call that may not wait is rerouted, in seconds.
_REROUTE_TIMEOUT: Final = 1.0
#: How often the topology is read while all servers can be reached, and otherwise, in seconds.
_REFRESH_INTERVAL: Final = 5.0
_FAST_REFRESH_INTERVAL: Final = 0.2
#: The first and the longest pause after a requested refresh, in seconds. A call that is refused again requests the next
#: one as soon as the server replies. Without pauses that were 25,000 commands per second.
_FIRST_REFRESH_PAUSE: Final = 0.05
_LONGEST_REFRESH_PAUSE: Final = 0.25

#: If the first connection to a server finds that it started at most this many seconds ago, it may have replaced a
#: server that other nodes used before.
RECENT_START: Final = 2


_NO_QUEUE: Final = "This node's broker is closed, or its servers are changing."
_NO_SERVER: Final = "No Redis server stores its key at the moment."


class Router:
    """Routes calls to one queue per server. Owns the queues, and reads the topology periodically.

    Calls that may wait share a buffer of ``buffer`` bytes. If a server could not be reached for ``expiry`` seconds,
    keys with a TTL may have expired meanwhile.

    ``on_server_return`` callbacks run whenever a server can be reached again, and for the first time; then
    ``on_new_generation`` callbacks, with its name and generation, if it may lack events that were acknowledged before.
    ``on_refresh`` callbacks run after the topology was read; ``on_refusal`` callbacks whenever a server has refused a
    command because of its state or the user's rights. ``refusals`` counts these commands.
    """

    def __init__(
        self, topology: Topology, open_connection: OpenConnection, buffer: int, expiry: float = math.inf
    ) -> None:
        self.topology: Final = topology
        self.on_server_return: Final[list[Callable[[], None]]] = []
        self.on_new_generation: Final[list[Callable[[ServerName, bytes], None]]] = []
        self.on_refresh: Final[list[Callable[[], None]]] = []
        self.on_refusal: Final[list[Callable[[], None]]] = []
        self.refusals = 0
        self._open_connection: Final = open_connection
        self._buffer: Final = buffer
        self._expiry: Final = expiry
        self._buffered = 0
        self._queues: Final[dict[ServerName, ServerQueue]] = {}
        #: Calls whose server is not known at the moment, each with the reason in a sentence.
        self._unrouted: list[tuple[Call, str]] = []
        self._refresh_requested: Final = asyncio.Event()
        self._loop: Final = asyncio.get_running_loop()
        self._refresher: asyncio.Task[None] | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None
        #: The loop time at which a server returned that may have lost data: another process, or after a long outage.
        self.data_lost_at = float("-inf")
        self._is_closed = False

    # Lifecycle.

    async def start(self, wait: float) -> None:
        """Connect; raise ``Unavailable`` if not all servers can be reached within ``wait`` seconds."""
        deadline = self._loop.time() + wait
        while True:
            try:
                await self.topology.refresh()
                break
            except Unavailable as error:
                if self._loop.time() > deadline:
                    raise BrokerUnavailable(f"Redis cannot be reached: {error.detail}.") from error
                await asyncio.sleep(_FAST_REFRESH_INTERVAL)
        self._update_queues()
        self._expire_calls()
        self._refresher = asyncio.create_task(self._refresh_periodically(), name="roomcast redis servers")
        while problems := self.problems():
            if self._loop.time() > deadline:
                raise BrokerUnavailable(problems[0])
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Close all connections. Pending calls fail, and so does every later one."""
        self._is_closed = True
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.wait([self._refresher])
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        queues = list(self._queues.values())
        self._queues.clear()
        for queue in queues:
            connection = queue.reconnecting.connection
            await queue.reconnecting.close()
            for call in [*(connection.unanswered if connection is not None else ()), *queue.pending]:
                if isinstance(call, Call):
                    call.fail("This node is closing its broker.")
        for call, _ in self._unrouted:
            call.fail("This node is closing its broker.")

    def problems(self) -> list[str]:
        """Return a sentence for each server that cannot be reached."""
        return [queue.problem() for queue in self._queues.values() if queue.reconnecting.connection is None]

    def connections(self) -> list[tuple[ServerName, RedisConnection]]:
        """Return the connection to each server that can be reached."""
        found = [(name, queue.reconnecting.connection) for name, queue in self._queues.items()]
        return [(name, connection) for name, connection in found if connection is not None]

    def connection(self, key: str) -> RedisConnection:
        """Return the connection to the server of ``key``. Raises ``Unavailable`` if there is none at the moment."""
        queue = self._queues.get(self.topology.name(key.encode()))
        if queue is None:
            raise BrokerUnavailable(_NO_QUEUE)
        if queue.reconnecting.connection is None:
            raise BrokerUnavailable(queue.problem())
        return queue.reconnecting.connection

    def report_refusal(self) -> None:
        """Count a command that a server has refused, and call ``on_refusal``."""
        self.refusals += 1
        for callback in self.on_refusal:
            callback()

    # Buffer.

    @property
    def buffered(self) -> int:
        """The number of bytes of calls that may wait, in flight or queued."""
        return self._buffered

    @property
    def pending(self) -> int:
        """The number of calls that wait for a server."""
        return len(self._unrouted) + sum(len(queue.pending) for queue in self._queues.values())

    def reserve(self, size: int) -> None:
        """Reserve ``size`` bytes of the buffer; raise ``Unavailable`` if it is full.

        A single call that is larger than the buffer is allowed if the buffer is empty.
        """
        if self._buffered + size > self._buffer and self._buffered:
            raise BrokerUnavailable("REDIS_BUFFER is full: too many events wait for Redis.")
        self._buffered += size

    def free(self, size: int) -> None:
        """Give ``size`` reserved bytes back."""
        self._buffered -= size

    # Calls.

    def run(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Part], *, wait: float = 0.0, size: int = 0
    ) -> asyncio.Future[Any]:
        """Run ``script`` on the server of ``keys[0]``; all keys must share a hash tag. The result is its reply.

        Raises ``Unavailable``, at once or from the future. If the server cannot be reached, the call waits up to
        ``wait`` seconds from the beginning of the outage. If the connection breaks before the reply, a call with
        ``wait`` is sent again. Until its reply it takes ``size`` bytes of the buffer.
        """
        return self._begin(Call(script, keys, args, self._loop.create_future()), wait, size)

    def call(self, key: str, *parts: Part, wait: float = 0.0) -> asyncio.Future[Any]:
        """Execute one command on the server of ``key``. For errors and ``wait`` see ``run``."""
        size = sum(len(part) for part in parts if isinstance(part, bytes | str)) if wait else 0
        return self._begin(Call(None, (key,), parts, self._loop.create_future()), wait, size)

    def _begin(self, call: Call, wait: float, size: int) -> asyncio.Future[Any]:
        if wait:
            self.reserve(size)
            call.size = size
            call.wait = wait
            call.deadline = self._loop.time() + wait
            call.future.add_done_callback(lambda _: self.free(size))
        try:
            self._route(call)
        except BaseException:  # includes calls that cannot be encoded: the callback frees the buffer
            call.future.cancel()
            raise
        return call.future

    def _route(self, call: Call) -> None:
        key = call.keys[0]
        try:
            queue = self._queues.get(self.topology.name(key.encode() if isinstance(key, str) else key))
            if queue is None:
                raise BrokerUnavailable(_NO_QUEUE)
        except Unavailable:
            if not call.deadline or self._is_closed:
                raise
            self._unrouted.append((call, _NO_SERVER))
            self.refresh_soon()
        else:
            queue.send(call)

    def reroute(self, call: Call, reason: str) -> None:
        """Send ``call``, which was not executed, to its server as soon as that is known."""
        now = self._loop.time()
        if not call.deadline:
            call.deadline = now + _REROUTE_TIMEOUT
        sentence = f"Redis refuses the command at the moment: {reason}."
        if call.deadline <= now:
            call.fail(sentence)
            return
        self._unrouted.append((call, sentence))
        self.refresh_soon()

    def _expire_calls(self) -> None:
        """Fail the calls whose deadline has passed. Independent of the refresh, which may take long."""
        now = self._loop.time()
        for queue in self._queues.values():
            queue.expire(now)
        for call, reason in self._unrouted:
            if call.deadline <= now:
                call.fail(reason)
        self._expiry_timer = self._loop.call_later(_FAST_REFRESH_INTERVAL, self._expire_calls)

    # Topology.

    def on_server_up(self, queue: ServerQueue) -> None:
        """Find out if the server may have lost data, and call ``on_server_return``."""
        connection = queue.reconnecting.connection
        is_new = connection is not None and queue.generation != connection.generation
        if connection is not None:
            now = self._loop.time()
            if queue.generation:
                may_lack_data = is_new or now - queue.down_since >= self._expiry
            else:
                may_lack_data = connection.uptime <= RECENT_START
            if may_lack_data:
                self.data_lost_at = now
            queue.generation = connection.generation
        for callback in self.on_server_return:
            callback()
        if is_new:
            for report in self.on_new_generation:
                report(queue.name, queue.generation)

    def refresh_soon(self) -> None:
        """Read the topology soon: it may have changed."""
        self._refresh_requested.set()

    async def _refresh_periodically(self) -> None:
        last_refresh = self._loop.time()
        backoff = Backoff(_FIRST_REFRESH_PAUSE, _LONGEST_REFRESH_PAUSE, jitter=0.5)
        while True:
            await wait_at_most(self._refresh_requested, _FAST_REFRESH_INTERVAL)
            now = self._loop.time()
            is_requested = self._refresh_requested.is_set()
            if is_requested or now - last_refresh > _REFRESH_INTERVAL or self._unrouted or self.problems():
                self._refresh_requested.clear()
                last_refresh = now
                await self._refresh()
            if is_requested:
                await asyncio.sleep(backoff.next_pause())
            else:
                backoff.reset()

    async def _refresh(self) -> None:
        """Read the topology, and route the calls that had no server."""
        for queue in self._queues.values():
            queue.check_generation()
        try:
            await self.topology.refresh()
        except Unavailable as error:
            log.debug("the topology of Redis cannot be read: %s", error.detail)
        except Exception:  # the refresh task must go on
            log.exception("The topology of Redis could not be understood")
        else:
            self._update_queues()
        unrouted, self._unrouted = self._unrouted, []
        for call, _ in unrouted:
            if call.future.done():
                continue
            try:
                self._route(call)
            except Unavailable as error:
                call.fail(error.detail)
            except Exception as error:  # the call cannot be encoded
                call.future.set_exception(error)

    def _update_queues(self) -> None:
        """Create a queue for each new server, and close those of servers that left."""
        names = self.topology.names()
        for name in names:
            if name not in self._queues:
                self._queues[name] = ServerQueue(name, self, self._open_connection)
            else:
                self._queues[name].reconnecting.update_address(self.topology.address(name))
        for name in [name for name in self._queues if name not in names]:
            queue = self._queues.pop(name)
            connection = queue.reconnecting.connection
            self._unrouted += [(call, _NO_SERVER) for call in queue.pending if not call.future.done()]
            for call in connection.unanswered if connection is not None else ():
                if isinstance(call, Call):
                    self.reroute(call, "its server left") if call.wait else call.fail("Its Redis server left.")
            asyncio.ensure_future(queue.reconnecting.close())  # noqa: RUF006  # nothing depends on it
        for callback in self.on_refresh:
            callback()
