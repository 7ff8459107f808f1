"""The subscribed rooms of one node.

Rooms are subscribed in batches. After each SUBSCRIBE the state of the room is read on the same connection, so that no
event is missed between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from ...backoff import Backoff
from ...errors import BrokerUnavailable, Unavailable
from .connection import RedisConnection, ReplyError, pack
from .keys import Keys
from .presence_store import UPDATES
from .reconnect import OpenConnection
from .router import Router
from .server_queue import REFUSALS
from .stream import BEFORE_ALL, ROOM_STATE, StreamReader
from .subscriber_connections import CONNECTION_LOST, SubscriberConnections
from .topology import ServerName

log = logging.getLogger("roomcast.redis")

#: The maximum number of rooms in one batch. Redis serves other clients between batches.
_BATCH_SIZE: Final = 256
#: The first and the longest pause before what Redis refused is tried again, in seconds.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 2.0
#: ``Subscription.last_offset`` until the state of the room is known.
UNKNOWN: Final = -1

#: The ids of announcements, each with the name and the text of its only field.
JournalEntries = list[tuple[bytes, tuple[bytes, bytes]]]

#: Errors of ROOM_STATE whose cause is not the room. The subscription is tried again.
_RETRIED: Final = REFUSALS | {"NOSCRIPT", CONNECTION_LOST}


class Subscription:
    """A subscribed room, and the last event that the listener received.

    ``epoch`` is "" for a room that had no event yet, and BEFORE_ALL if its first event may have been missed meanwhile.
    ``messages`` is the number of messages of the room up to that event.
    ``pending`` contains messages that are held back while a gap is repaired, or is None. ``is_active`` is True if an
    event was delivered since the last check of quiet rooms. ``announced`` is the id of the last join or leave that the
    listener received; ``is_behind`` is True until those that were missed meanwhile are read. ``updated`` is the
    id of the last status. ``listed_at`` is when the members were listed for the first time, in ms of the server, or 0.
    The signature of an announcement is the hash of ``secret`` and its first line.
    """

    __slots__ = (
        *("announced", "epoch", "is_active", "is_behind", "last_offset", "listed_at", "messages", "pending", "room"),
        *("secret", "updated"),
    )

    def __init__(self, room: str) -> None:
        self.room: Final = room
        self.epoch = ""
        self.last_offset = UNKNOWN
        self.messages = 0
        self.pending: list[bytes] | None = []
        self.is_active = True
        self.announced = (0, 0)
        self.is_behind = False
        self.updated = self.listed_at = 0
        self.secret = b""


class Subscriptions:
    """The subscribed rooms of one node. Owns the connections for them.

    ``on_message`` receives each message of a room. ``on_state`` receives the state of a room, or None if it has no
    events, after it was subscribed and after each reconnect. With the request for the state, the node reports its
    position in the room (``StreamReader.state_args``). ``on_journal`` receives the joins and leaves that were
    missed before a reconnect, and of the statuses that were announced meanwhile the id, the user and the user's JSON.
    ``on_left`` receives each subscription that ends. ``on_told`` receives each message of another node to this one,
    after the secret of its signature.
    """

    def __init__(
        self,
        router: Router,
        keys: Keys,
        open_connection: OpenConnection,
        stream: StreamReader,
        node: str,
        on_message: Callable[[Subscription, bytes], None],
        on_state: Callable[[Subscription, list[bytes] | None], None],
        on_journal: Callable[[Subscription, JournalEntries, list[bytes]], None],
        on_left: Callable[[Subscription], None],
        on_told: Callable[[bytes, bytes], None],
    ) -> None:
        self.by_channel: Final[dict[bytes, Subscription]] = {}
        self._router: Final = router
        self._keys: Final = keys
        self._connections: Final = SubscriberConnections(router, open_connection, self)
        self._stream: Final = stream
        self._on_message: Final = on_message
        self._on_state: Final = on_state
        self._on_journal: Final = on_journal
        self._on_left: Final = on_left
        self._on_told: Final = on_told
        self._loop: Final = asyncio.get_running_loop()
        self._is_sharded: Final = router.topology.is_cluster
        #: By channel: done when the subscription is ready.
        self._waiters: Final[dict[bytes, asyncio.Future[None]]] = {}
        #: The channels to subscribe (True) or unsubscribe at the end of this loop iteration.
        self._changes: dict[bytes, bool] = {}
        #: The channels that Redis refused to subscribe or unsubscribe. They are tried again after a pause.
        self._refused: set[bytes] = set()
        self._backoff: Final = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        #: This node's own channel, for messages of other nodes, and to test the path through Redis and back.
        self._echo_channel: Final = keys.echo_channel(node).encode()
        self._echo: asyncio.Future[None] | None = None

    # Lifecycle.

    async def start(self, wait: float) -> None:
        """Connect; raise ``Unavailable`` if that takes longer than ``wait`` seconds."""
        await self._connections.start(wait)

    async def close(self) -> None:
        """Close all connections, which ends all subscriptions."""
        await self._connections.close()
        self.by_channel.clear()
        for channel in list(self._waiters):
            self._finish(channel, BrokerUnavailable("This node is closing its broker."))

    def problems(self) -> list[str]:
        """Return a sentence for each server whose subscriptions are down."""
        return self._connections.problems()

    # Rooms.

    def get(self, room: str) -> Subscription | None:
        """Return the subscription of ``room``, or None."""
        return self.by_channel.get(self._keys.channel(room).encode())

    def is_current(self, subscription: Subscription) -> bool:
        """Return False if the room was unsubscribed, even if it has another subscription now."""
        return self.get(subscription.room) is subscription

    async def add(self, rooms: Iterable[str]) -> None:
        """Subscribe to ``rooms`` and wait until all subscriptions are ready; raise ``Unavailable``."""
        waiters = []
        for room in rooms:
            channel = self._keys.channel(room).encode()
            if channel not in self.by_channel:
                self._connections.get(channel)  # raises if the server cannot be reached
                self.by_channel[channel] = Subscription(room)
                self._waiters[channel] = self._loop.create_future()
                self._change(channel, True)
            if (waiter := self._waiters.get(channel)) is not None:
                waiters.append(waiter)
        for waiter in waiters:
            await asyncio.shield(waiter)

    def remove(self, rooms: Iterable[str]) -> None:
        """Unsubscribe from ``rooms``. Nothing of them is reported from now on."""
        for room in rooms:
            channel = self._keys.channel(room).encode()
            subscription = self.by_channel.pop(channel, None)
            if subscription is not None:
                self._on_left(subscription)
                self._finish(channel, BrokerUnavailable("Unsubscribed meanwhile."))
                self._change(channel, False)

    def _change(self, channel: bytes, is_wanted: bool) -> None:
        if not self._changes:
            self._loop.call_soon(self._apply_changes)
        # The last change counts, in its position. After a leave and a join in one loop iteration, the subscription is
        # new and its state must be read.
        self._changes.pop(channel, None)
        self._changes[channel] = is_wanted

    def _apply_changes(self) -> None:
        changes, self._changes = self._changes, {}
        removed: dict[RedisConnection, list[bytes]] = {}
        added: dict[RedisConnection, list[bytes]] = {}
        for channel, is_wanted in changes.items():
            try:
                connection = self._connections.get(channel)
            except Unavailable as error:
                if is_wanted:
                    self._drop(channel, error)
                continue
            (added if is_wanted else removed).setdefault(connection, []).append(channel)
        command = "SUNSUBSCRIBE" if self._is_sharded else "UNSUBSCRIBE"
        for connection, channels in removed.items():
            packed = b"".join([pack((command, channel)) for channel in channels])
            connection.send_batch(packed, partial(self._on_confirmations, channels))
        for connection, channels in added.items():
            self._subscribe_all(connection, channels)

    # SUBSCRIBE and its replies.

    def _subscribe_all(self, connection: RedisConnection, channels: list[bytes]) -> None:
        for i in range(0, len(channels), _BATCH_SIZE):
            self._subscribe(connection, channels[i : i + _BATCH_SIZE])

    def _subscribe(self, connection: RedisConnection, channels: list[bytes]) -> None:
        """Subscribe to ``channels``, then read the states of their rooms, in one batch on one connection."""
        if self._is_sharded:
            parts = [pack(("SSUBSCRIBE", channel)) for channel in channels]
        else:
            parts = [pack(("SUBSCRIBE", *channels))]
        for channel in channels:
            subscription = self.by_channel.get(channel)
            epoch, offset = "", 0
            if subscription is not None:
                epoch, offset = subscription.epoch, subscription.last_offset
                subscription.secret = connection.generation + channel
                if not epoch and offset != UNKNOWN:
                    # The first event of the room may have been announced while the channel was not subscribed, and may
                    # be lost. Before the next event is delivered, the room is compared with its stream.
                    subscription.epoch = BEFORE_ALL
            args = (connection.generation, b"0", *self._stream.state_args(epoch, offset))
            parts.append(pack(("EVALSHA", ROOM_STATE.sha, 2, *self._keys.of_channel(channel), *args)))

        def on_replies(replies: Any) -> None:
            self._on_replies(connection, channels, replies)

        connection.send_batch(b"".join(parts), on_replies)
        self._read_journals(connection, channels)

    def _read_journals(self, connection: RedisConnection, channels: Iterable[bytes]) -> None:
        """Read the joins, leaves and statuses that were missed since a subscription was interrupted.

        Those that arrive before the reply are also part of it, because it comes on the same connection.
        """
        behind, parts = [], []
        for channel in channels:
            subscription = self.by_channel.get(channel)
            if subscription is None:
                continue
            milliseconds, number = subscription.announced
            if not milliseconds:  # none was received since the members were listed
                milliseconds, number = subscription.listed_at, -1
            if not milliseconds and not subscription.updated:
                continue
            subscription.is_behind = True
            behind.append((channel, subscription))
            parts.append(pack(("XRANGE", channel + b":j", f"{milliseconds}-{number + 1}", "+")))
            keys, since = self._keys.updates_of_channel(channel), subscription.updated or milliseconds * 1000
            parts.append(pack(("EVALSHA", UPDATES.sha, 2, *keys, since)))
        if behind:
            connection.send_batch(b"".join(parts), partial(self._on_journals, behind))

    def _on_journals(self, behind: list[tuple[bytes, Subscription]], replies: Any) -> None:
        if isinstance(replies, ReplyError) or len(replies) != 2 * len(behind):  # a reconnect follows
            return
        for (channel, subscription), entries, statuses in zip(behind, replies[::2], replies[1::2], strict=True):
            subscription.is_behind = False
            if self.by_channel.get(channel) is subscription and not isinstance(entries, ReplyError):
                found = [] if isinstance(statuses, ReplyError) else statuses
                self._on_journal(subscription, entries, found)

    def _on_replies(self, connection: RedisConnection, channels: list[bytes], replies: Any) -> None:
        states = [replies] if isinstance(replies, ReplyError) else replies
        if len(states) != len(channels):  # subscriptions were refused, or the connection was lost
            errors = [state for state in states if isinstance(state, ReplyError)]
            self._subscribe_failed(connection, channels, errors[0] if errors else ReplyError("ERR a reply is missing"))
            return
        failed: dict[str, tuple[ReplyError, list[bytes]]] = {}
        for channel, state in zip(channels, states, strict=True):
            subscription = self.by_channel.get(channel)
            if isinstance(state, ReplyError):
                failed.setdefault(state.code, (state, []))[1].append(channel)
                continue
            self._backoff.reset()
            if subscription is not None:
                self._on_state(subscription, state)
                self._finish(channel, None)
        for error, some in failed.values():
            if error.code in _RETRIED:
                self._subscribe_failed(connection, some, error)
            else:
                self._state_failed(some, error)

    def _state_failed(self, channels: list[bytes], error: ReplyError) -> None:
        """The keys of these rooms are invalid. New subscriptions fail; others are checked again as quiet rooms."""
        log.warning("The state of %d rooms (%s) cannot be read: %s", len(channels), channels[0].decode(), error)
        for channel in channels:
            self._drop(channel, BrokerUnavailable("The state of the room in Redis cannot be read; the log says why."))

    def _subscribe_failed(self, connection: RedisConnection, channels: list[bytes], error: ReplyError) -> None:
        """The server refused the channels, or was lost. New subscriptions fail; others are tried again."""
        if error.code == "NOSCRIPT":
            connection.send(pack(("SCRIPT", "LOAD", ROOM_STATE.text)), partial(self._on_loaded, connection, channels))
            return
        for channel in channels:
            self._drop(channel, BrokerUnavailable(f"Redis refused the subscription ({error.code}); try again."))
        if error.code != CONNECTION_LOST:
            self._router.refresh_soon()
            self._router.report_refusal()
            self._retry_later(channels, error)

    def _on_loaded(self, connection: RedisConnection, channels: list[bytes], reply: Any) -> None:
        """The server replied to SCRIPT LOAD. The waiters of ``channels`` still wait if it was accepted."""
        if isinstance(reply, ReplyError):
            self._subscribe_failed(connection, channels, reply)
        else:
            self._retry_later(channels)

    def _on_confirmations(self, channels: list[bytes], replies: Any) -> None:
        """Try ``channels`` again if the server refused to subscribe or unsubscribe them: pushes confirm the others."""
        if not isinstance(replies, ReplyError) and replies:  # without a connection there is no subscription
            self._retry_later(channels, replies[0])

    def _retry_later(self, channels: Iterable[bytes], error: ReplyError | None = None) -> None:
        """Subscribe or unsubscribe ``channels`` again after a pause. Log ``error`` if it is the first in this pause."""
        if not self._refused:
            self._loop.call_later(self._backoff.next_pause(), self._retry)
            if error is not None:
                log.warning("Redis refused to subscribe or unsubscribe; it is tried again: %s", error)
        self._refused.update(channels)

    def _retry(self) -> None:
        refused, self._refused = self._refused, set()
        if self._echo_channel in refused:
            refused.discard(self._echo_channel)
            with contextlib.suppress(Unavailable):  # otherwise it is subscribed when that server is connected
                self._subscribe_echo(self._connections.get(self._echo_channel))
        for channel in refused:
            self._change(channel, channel in self.by_channel)

    def _drop(self, channel: bytes, error: Unavailable) -> None:
        """End a subscription that is not ready yet. One that was ready before stays and is tried again later."""
        if channel in self._waiters:
            self.by_channel.pop(channel, None)
            self._finish(channel, error)
            self._change(channel, False)  # Redis may have subscribed the channel

    def _finish(self, channel: bytes, error: Unavailable | None) -> None:
        """Let ``add`` return, or raise ``error``."""
        waiter = self._waiters.pop(channel, None)
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
            waiter.exception()  # mark it as retrieved: perhaps no caller waits any more

    # Called by the connections.

    def on_slots_moved(self) -> None:
        """Subscribe to all rooms again: some may be on other servers now. Subscribing twice has no effect."""
        for channel in self.by_channel:
            self._change(channel, True)
        with contextlib.suppress(Unavailable):  # otherwise it is subscribed when that server is connected
            self._subscribe_echo(self._connections.get(self._echo_channel))

    def on_server_up(self, name: ServerName, connection: RedisConnection) -> None:
        """A server is connected: subscribe to all its rooms and read their states."""
        self._subscribe_all(
            connection, [channel for channel in self.by_channel if self._connections.is_on(channel, name)]
        )
        if self._connections.is_on(self._echo_channel, name):
            self._subscribe_echo(connection)

    def on_push(self, push: list[Any]) -> None:
        """Process a message or confirmation that a server pushed."""
        kind = push[0]
        if kind == b"message" or kind == b"smessage":
            subscription = self.by_channel.get(push[1])
            if subscription is not None:
                self._on_message(subscription, push[2])
            elif push[1] == self._echo_channel:
                self._on_own_message(push[2])
        elif kind == b"sunsubscribe" and push[1] in self.by_channel:  # the slot moved to another server
            self._router.refresh_soon()
            self._retry_later([push[1]])

    # This node's own channel.

    def _on_own_message(self, message: bytes) -> None:
        if message:
            with contextlib.suppress(Unavailable):  # the connection is being replaced
                secret = self._connections.get(self._echo_channel).generation + self._echo_channel
                self._on_told(secret, message)
        elif self._echo is not None and not self._echo.done():
            self._echo.set_result(None)

    def _subscribe_echo(self, connection: RedisConnection) -> None:
        packed = pack(("SUBSCRIBE", self._echo_channel))
        connection.send_batch(packed, partial(self._on_confirmations, [self._echo_channel]))

    async def echo(self) -> None:
        """Publish a message to this node and wait until it arrives."""
        if self._echo is None or self._echo.done():
            self._echo = self._loop.create_future()
        await self._router.call(self._echo_channel.decode(), "PUBLISH", self._echo_channel, b"")
        await asyncio.shield(self._echo)
