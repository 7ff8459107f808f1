"""The commands for one server: sent in order, or queued while the server cannot be reached."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Protocol

from ...errors import BrokerUnavailable
from .connection import Part, RedisConnection, ReplyError, pack
from .handshake import generation
from .reconnect import OnLost, OpenConnection, ReconnectingConnection, format_name
from .scripts import Script
from .topology import Address, ServerName, Topology

log = logging.getLogger("roomcast.redis")

#: Error codes of commands that were not executed because of the server's role or state. The topology may have changed.
TOPOLOGY_ERRORS: Final = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"})
#: Those of commands for another server.
_MOVED: Final = frozenset({"MOVED", "ASK", "TRYAGAIN"})
#: Error codes of commands that were not executed, and whose cause is the server's state or the user's rights.
REFUSALS: Final = TOPOLOGY_ERRORS | {"BUSY", "MISCONF", "NOAUTH", "NOPERM", "NOREPLICAS", "OOM"}
#: The reason for which a connection is dropped after such an error. The next one waits for a primary that is ready.
_NOT_A_PRIMARY: Final = {
    "LOADING": "it is loading its data",
    "MASTERDOWN": "it is a replica now",
    "READONLY": "it is a replica now",
}
#: Asks for a push when all keys are replaced. No key is tracked, so there are no other pushes.
_TRACK_REPLACEMENT: Final = pack(("CLIENT", "TRACKING", "ON", "OPTIN"))
_REPLICATION: Final = pack(("INFO", "replication"))
#: A refused command is logged at most this often for each server, in seconds.
_LOG_INTERVAL: Final = 1.0


class Call:
    """A command or script in flight. It is also the callback for its reply.

    ``wait`` is how long it may wait for an unreachable server, in seconds, and ``deadline`` the loop time at which that
    ends; both are 0 if it may not. ``size`` is the number of bytes it has reserved in the buffer, ``times_sent`` how
    often it was sent. ``is_script_loaded`` is True if the script was loaded for this call.
    """

    __slots__ = (
        "args",
        "deadline",
        "future",
        "is_script_loaded",
        "keys",
        "queue",
        "script",
        "size",
        "times_sent",
        "wait",
    )

    def __init__(
        self, script: Script | None, keys: Sequence[str | bytes], args: Sequence[Part], future: asyncio.Future[Any]
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.future = future
        self.queue: ServerQueue | None = None
        self.deadline = 0.0
        self.wait = 0.0
        self.times_sent = 0
        self.size = 0
        self.is_script_loaded = False

    def pack(self, connection: RedisConnection) -> bytes:
        """Return the bytes to send on ``connection``."""
        script = self.script
        if script is None:
            return pack(tuple(self.args))
        stamp = (connection.generation, self.times_sent) if script.stamped else ()
        return pack(("EVALSHA", script.sha, len(self.keys), *self.keys, *stamp, *self.args))

    def __call__(self, reply: Any) -> None:
        """Receive the reply."""
        if self.future.done():
            return
        if reply.__class__ is ReplyError:
            assert self.queue is not None
            self.queue.on_error(self, reply)
        else:
            self.future.set_result(reply)

    def fail(self, reason: str) -> None:
        """End the call with ``Unavailable``."""
        if not self.future.done():
            self.future.set_exception(BrokerUnavailable(reason))


class QueueOwner(Protocol):
    """The owner of a queue. ``Router`` implements it."""

    @property
    def topology(self) -> Topology:
        """The servers and their addresses."""

    def on_server_up(self, queue: ServerQueue) -> None:
        """The server can be reached again, or for the first time."""

    def reroute(self, call: Call, reason: str) -> None:
        """Send ``call``, which was not executed, to its server as soon as that is known."""

    def refresh_soon(self) -> None:
        """Read the topology soon: it may have changed."""

    def report_refusal(self) -> None:
        """A server has refused a command because of its state or the user's rights."""


