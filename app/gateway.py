"""The use cases: admit a user, carry out what clients ask, publish, deliver. Knows no HTTP and no Redis."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import msgspec
import orjson
from marshmallow import Schema

from . import frames, hot, protocol
from .access import RoomPolicy
from .broker import CLAIM_GRACE, Broker, History, Member, Publication, UserId
from .client import Client
from .connection import LOST, SILENT, Sweep
from .context import Context, Service
from .errors import (
    AUTHENTICATION_FAILED,
    CLOSES,
    DISCONNECTED,
    ERROR_CODES,
    FORBIDDEN,
    SERVICE_RESTART,
    TOO_MANY_MESSAGES,
    AuthenticationFailed,
    Close,
    PluginError,
    Refused,
    Unavailable,
)
from .hub import Hub
from .identity import Authenticator, Identity
from .membership import Forbidden, Membership
from .plugin import Command, EventType
from .protocol import Request
from .registry import Loaded, Registry
from .revocation import Revocations
from .settings import Settings
from .stepper import Stepper, Suspended

log = logging.getLogger("roomcast")
connections_log = logging.getLogger("roomcast.connections")

#: So many messages of one client wait behind a command that is under way; beyond that its socket is not read.
MAX_WAITING: Final = 64
#: A client may run this many seconds' worth of its rate ahead, and as much again over it before it is closed.
BURST_SECONDS: Final = 5

#: The ends that the server decides on, and those of clients that close as browsers do: by the page, by leaving it,
#: without a code. A client may close with any code and text; what is none of these is counted as ``LEFT_OTHERWISE``.
SERVER_ENDS: Final = frozenset({*CLOSES, LOST, SILENT})
CLIENT_ENDS: Final = {code: Close(code, "Closed By Client", reconnect=False) for code in (1000, 1001, 1005)}
LEFT_OTHERWISE: Final = Close(0, "Closed By Client", reconnect=False)

#: How long the end of a node waits for the broker to hear who has left, in seconds; leases tell it later.
_FAREWELL: Final = 2.0
#: The deadline of a command that was cut off; one that goes on all the same is cut off again.
_CUT_OFF: Final = 0.0
#: Between two questions to a broker that is away, whether tokens were revoked, in seconds.
_ASK_AGAIN: Final = 1.0
#: The length of the digest of a keyed command's data, in bytes: nobody finds two of one by chance, and none of 128 bits
#: on purpose within the five minutes that a key lives.
_DIGEST: Final = 16
#: How the payloads of user_joined and user_left begin.
_PRESENCE: Final = b'{"type":"user_'

CoreCommand = Callable[[Client, Request], Coroutine[Any, Any, None]]


class Gateway:
    """One node. Give it settings, a registry of plugins and a broker, and ``start`` it on a running loop."""

    def __init__(self, settings: Settings, registry: Registry, broker: Broker) -> None:
        loop = asyncio.get_running_loop()
        self.settings: Final = settings
        self.registry: Final = registry
        self.broker: Final = broker
        self.authenticator: Final = Authenticator(settings)
        self.policy: Final = RoomPolicy(settings)
        self.hub: Final = Hub(loop)
        self.sweep: Final = Sweep(
            loop, settings.ws_heartbeat_interval, settings.ws_max_message_size, settings.ws_max_buffer
        )
        self.revocations: Final = Revocations(broker, settings.revocation_ttl)
        self.membership: Final = Membership(self)
        self.service: Final = Service(self)
        self.draining = False
        #: For the metrics: messages taken from clients, events taken from the broker, events published over HTTP,
        #: error frames by code, connections by how they ended.
        self.received = 0
        self.events = 0
        self.published = 0
        self.errors: Final[Counter[str]] = Counter()
        self.ends: Final[Counter[Close]] = Counter()
        self._loop: Final = loop
        self._stepper: Final = Stepper(loop)
        self._core: Final[dict[str, CoreCommand]] = {
            "ping": self._ping,
            "join_room": self.membership.join,
            "leave_room": self.membership.leave,
            "refresh_token": self._refresh_token,
        }
        self._interval: Final = 1 / settings.ws_message_rate if settings.ws_message_rate else 0.0
        self._deadlines: Final[dict[asyncio.Task[Any], float]] = {}
        self._background: Final[set[asyncio.Task[Any]]] = set()
        #: Those of them that take a client out of rooms.
        self._beside: Final[set[asyncio.Task[Any]]] = set()
        #: For clients on their way in that asked for it: what they missed of their user's own room.
        self._missed: Final[dict[Client, History]] = {}
        self._stack: Final = AsyncExitStack()
        self._last_id = 0

    # Life.

    async def start(self) -> None:
        """Start the broker, the room policy, the plugins' lifespans and the sweep; if one fails, stop the others."""
        try:
            self._stack.callback(self._stepper.close)
            self._stack.push_async_callback(self.broker.close)
            await self.broker.start(self)
            self._stack.push_async_callback(self.policy.close)
            await self.policy.start()
            for loaded in self.registry:
                await self._start_plugin(loaded)
            self._stack.push_async_callback(self._end_tasks)
            self.spawn(self.sweep.run(self._cut_off))
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start_plugin(self, loaded: Loaded) -> None:
        for lifespan in loaded.plugin.lifespans:
            try:
                await self._stack.enter_async_context(lifespan(self.service))
            except Exception as error:
                what = f"plugin {loaded.plugin.name!r} ({loaded.source}) failed as it started"
                raise PluginError(f"{what}: {type(error).__name__}: {error}.") from error

    async def drain(self) -> None:
        """Close every connection with 1012, evenly spread over ``DRAIN_SECONDS``, lest they return at once."""
        self.draining = True
        everyone = list(self.sweep.connections)
        pause = self.settings.drain_seconds / max(len(everyone), 1)
        begun = self._loop.time()
        for number, connection in enumerate(everyone):
            ahead = begun + number * pause - self._loop.time()
            if ahead > 0.01:
                await asyncio.sleep(ahead)
            connection.close(SERVICE_RESTART)

    async def close(self) -> None:
        """Drop what is still connected, and stop everything that ``start`` started."""
        self.draining = True
        for connection in list(self.sweep.connections):
            connection.abort(SERVICE_RESTART)
        await self._departures()
        await self._stack.aclose()

    async def _departures(self) -> None:
        """Wait until everyone has left their rooms, in the broker as well, but no longer than ``_FAREWELL``."""
        deadline = self._loop.time() + _FAREWELL
        while (self.sweep.connections or self._beside) and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def _end_tasks(self) -> None:
        tasks = [*self._deadlines, *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` beside everything else; its failure goes to the log."""
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, Unavailable):
            log.warning("Something was left undone: %s", error)
        else:
            log.error("A background task failed", exc_info=error)

    # Connections.

    async def admit(self, identity: Identity, remote: str, since: str | None = None) -> Client | None:
        """Return a client for ``identity``, as yet without a transport, or None if the user has too many connections.

        Raises ``AuthenticationFailed`` if the token was revoked, ``Unavailable`` if the broker cannot be reached.
        Whoever gets one must either have it take over its transport or give it back with ``release``, and if it gave
        ``since``, the last event id that the client has seen of its user's own room, not wait before that.
        """
        known = await self.revocations.check(identity)
        self._last_id += 1
        client = Client(self, self._last_id, identity, remote)
        if not await self.broker.admit(identity.user_id, client.id, self.settings.max_connections_per_user):
            return None
        try:
            await self.membership.subscribe(client.personal_room)
        except BaseException:
            await self.broker.release(identity.user_id, client.id)
            raise
        try:
            if since is not None:
                self._missed[client] = await self.broker.history(client.personal_room, since)
            await self.revocations.check(identity, known)
        except BaseException:
            await self.release(client)
            raise
        return client

    async def release(self, client: Client) -> None:
        """Give back what ``admit`` took, for a client whose transport died before it was taken over."""
        self._missed.pop(client, None)
        try:
            await self.membership.unsubscribe(client.personal_room)
        finally:
            await self.broker.release(client.identity.user_id, client.id)

    def welcome(self, client: Client) -> None:
        """Put a client that has just got its transport into its user's own room, and greet it."""
        self.membership.enter_personal(client)
        identity = client.identity
        history = self._missed.pop(client, None)
        if history is None:
            client.tell(protocol.connected(identity.user_id, identity.username))
            return
        missed, recovered = self.membership.replay(client, history)
        resumed = {"recovered": recovered, "last_id": history.last_id}
        client.tell(protocol.connected(identity.user_id, identity.username, resumed))
        if missed:
            self.hub.send(client, missed)

    def depart_soon(self, client: Client) -> None:
        """Take the client out of its rooms, but not in the middle of whatever is going on."""
        self._loop.call_soon(self._depart, client)

    def _depart(self, client: Client) -> None:
        """Begin the leaving of a client, once, and not before the command that it has under way is over."""
        if not client.gone and client.waiting is None and not client.flying:
            client.gone = True
            self._begin_beside(self.membership.depart(client))

    def step(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run ``work`` now as far as it goes; return the task of the rest, or None. What ``work`` raises is raised."""
        suspended = self._stepper.begin(work)
        return None if suspended is None else suspended.task

    def _begin_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` now as far as it goes, and the rest beside everything else."""
        try:
            rest = self.step(work)
        except Exception:
            log.exception("Leaving failed")
        else:
            if rest is not None:
                self._background.add(rest)
                self._beside.add(rest)
                rest.add_done_callback(self._spawned)
                rest.add_done_callback(self._beside.discard)

    def ended(self, client: Client) -> None:
        """A client's connection is over: leave, count it and write its log line."""
        self._depart(client)
        end = client.end
        assert end is not None
        self.count_end(end)
        identity = client.identity
        seconds = self._loop.time() - client.opened
        connections_log.info(
            "connection ended: user %s (%s) from %s after %.1f s: %s",
            identity.user_id,
            identity.username,
            client.remote,
            seconds,
            f"{end.code} {end.reason}".rstrip(),
            extra={
                "user_id": identity.user_id,
                "username": identity.username,
                "remote": client.remote,
                "seconds": round(seconds, 1),
                "code": end.code,
                "reason": end.reason,
            },
        )

    def count_end(self, end: Close) -> None:
        """Count for the metrics how a connection ended, or was refused."""
        self.ends[CLIENT_ENDS.get(end.code) or (end if end in SERVER_ENDS else LEFT_OTHERWISE)] += 1

    def expire(self, client: Client) -> None:
        """Close a client whose token ran out."""
        client.close(AUTHENTICATION_FAILED)

    # What clients ask.

    def receive(self, client: Client, payload: bytearray) -> None:
        """Take one message of a client: refuse it, let it wait its turn, or carry it out."""
        self.received += 1
        if self._interval and not self._within_rate(client, payload):
            return
        try:
            request = protocol.parse(payload, self.hub.rooms)
        except Refused as refused:
            self._refuse(client, refused, None, protocol.request_id(payload))
            return
        if client.waiting is None:
            self._perform(client, request)
        else:
            client.waiting.append(request)
            if len(client.waiting) == MAX_WAITING:
                client.pause_reading()

    def takes_ping(self, client: Client) -> bool:
        """Whether a ping of a client is to be answered: they count against its rate as messages do."""
        return not self._interval or self._within_rate(client, b"")

    def _within_rate(self, client: Client, payload: bytes | bytearray) -> bool:
        """Keep the limit of messages a second (a leaky bucket); a client far over it is closed."""
        now = self._loop.time()
        if client.allowance <= now:
            client.allowance = now
            client.excess = 0
        if client.allowance - now <= BURST_SECONDS:
            client.allowance += self._interval
            return True
        client.excess += 1
        if client.excess > BURST_SECONDS * self.settings.ws_message_rate:
            client.close(TOO_MANY_MESSAGES)
        else:
            rate = self.settings.ws_message_rate
            refused = Refused("rate_limited", f"More than {rate} messages a second; slow down, or be closed with 4429.")
            self._refuse(client, refused, None, protocol.request_id(payload))
        return False

    def _perform(self, client: Client, request: Request) -> None:
        """Carry out a request; what has to wait goes on in a task, and the client's next request after it."""
        if client.flying and (client.flying == MAX_WAITING or not self._may_fly(request)):
            client.waiting = deque((request,))
            return
        type = request.type
        command: Command | None = None
        try:
            command = self.registry.commands.get(type)
            if command is None:
                core = self._core.get(type)
                if core is None:
                    known = ", ".join(sorted([*self._core, *self.registry.commands]))
                    raise Refused("unknown_type", f"There is no command {type[:60]!r}; there are: {known}.")
                result = self._stepper.begin(core(client, request))
            else:
                data = command.validator.load(request.data if request.data is not None else {})
                if request.key is None:
                    context = Context(self, client, request.room)
                    result = self._stepper.begin(command.handler(context, data))  # type: ignore[arg-type]  # async def
                else:
                    key = f"{client.identity.user_id}/{type}/{request.room}/{request.key}"
                    context = Context(self, client, request.room, key)
                    result = self._stepper.begin(self._once(command, context, data, key, _digest(request)))
        except (Exception, asyncio.CancelledError) as error:  # a handler may have awaited what was cancelled
            self._failed(client, request, error)
            return
        if result.__class__ is Suspended:
            if command is not None and command.pipelined and request.key is None:
                client.flying += 1
                over = self._landed
            else:
                client.waiting = deque()
                over = self._resumed
            self._deadlines[result.task] = self._loop.time() + self.settings.handler_timeout
            result.task.add_done_callback(partial(over, client, request, command))
        elif command is not None and request.id is not None:
            self._answer(client, request, command, result)

    async def _once(self, command: Command, context: Context, data: dict[str, Any], key: str, digest: bytes) -> Any:
        """Carry out a command unless it was before; only what succeeded is remembered, for what failed did nothing.

        Before the answer stands the ``digest`` of what was asked, so that nobody gets the answer to something else.
        """
        claimed = await self.broker.claim(key, self.settings.handler_timeout + CLAIM_GRACE)
        if isinstance(claimed, bytes):
            if not claimed.startswith(digest):
                raise Refused("key_reused", "This key was used with other data; take a new key for each command.")
            return orjson.loads(claimed[_DIGEST:])
        if not claimed:
            raise Refused("in_progress", "A command with this key is still being carried out; ask again in a moment.")
        answer: bytes | None = None
        try:
            result = await command.handler(context, data)
            try:
                answer = digest + protocol.encode(result or {})
            except Refused as refused:
                raise TypeError(f"its handler returned what is no JSON: {refused}") from None
        finally:
            # What was done was done, and is answered; what it published has keys of its own against a repeat.
            with suppress(Unavailable):
                await self.broker.settle(key, answer)
        return result

    def _resumed(self, client: Client, request: Request, command: Command | None, task: asyncio.Task[Any]) -> None:
        """A command that had to wait is over: answer it, then go on with what the client sent meanwhile."""
        waiting, client.waiting = client.waiting, None
        self._finish(client, request, command, task)
        self._catch_up(client, waiting or deque())

    def _may_fly(self, request: Request) -> bool:
        """Whether ``request`` may begin while pipelined commands of its client are under way."""
        command = self.registry.commands.get(request.type)
        return command is not None and command.pipelined and request.key is None

    def _landed(self, client: Client, request: Request, command: Command | None, task: asyncio.Task[Any]) -> None:
        """A pipelined command that had to wait is over: answer it; what waited for it may begin."""
        client.flying -= 1
        self._finish(client, request, command, task)
        waiting = client.waiting
        if waiting is None:
            if client.end is not None:
                self._depart(client)
        elif not client.flying or self._may_fly(waiting[0]):
            client.waiting = None
            self._catch_up(client, waiting)

    def _finish(self, client: Client, request: Request, command: Command | None, task: asyncio.Task[Any]) -> None:
        """Answer a command that had to wait."""
        was_cut_off = self._deadlines.pop(task) == _CUT_OFF
        if task.cancelled() and self.draining:
            log.info("%s of user %s was cut off: the server stops", request.type, client.identity.user_id)
        elif task.cancelled() and not was_cut_off:
            self._failed(client, request, asyncio.CancelledError("the handler awaited what was cancelled"))
        elif task.cancelled():
            seconds = self.settings.handler_timeout
            refused = Refused("timeout", f"{request.type} took over {seconds:g} s and was cut off.")
            self._failed(client, request, refused)
        elif (error := task.exception()) is not None:
            self._failed(client, request, error)
        elif command is not None and request.id is not None:
            self._answer(client, request, command, task.result())

    def _catch_up(self, client: Client, waiting: deque[Request]) -> None:
        paused = len(waiting) >= MAX_WAITING
        while waiting and client.waiting is None and client.end is None:
            self._perform(client, waiting.popleft())
        if client.end is not None:
            self._depart(client)
        elif client.waiting is not None:
            client.waiting.extend(waiting)
        if paused and len(waiting) < MAX_WAITING:
            client.resume_reading()

    def _answer(self, client: Client, request: Request, command: Command, result: Mapping[str, Any] | None) -> None:
        try:
            if result is not None and not isinstance(result, Mapping):
                raise Refused("internal", f"a {result.__class__.__name__} and not a dict")
            client.tell(protocol.reply(command.reply, result or {}, room=request.room, id=request.id))
        except Refused as refused:
            log.error("The handler of %s returned what cannot be its reply: %s", request.type, refused)
            self._refuse(client, _internal(request), request.room, request.id)

    def _failed(self, client: Client, request: Request, error: BaseException) -> None:
        """Tell a client that its request failed, in its words, or that the server did, whose log has the traceback."""
        if isinstance(error, Refused):
            refused = error
        elif isinstance(error, Forbidden):
            refused = error.refused
            self._note("join refused", client, str(refused))
        elif isinstance(error, Unavailable):
            refused = Refused("unavailable", f"{request.type} could not be carried out now; try again soon. {error}")
        else:
            log.error("%s of user %s failed", request.type, client.identity.user_id, exc_info=error)
            refused = _internal(request)
        self._refuse(client, refused, request.room, request.id)
        if isinstance(error, Forbidden) and self.settings.forbidden_join == "close":
            client.close(FORBIDDEN)

    def _refuse(self, client: Client, refused: Refused, room: str | None, id: str | int | None) -> None:
        self.errors[refused.code if refused.code in ERROR_CODES else "plugin"] += 1
        try:
            client.tell(protocol.error(refused, room=room, id=id))
        except Refused as error:  # what a plugin gave is no JSON
            log.error("A refusal was sent without its fields: %s", error)
            sentence = str(refused.message).encode("ascii", "backslashreplace").decode()
            client.tell(protocol.error(Refused(str(refused.code), sentence), room=room, id=id))

    @staticmethod
    def _note(what: str, client: Client, why: str) -> None:
        """Write the log line of something that an operator will want to know of a user."""
        identity = client.identity
        connections_log.info(
            "%s: user %s (%s) from %s: %s", what, identity.user_id, identity.username, client.remote, why
        )

    async def _cut_off(self) -> None:
        """Cancel the handlers that have hung too long."""
        now = self._loop.time()
        for task in [task for task, deadline in self._deadlines.items() if now >= deadline]:
            self._deadlines[task] = _CUT_OFF
            task.cancel()

    async def _ping(self, client: Client, request: Request) -> None:
        protocol.takes_only(request)
        client.tell(protocol.pong(request.id))

    async def _refresh_token(self, client: Client, request: Request) -> None:
        """Go on with a newer token of the same user; rooms that it no longer covers are left."""
        protocol.takes_only(request, "token")
        token = (request.data or {}).get("token")
        if not isinstance(token, str):
            raise Refused("invalid_data", "data.token: give the new token.", {"token": ["Missing or not a string."]})
        try:
            identity = self.authenticator.verify(token)
            await self.revocations.check(identity)
        except AuthenticationFailed as failed:
            self._note("new token refused", client, str(failed))
            raise Refused("bad_token", f"The new token is refused. {failed}") from None
        if identity.user_id != client.identity.user_id:
            self._note("new token refused", client, f"it is of user {identity.user_id}")
            raise Refused("bad_token", "The new token is another user's; connect anew to change the user.")
        client.identity = identity
        client.tell(protocol.reply("token_refreshed", {"expires": identity.expires}, id=request.id))
        await self.membership.review(client)

    # Publishing and delivery.

    def publish(
        self, event: str | type[Schema], room: str, data: Mapping[str, Any], sender: str | None, key: str | None
    ) -> Awaitable[str]:
        """Validate ``data`` as ``event`` and publish it in ``room``; the result is its id. Raises ``Refused``."""
        return self.broker.publish(room, self.payload(event, room, data, sender), key)

    def payload(self, event: str | type[Schema], room: str, data: Any, sender: str | None) -> bytes:
        """Return what ``publish`` would give the broker, checked; raise ``Refused``."""
        kind = self.registry.event(event)
        if kind.published_by_core:
            raise Refused("unknown_type", f"{kind.type} is announced by roomcast itself and cannot be published.")
        body = kind.validator.event(data)
        joined = room in self.hub.rooms  # and so it was checked, and is no user's own
        if not joined:
            self.check_room(room)
        if kind.rooms:
            self.check_destination(kind, room)
        shown = None if not joined and room.startswith("user:") else room
        return protocol.event(kind.type, shown, body, sender)

    def prepare(self, event: str, room: str, data: Any, sender: str | None, key: str | None) -> Publication:
        """Return what ``publish`` would publish, checked, for one of several; raise ``Refused``."""
        return Publication(room, self.payload(event, room, data, sender), key)

    @staticmethod
    def check_destination(kind: EventType, room: str) -> None:
        """Raise ``Refused`` if events of this ``kind`` do not go to such a ``room``, whose form was checked."""
        if room[: room.index(":")] not in kind.rooms:
            wanted = " or ".join(f"{type}:…" for type in kind.rooms)
            raise Refused("bad_room", f"{kind.type} goes to {wanted}, not to {room}.")

    def check_room(self, room: str) -> None:
        """Raise ``Refused`` if ``room`` is none, or of a type that no plugin declares."""
        if not isinstance(room, str) or not protocol.is_room(room):
            raise protocol.bad_room(room if isinstance(room, str) else None)
        self.registry.room(room)

    async def publish_core(self, event: type[Schema], room: str, data: Mapping[str, Any], sender: str) -> None:
        """Publish what only roomcast itself may: a user came or went."""
        kind = self.registry.event(event)
        await self.broker.publish(room, protocol.event(kind.type, room, data, sender))

    def claims_allow(self, identity: Identity, room: str) -> bool:
        """Whether the token covers ``room``, or rooms are open to all."""
        return self.settings.room_access == "open" or identity.allows(room)

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Deliver an event of the broker to the room's members here; who came and went may wait a moment in a crowd."""
        self.events += 1
        frame = hot.event(payload, id)
        if payload.startswith(_PRESENCE):
            self.hub.deliver_later(room, frame)
        else:
            self.hub.deliver(room, frame)

    def on_resync(self, room: str, last_id: str) -> None:
        """Tell the members that events were lost for good, and where the room stands now."""
        shown = None if room.startswith("user:") else room
        self.hub.deliver(room, frames.text(protocol.resync(shown, last_id)))

    def on_gone(self, room: str, member: Member, users: int) -> None:
        """Announce that a user is gone whose node died."""
        self.spawn(self.membership.gone(room, member, users))

    def on_back(self, room: str, member: Member, users: int) -> None:
        """Announce that a user of this node whom the others took for gone is still here."""
        self.spawn(self.membership.back(room, member, users))

    def on_signal(self, message: bytes) -> None:
        """Carry out here what an operator asked of all nodes."""
        order = orjson.loads(message)
        user_id: UserId = order["user_id"]
        if order["do"] == "revoke":
            self.revocations.hear()
        clients = [one for one in self.hub.personal.get(f"user:{user_id}", ()) if isinstance(one, Client)]
        for client in clients:
            if order["do"] == "disconnect":
                client.close(DISCONNECTED)
            elif order["do"] == "revoke":
                if self.revocations.covers(order, client.identity):
                    self._note("token revoked", client, "closed")
                    client.close(AUTHENTICATION_FAILED)
            elif order["room"] in client.rooms:
                room = order["room"]
                self._note("removed from a room", client, room)
                self._begin_beside(self.membership.take_out(client, room, f"Removed from room {room}"))

    def on_signals_lost(self) -> None:
        """Find out by asking whose tokens were revoked meanwhile; kicks and disconnects last no longer anyway."""
        self.revocations.hear()
        self.spawn(self._review_tokens())

    async def _review_tokens(self) -> None:
        """Close all here whose token was revoked; who comes from now on is checked on the way in."""
        for client in [one for here in self.hub.personal.values() for one in here if isinstance(one, Client)]:
            identity = client.identity
            if not await self._still_good(identity) and client.identity is identity:  # a newer one was checked, too
                self._note("token revoked", client, "closed")
                client.close(AUTHENTICATION_FAILED)

    async def _still_good(self, identity: Identity) -> bool:
        """Whether the token of ``identity`` was not revoked; asks until the broker tells."""
        while True:
            try:
                await self.revocations.check(identity)
            except AuthenticationFailed:
                return False
            except Unavailable:
                await asyncio.sleep(_ASK_AGAIN)
            else:
                return True

    async def kick(self, room: str, user_id: UserId) -> None:
        """Take all connections of a user out of ``room``, on every node. Nothing keeps the user from joining again."""
        await self.broker.signal(orjson.dumps({"do": "kick", "room": room, "user_id": user_id}))

    async def disconnect(self, user_id: UserId) -> None:
        """Close all connections of a user, on every node."""
        await self.broker.signal(orjson.dumps({"do": "disconnect", "user_id": user_id}))


def _digest(request: Request) -> bytes:
    """Return a digest of the request's data that does not depend on the order of fields."""
    return blake2b(msgspec.json.encode(request.data or {}, order="deterministic"), digest_size=_DIGEST).digest()


def _internal(request: Request) -> Refused:
    return Refused("internal", f"{request.type[:60]} failed on the server; its log says why. Try again later.")
