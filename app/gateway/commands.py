"""Carry out the commands of clients: those of roomcast and those of plugins.

A client's commands run one after the other. Commands that are declared ``pipelined`` may overlap. A command that does
not wait finishes within ``receive``; one that waits continues in a task, and the client's next requests are queued,
except heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

import msgspec
import orjson

from ..context import Context
from ..declarations import Command
from ..errors import TOO_MANY_MESSAGES, Refused
from ..failure_log import FailureLog
from ..fastpath.eager import SuspendedCoroutine
from ..idempotency import KEY_SIZE, InProgress, KeyLimit, KeyReused, digest_of, fingerprint_of, run_once
from ..plugin_host import PluginHost
from ..protocol import messages, request_id
from ..protocol.messages import Request
from ..protocol.user_id import quote_user_id
from ..suggestions import did_you_mean
from .client import Client
from .command_access import check_access
from .node import Node
from .rate_limit import FRAME_COST, REFUSAL_COST, ByteRate, RateLimit, Verdict
from .replies import Replies
from .rooms import Rooms
from .tasks import cancel_tasks

log = logging.getLogger("roomcast")

#: The number of requests of one client that may wait for a running command. Beyond that its socket is not read.
MAX_QUEUED: Final = 64
#: How many commands with a key a user may send per second on all connections of a node, if a client may send fewer or
#: any number of messages.
MIN_KEY_RATE: Final = 100
#: How much of an excess message that is not valid JSON is searched for its id, in bytes. A full search takes 2 ms.
_MAX_SCAN_OF_EXCESS: Final = 1024
#: How long a handler that has exceeded its time may suppress its cancellation, in seconds. Then its client goes on
#: without it.
_CANCEL_TIMEOUT: Final = 5.0

#: Finishes a command whose task is done: a ``partial`` with the client, the request and the command.
Finish = partial[None]
#: The log line about a handler that suppresses its cancellation.
_ABANDONED: Final = "%s does not end, although it was cancelled; %s. Its handler must let CancelledError through."
_ALLOW: Final = Verdict.ALLOW  # reading it from the class takes 0.2 us in Python 3.11
BuiltinCommand = Callable[[Client, Request], Coroutine[Any, Any, None]]


class Commands:
    """Receives the messages of all clients (see ``client.MessageHandler``) and runs their commands.

    Owns the tasks of commands that wait, and their deadlines. Each client's queue is in the ``Client``.
    """

    def __init__(
        self,
        node: Node,
        hosts: Mapping[str, PluginHost],
        rooms: Rooms,
        builtin: Mapping[str, BuiltinCommand],
        declared: Mapping[str, Command],
    ) -> None:
        """``hosts`` are those of all plugins by name, ``builtin`` the own commands besides joins, leaves and pings."""
        self._plugin_commands: Final = declared
        self._loop: Final = node.loop
        self._registry: Final = node.registry
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._counters: Final = node.counters
        self._eager: Final = node.tasks.eager
        #: How long a command may take, in seconds.
        self._timeout: Final = node.settings.handler_timeout
        self._rate_limit: Final = RateLimit(node.settings.ws_message_rate)
        self._limits_messages: Final = self._rate_limit.rate > 0
        self._key_limit: Final = KeyLimit(max(self._rate_limit.rate, MIN_KEY_RATE))
        self._byte_rate: Final = ByteRate(node.settings.ws_byte_rate, node.settings.ws_max_message_size)
        self.initial_bytes = self._byte_rate.initial
        self._is_limited: Final = self._limits_messages or self._byte_rate.rate > 0
        self._replies: Final = Replies(node)
        owner = node.registry.owner
        #: The host of the plugin that declares each command.
        self._hosts: Final = {type: hosts[owner("command", type)] for type in node.registry.commands}
        self._rooms: Final = rooms
        self._builtin: Final[dict[str, BuiltinCommand]] = {
            "ping": _ping,
            "join_room": rooms.join,
            "leave_room": rooms.leave,
            **builtin,
        }
        #: The deadlines of commands that continue in a task, as loop times, and the function that finishes each one.
        self._deadlines: Final[dict[asyncio.Task[Any], tuple[float, Finish]]] = {}
        #: The commands that were cancelled because they took too long: until when they may suppress that.
        self._overdue: Final[dict[asyncio.Task[Any], tuple[float, Finish]]] = {}
        #: Those of them whose clients got ``timeout`` already.
        self._answered: Final[set[asyncio.Task[Any]]] = set()
        #: The tasks of commands that suppress their cancellation. Nothing waits for them.
        self._abandoned: Final[set[asyncio.Task[Any]]] = set()
        self._timeouts: Final = FailureLog(log)
        #: True while the node stops, so that cancelled commands are not reported as errors.
        self.is_stopping = False

    # Receiving.

    def receive(self, client: Client, payload: bytearray) -> None:
        """Handle one message of a client: refuse it, queue it, or carry it out."""
        self._counters.messages_received += 1
        if self._is_limited:
            client.bytes_left -= len(payload) + FRAME_COST
            must_check = self._limits_messages or client.bytes_left < 0
            if must_check and not self._is_within_rate(client, payload, self._loop.time()):
                return
        try:
            request = messages.parse(payload, self._delivery.rooms)
        except Refused as refused:
            self._replies.send_error(client, refused, None, request_id.find(payload))
            return
        if client.queued is None:
            self._perform(client, request)
        elif _is_heartbeat(request):
            client.send_json(messages.pong())
        else:
            client.queued.append(request)
            if len(client.queued) == MAX_QUEUED:
                client.pause_reading()

    def allows_frame(self, client: Client, size: int, *, is_ping: bool) -> bool:
        """Count a frame that is not a message; return True if it is within the limits (see ``MessageHandler``).

        It counts as a message at the time of the last check, so that the clock is not read for each frame of a flood.
        """
        client.bytes_left -= size + FRAME_COST
        return self._is_within_rate(client, b"" if is_ping else None, client.keepalive.now)

    def event_counted(self, client: Client, *, is_first: bool) -> None:
        """Refuse the first event of a command if its user has published too much (see ``MessageHandler``).

        The command has done nothing yet. Later events are published, because a command must not take effect in part.
        """
        is_allowed = self._byte_rate.take_for_event(client, self._loop.time())
        if is_first and not is_allowed:
            raise self._byte_rate.refusal()

    def _is_within_rate(self, client: Client, payload: bytes | bytearray | None, now: float) -> bool:
        """Count a message at the loop time ``now``; return True if it is within the limits.

        Otherwise answer it, or close the client. ``payload`` is None for a frame that has no answer.
        """
        verdict = self._rate_limit.check(client, now)
        if verdict is _ALLOW and client.bytes_left >= 0:
            return True
        refused = None
        if verdict is Verdict.REFUSE:
            refused = self._rate_limit.refusal()
        if client.bytes_left < 0 and verdict is not Verdict.CLOSE:
            by_bytes = self._byte_rate.take(client, self._loop.time())
            if by_bytes is not Verdict.ALLOW:
                verdict = by_bytes
                refused = self._byte_rate.refusal()
        if verdict is _ALLOW:
            return True
        if verdict is Verdict.CLOSE:
            client.close(TOO_MANY_MESSAGES)
        elif payload is not None and refused is not None:
            client.bytes_left -= REFUSAL_COST
            self._replies.send_error(client, refused, None, request_id.find(payload, _MAX_SCAN_OF_EXCESS))
        return False

    # Running.

    def _perform(self, client: Client, request: Request) -> None:
        """Run a request's command until it returns or waits."""
        type = request.type
        command = self._plugin_commands.get(type)
        if (
            client.in_flight
            and (client.in_flight == MAX_QUEUED or not _may_overlap(command, request))
            and not _is_heartbeat(request)
        ):
            client.queued = deque((request,))
            return
        try:
            if command is None:
                result = self._eager.start(self._builtin_command(type)(client, request))
            else:
                data = command.validator.load(request.data if request.data is not None else {})
                if request.key is None:
                    check_access(command, client, request.room, self._delivery)
                    context = Context(self._hosts[type], client, request.room)
                    result = self._eager.start(command.handler(context, data))  # type: ignore[arg-type]  # async def
                else:
                    user = quote_user_id(client.identity.user_id)
                    key = digest_of(f"{user}/{type}/{request.room}/{request.key}")
                    context = Context(self._hosts[type], client, request.room, (key, request.key))
                    result = self._eager.start(self._perform_once(command, client, context, data, key, request))
        except (Exception, asyncio.CancelledError) as error:  # a handler may have awaited a cancelled task
            self._replies.send_failure(client, request, error)
            return
        if result.__class__ is SuspendedCoroutine:
            if _may_overlap(command, request):
                client.in_flight += 1
                done = self._pipelined_done
            else:
                client.queued = deque()
                done = self._done
            finish = partial(done, client, request, command)
            self._deadlines[result.task] = (self._loop.time() + self._timeout, finish)
            result.task.add_done_callback(finish)
        elif command is not None and request.id is not None:
            self._replies.send_result(client, request, command, result)

    def _builtin_command(self, type: str) -> BuiltinCommand:
        command = self._builtin.get(type)
        if command is None:
            known = sorted([*self._builtin, *self._registry.commands])
            hint = did_you_mean(type, known)
            raise Refused("unknown_type", f"There is no command {type[:60]!r}; there are: {', '.join(known)}.{hint}")
        return command

    async def _perform_once(
        self, command: Command, client: Client, context: Context, data: dict[str, Any], key: str, request: Request
    ) -> Any:
        """Run a command with an idempotency key, or return the result of its first run."""
        user_id = client.identity.user_id
        if self._key_limit.is_reached(user_id):
            sentence = f"More than {self._key_limit.rate} commands with a key a second; repeat this one later."
            raise Refused("rate_limited", sentence)
        result: Any = None

        async def work() -> bytes:
            nonlocal result
            self._key_limit.count(user_id, 1)
            # Not before the key is claimed: a repeat is answered even if its sender has left the room since.
            check_access(command, client, request.room, self._delivery)
            result = await command.handler(context, data)
            try:
                answer = messages.encode(result or {})
            except Refused as refused:
                raise TypeError(f"the handler's result is not JSON: {refused}") from None
            self._key_limit.count(user_id, len(answer) // KEY_SIZE)
            return answer

        fingerprint = fingerprint_of(msgspec.json.encode(request.data or {}, order="deterministic"))
        try:
            is_first, answer = await run_once(self._broker, key, fingerprint, work, self._timeout)
        except KeyReused:
            sentence = "This key was used with other data; take a new key for each command."
            raise Refused("key_reused", sentence) from None
        except InProgress:
            sentence = "A command with this key is still being carried out; ask again in a moment."
            raise Refused("in_progress", sentence) from None
        return result if is_first else orjson.loads(answer)

    # Finishing.

    def _done(self, client: Client, request: Request, command: Command | None, task: asyncio.Task[Any]) -> None:
        """Reply to a command that had to wait, and continue with the queued requests."""
        queued, client.queued = client.queued, None
        assert queued is not None
        self._reply(client, request, command, task)
        self._perform_queued(client, queued)

    def _pipelined_done(
        self, client: Client, request: Request, command: Command | None, task: asyncio.Task[Any]
    ) -> None:
        """Reply to a pipelined command that had to wait. Queued requests may start now."""
        client.in_flight -= 1
        self._reply(client, request, command, task)
        queued = client.queued
        if queued is None:
            if client.end is not None:
                self._rooms.depart(client)
        elif not client.in_flight or _may_overlap(self._plugin_commands.get(queued[0].type), queued[0]):
            client.queued = None
            self._perform_queued(client, queued)

    def _reply(self, client: Client, request: Request, command: Command | None, task: asyncio.Task[Any]) -> None:
        is_overdue = self._deadlines.pop(task, None) is None
        self._overdue.pop(task, None)
        if task in self._answered:
            self._answered.discard(task)
            if task.done():
                self._log_late_failure(client, request, task)
        elif task.cancelled() and self.is_stopping:
            log.info("%s of user %s was cut off: the server stops", request.type, client.identity.user_id)
        elif is_overdue and task.cancelled():
            self._send_timeout(client, request)
        elif task.cancelled():
            error = asyncio.CancelledError("the handler awaited a cancelled task")
            self._replies.send_failure(client, request, error)
        elif (failure := task.exception()) is not None:
            self._replies.send_failure(client, request, failure)
        elif command is not None and request.id is not None:
            self._replies.send_result(client, request, command, task.result())

    def _send_timeout(self, client: Client, request: Request) -> None:
        self._timeouts.add(request.type, f"{self._describe(client, request)} took over {self._timeout:g} s")
        # A join that is cut off has changed nothing: the access check or the broker was too slow.
        code = "unavailable" if request.type == "join_room" else "timeout"
        refused = Refused(code, f"{request.type} took over {self._timeout:g} s and was cut off.")
        self._replies.send_failure(client, request, refused)

    def _log_late_failure(self, client: Client, request: Request, task: asyncio.Task[Any]) -> None:
        """Log the failure of a command whose client got ``timeout`` before the command ended."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed after it was cancelled", self._describe(client, request), exc_info=error)

    def _perform_queued(self, client: Client, queued: deque[Request]) -> None:
        """Perform queued requests until one of them waits; queue the rest again."""
        was_paused = len(queued) >= MAX_QUEUED
        while queued and client.queued is None and client.end is None:
            self._perform(client, queued.popleft())
        if client.end is not None:
            self._rooms.depart(client)
        elif client.queued is not None:
            client.queued.extend(queued)
        if was_paused and len(queued) < MAX_QUEUED:
            client.resume_reading()

    async def cancel_overdue(self) -> None:
        """Cancel the commands that have exceeded their deadline. The keepalive task calls this every second.

        A command that has not ended at the next call is answered with ``timeout``. At first it may still clean up, so
        that a client that repeats it at once finds its key free.
        """
        now = self._loop.time()
        self._byte_rate.forget_empty(now)
        for task, (deadline, finish) in list(self._overdue.items()):
            if task not in self._answered:
                self._answered.add(task)
                self._send_timeout(*finish.args[:2])
            if now >= deadline:
                self._abandon(task)
        for task in [task for task, (deadline, _) in self._deadlines.items() if now >= deadline]:
            _, finish = self._deadlines.pop(task)
            self._overdue[task] = (now + _CANCEL_TIMEOUT, finish)
            # A command that suspended in the previous iteration, if that took long, resumes later in this one. If it
            # were cancelled before that, it could not clean up, and a join would keep its subscription.
            self._loop.call_soon(task.cancel)

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        """Finish a command whose handler suppresses its cancellation: its client, which got ``timeout``, goes on."""
        _, finish = self._overdue[task]
        client, request, _ = finish.args
        what = self._describe(client, request)
        log.error(_ABANDONED, what, "its client goes on without it")
        task.set_name(what)  # for the log, if it keeps the process from ending
        task.remove_done_callback(finish)
        self._abandoned.add(task)
        task.add_done_callback(partial(self._abandoned_done, client, request))
        finish(task)

    def _abandoned_done(self, client: Client, request: Request, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        self._log_late_failure(client, request, task)

    def _describe(self, client: Client, request: Request) -> str:
        """Return a command in words for the log: its type, plugin, room and user."""
        is_declared = request.type in self._registry.commands
        plugin = f" of plugin {self._registry.owner('command', request.type)!r}" if is_declared else ""
        room = f" in {request.room}" if request.room is not None else ""
        return f"command {request.type}{plugin}{room} by user {client.identity.user_id}"

    async def cancel(self) -> None:
        """Cancel all running commands and wait for their end, but not for those that suppress it."""
        await asyncio.sleep(0)  # as in cancel_overdue
        running = self._deadlines | self._overdue
        for task in await cancel_tasks({*running, *self._abandoned}):
            if task in running:
                client, request, _ = running[task][1].args
                log.error(_ABANDONED, self._describe(client, request), "the server stops without it")


def _may_overlap(command: Command | None, request: Request) -> bool:
    """Return True if ``request`` may run at the same time as other pipelined commands of its client."""
    return command is not None and command.pipelined and request.key is None


def _is_heartbeat(request: Request) -> bool:
    """Return True for a ping without an ``id``, which is answered at once.

    If it waited for a command, the client could not tell a slow command from a dead connection.
    """
    return request.type == "ping" and request.id is None and not request.data


async def _ping(client: Client, request: Request) -> None:
    messages.refuse_other_fields(request)
    client.send_json(messages.pong(request.id))