class ServerQueue:
    """The commands for one server, in order. Owns the connection to it."""

    def __init__(self, name: ServerName, owner: QueueOwner, open_connection: OpenConnection) -> None:
        self.name: Final = name
        self.pending: Final[deque[Call]] = deque()
        #: The loop time since which the server cannot be reached. The time that calls may wait is counted from here and
        #: not for each call: a client's commands run one after the other, so a hundred of them would wait a hundred
        #: times as long.
        self.down_since = asyncio.get_running_loop().time()
        self._log_after = 0.0
        #: The generation of the last connection.
        self.generation = b""
        self._owner: Final = owner

        async def connect(address: Address | None, on_lost: OnLost) -> RedisConnection:
            return await open_connection(address, self._on_push, on_lost)

        self.reconnecting: Final = ReconnectingConnection(
            name, "commands", owner.topology.address, connect, self._on_up, self._on_down
        )

    def send(self, call: Call) -> None:
        """Send ``call`` now, or queue it if it may wait; otherwise raise ``Unavailable``."""
        connection = self.reconnecting.connection
        call.queue = self
        if connection is not None:
            connection.send(call.pack(connection), call)
            call.times_sent += 1
        elif call.deadline and self.down_since + call.wait > asyncio.get_running_loop().time():
            call.deadline = min(call.deadline, self.down_since + call.wait)
            self.pending.append(call)
        else:
            raise BrokerUnavailable(self.problem())

    def problem(self) -> str:
        """Return a sentence with the reason for which the server cannot be reached."""
        return f"Redis at {format_name(self.name)} cannot be reached: {self.reconnecting.reason}."

    def _on_up(self, connection: RedisConnection) -> None:
        # The server then sends a push when it replaces all its data by those of a primary.
        connection.send(_TRACK_REPLACEMENT, None)
        calls = list(self.pending)
        self.pending.clear()
        for call in calls:
            if not call.future.done():
                try:
                    self.send(call)
                except Exception as error:  # the call cannot be encoded; send the others
                    call.future.set_exception(error)
        self._owner.on_server_up(self)

    def _on_down(self, connection: RedisConnection, reason: str) -> None:
        """Queue the unanswered calls that may wait, before all others and in order; fail the rest."""
        self.down_since = asyncio.get_running_loop().time()
        unanswered = [call for call in connection.unanswered if isinstance(call, Call)]
        # Check ``wait``, not ``deadline``: a rerouted call that may not wait has a deadline as well.
        self.pending.extendleft(call for call in reversed(unanswered) if call.wait)
        for call in unanswered:
            if not call.wait:
                call.fail(f"The connection to Redis at {format_name(self.name)} broke before it answered: {reason}.")
        self._owner.refresh_soon()

    def on_error(self, call: Call, error: ReplyError) -> None:
        """The server did not execute ``call``: load the script, send the call to another server, or fail it."""
        connection, code = self.reconnecting.connection, error.code
        if code in REFUSALS and code not in _MOVED:
            self._owner.report_refusal()
        if code == "NOSCRIPT" and call.script is not None and connection is not None and not call.is_script_loaded:
            call.is_script_loaded = True
            connection.send(pack(("SCRIPT", "LOAD", call.script.text)), partial(self._on_loaded, call))
            connection.send(call.pack(connection), call)
        elif code in TOPOLOGY_ERRORS or code == "NOSCRIPT":  # scripts that are flushed again and again are not a loop
            call.is_script_loaded = False
            if code in _NOT_A_PRIMARY and connection is not None:
                connection.abort(_NOT_A_PRIMARY[code])
            self._owner.reroute(call, str(error))
        else:
            # An "unknown command" error repeats the arguments, which may be confidential.
            reason = str(error).partition(", with args")[0].rstrip(".")
            now = asyncio.get_running_loop().time()
            if now >= self._log_after:  # a server without memory refuses thousands of commands a second
                self._log_after = now + _LOG_INTERVAL
                log.error("Redis at %s refused a command: %s", format_name(self.name), reason)
            call.fail(f"Redis at {format_name(self.name)} refused a command: {reason}.")

    def _on_loaded(self, call: Call, reply: Any) -> None:
        """Fail ``call`` if its script could not be loaded, because its next reply would be NOSCRIPT again."""
        if isinstance(reply, ReplyError) and reply.code not in TOPOLOGY_ERRORS:
            self.on_error(call, reply)

    def _on_push(self, push: list[Any]) -> None:
        if push[0] == b"invalidate":
            self.check_generation()

    def check_generation(self) -> None:
        """Drop the connection if it has survived that its server became a replica, or was promoted again.

        Otherwise the server could assign ids again that it had assigned before it was replaced.
        """
        connection = self.reconnecting.connection
        if connection is not None:
            connection.send(_REPLICATION, partial(_compare_generation, connection))

    def expire(self, now: float) -> None:
        """Fail the queued calls whose deadline has passed. ``now`` is a loop time."""
        pending = self.pending
        while pending and (pending[0].deadline <= now or pending[0].future.done()):
            pending.popleft().fail(self.problem())


def _compare_generation(connection: RedisConnection, replication: Any) -> None:
    if isinstance(replication, ReplyError):
        return
    if b"role:master" not in replication:
        connection.abort("it is a replica now")
    elif generation(connection.run_id, replication) != connection.generation:
        connection.abort("it was promoted")
