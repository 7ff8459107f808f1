"""Receives events from Redis and passes them to the listener, in order and without gaps.

The stream is authoritative; pub/sub only announces events. If an announcement is missing, the event is fetched from the
stream (see ``gap_repair``). A room without announcements is compared with its stream when it is subscribed, after its
connection was lost, and every ``QUIET_CHECK_INTERVAL`` seconds.

Any program that may publish on the Redis can send messages on a room's channel. Announcements are therefore signed (see
``lua/room.lua``). Any other message changes nothing: the room is compared with its stream, in case it was an
announcement that did not arrive whole.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from hashlib import sha1
from typing import Any, Final

from ...errors import Unavailable
from ..base import Listener, UserId
from .broadcaster import SIGNATURE_SIZE, ReceivedBroadcasts
from .gap_repair import GapRepair
from .history import HistoryReader
from .keys import Keys
from .options import QUIET_CHECK_INTERVAL, RedisOptions
from .positions import KEPT_FOR, PositionReporter, RecentPositions
from .reconnect import OpenConnection
from .router import Router
from .stream import BEFORE_ALL, StreamReader
from .subscriptions import JournalEntries, Subscription, Subscriptions

log = logging.getLogger("roomcast.redis")

#: How announcements of joins, leaves and statuses begin.
_PRESENCE_SIGNS: Final = (b"+", b"-", b"~")
#: How messages begin that are not part of the stream.
_LIVE_SIGNS: Final = (*_PRESENCE_SIGNS, b"=")
#: Invalid messages are logged at most this often, in seconds.
_INVALID_LOG_INTERVAL: Final = 60.0
#: Rooms that lost events are collected for this long before they are logged, in seconds.
_LOSS_LOG_DELAY: Final = 1.0


class Receiver:
    """Receives the events of one node's subscribed rooms. ``node`` is the node's name in Redis.

    ``positions`` are what ``PositionReporter`` reports. For ``on_told`` see ``Subscriptions``.
    """

    def __init__(
        self,
        router: Router,
        keys: Keys,
        options: RedisOptions,
        open_connection: OpenConnection,
        listener: Listener,
        node: str,
        positions: RecentPositions,
        on_told: Callable[[bytes, bytes], None],
    ) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._listener: Final = listener
        self._positions: Final = positions
        self._loop: Final = asyncio.get_running_loop()
        self._stream: Final = StreamReader(router, keys, options)
        self.subscriptions: Final = Subscriptions(
            router,
            keys,
            open_connection,
            self._stream,
            node,
            self.on_message,
            self._on_state,
            self._on_journal,
            self._on_left,
            on_told,
        )
        self.repair: Final = GapRepair(self._stream, self, self.subscriptions.is_current)
        self._reporter: Final = PositionReporter(router, keys, self._stream, positions)
        self.history: Final = HistoryReader(self._stream, self.subscriptions, self.repair, self._reporter.seconds_left)
        self._recordings: Final = self.history.recordings
        #: The channels that remain to be checked in this round of quiet checks.
        self._to_check: deque[bytes] = deque()
        self._checker: asyncio.Task[None] | None = None
        self._lossy_rooms: dict[str, None] = {}
        #: The rooms whose state is being read; True if it must be read again after that.
        self._checks: Final[dict[Subscription, bool]] = {}
        self._broadcasts: Final = ReceivedBroadcasts()
        self._log_invalid_after = 0.0
        #: The number of invalid messages since the last log line about them.
        self._invalid_messages = 0
        router.on_server_return.append(self.repair.on_server_return)
        #: The number of resyncs, for the metrics.
        self.resyncs = 0
        #: Receives each status of a user: the room, the user, its stamp and its text.
        self.on_status: Callable[[str, UserId, int, str], None] = lambda *_: None

    # Lifecycle.

    async def start(self, wait: float) -> None:
        """Connect; raise ``Unavailable`` if that takes longer than ``wait`` seconds."""
        await self.subscriptions.start(wait)
        self._checker = asyncio.create_task(self._check_quiet_rooms(), name="roomcast redis quiet rooms")

    async def close(self) -> None:
        """Stop receiving."""
        if self._checker is not None:
            self._checker.cancel()
            await asyncio.wait([self._checker])
        await self._reporter.close()
        await self.repair.close()
        await self.subscriptions.close()

    # Events.

    def on_message(self, subscription: Subscription, message: bytes) -> None:
        """Process a message of a room's channel, or hold it back while a gap is repaired.

        A message is ``<epoch> <first offset> <messages> <length>...``, a newline, the payloads, and a signature of the
        first line. If a user joined or left, or set a status, the first line is ``+``, ``-`` or ``~`` with the id of
        the announcement, and the user, and there is no payload (see ``lua/presence.lua``). If a node broadcasts, it is
        ``=`` with more values (see ``broadcaster``). Those are not part of the stream, and never held back.
        """
        if subscription.pending is not None and not message.startswith(_LIVE_SIGNS):
            subscription.pending.append(message)
            return
        head, _, body = message.partition(b"\n")
        # SHA-1 is the only hash that scripts have. 0.5 us.
        digest = sha1(subscription.secret + head, usedforsecurity=False).hexdigest()
        if not body.endswith(digest[:SIGNATURE_SIZE].encode()):
            self._skip_invalid(subscription)
            return
        if head.startswith(_LIVE_SIGNS):
            if head.startswith(b"="):
                self._on_broadcast(subscription, head, body[:-SIGNATURE_SIZE])
            else:
                self._on_presence(subscription, head)
            return
        words = head.split(b" ")
        if len(body) - SIGNATURE_SIZE != (int(words[3]) if len(words) == 4 else sum(map(int, words[3:]))):
            self._skip_invalid(subscription)
            return
        epoch = words[0].decode()
        first = int(words[1])
        if epoch != subscription.epoch and not self._is_first_event(subscription, epoch, first, message):
            return
        expected = subscription.last_offset + 1
        if first > expected:
            subscription.pending = [message]
            self.repair.start(subscription)
        elif len(words) == 4:
            if first == expected:
                subscription.messages = int(words[2])
                self.deliver(subscription, first, body[:-SIGNATURE_SIZE])
        else:
            start = 0
            for offset, length in enumerate(map(int, words[3:]), first):
                if offset > subscription.last_offset:
                    self.deliver(subscription, offset, body[start : start + length])
                start += length
            if subscription.last_offset == first + len(words) - 4:  # not for an older message
                subscription.messages = int(words[2])

    def _is_first_event(self, subscription: Subscription, epoch: str, first: int, message: bytes) -> bool:
        """Return True if a message of another epoch than the subscription's contains the first event of its room.

        Otherwise skip the message, which is old, or compare the room with its stream if the epoch is newer: the server
        was replaced and may have lost events, or another node has found a loss.
        """
        number = int(epoch)
        if not subscription.epoch and first == 1:
            subscription.epoch = epoch
            return True
        if number > int(subscription.epoch or BEFORE_ALL):
            subscription.pending = [message]
            self.repair.start(subscription)
        return False

    def _on_broadcast(self, subscription: Subscription, head: bytes, body: bytes) -> None:
        """Pass broadcasts to the listener, unless the message is a repeat or was changed."""
        payloads = self._broadcasts.accept(subscription, head, body)
        if payloads is None:
            self._skip_invalid(subscription)
            return
        for payload in payloads:
            try:
                self._listener.on_broadcast(subscription.room, payload)
            except Exception:  # the messages after this one must be processed
                log.exception("A live event in room %s could not be delivered", subscription.room)

    def _on_presence(self, subscription: Subscription, head: bytes) -> None:
        """Pass an announcement of a join, a leave or a status to the listener, unless it was received before."""
        if subscription.is_behind:
            return
        if not head.startswith(b"~"):
            self._announce(subscription, head)
            return
        id, _, content = head[1:].partition(b" ")
        if int(id) > subscription.updated:
            subscription.updated = int(id)
            user_id, username, stamp, status, is_silent = json.loads(content)
            self._update(subscription.room, user_id, username, int(stamp), status, is_silent=is_silent)

    def _on_journal(self, subscription: Subscription, entries: JournalEntries, statuses: list[bytes]) -> None:
        """Pass the joins, leaves and statuses that were missed to the listener."""
        for id, (_, text) in entries:
            self._announce(subscription, text[:1] + id + text[1:])
        for id, user, value in zip(statuses[::3], statuses[1::3], statuses[2::3], strict=True):
            subscription.updated = max(subscription.updated, int(id))
            one = json.loads(value)
            self._update(subscription.room, json.loads(user), one["name"], int(one.get("t", 0)), one.get("s", ""))

    def _announce(self, subscription: Subscription, head: bytes) -> None:
        id, _, user = head[1:].partition(b" ")
        milliseconds, _, number = id.partition(b"-")
        position = (int(milliseconds), int(number))
        if position <= subscription.announced:
            return
        subscription.announced = position
        user_id, username = json.loads(user)
        try:
            self._listener.on_presence(subscription.room, user_id, username, head.startswith(b"+"))
        except Exception:  # the messages after this one must be processed
            log.exception("A join or leave in room %s could not be delivered", subscription.room)

    def _update(
        self, room: str, user_id: UserId, username: str, stamp: int, status: str, *, is_silent: bool = False
    ) -> None:
        """Pass a status to this node's presence, and to the listener unless it is only for the nodes."""
        try:
            self.on_status(room, user_id, stamp, status)
            if not is_silent:
                self._listener.on_status(room, user_id, username, status)
        except Exception:  # the messages after this one must be processed
            log.exception("A status in room %s could not be delivered", room)

    def on_listed(self, room: str, now: int) -> None:
        """Record that the members of ``room`` were listed at a time, in ms of the server.

        If no announcement was received before, and the connection breaks, those that are missed are read from then on.
        """
        subscription = self.subscriptions.get(room)
        if subscription is not None and not subscription.listed_at:
            subscription.listed_at = now

    def _skip_invalid(self, subscription: Subscription) -> None:
        """Compare the room with its stream, in case this was an announcement of an event."""
        self._invalid_messages += 1
        now = self._loop.time()
        if now > self._log_invalid_after:
            self._log_invalid_after = now + _INVALID_LOG_INTERVAL
            log.warning(
                "Channel %s received a message that was not sent by a node of this version, or not to this process of "
                "Redis; who else publishes? The room is read from its stream (such messages since the last line: %d)",
                self._keys.channel(subscription.room),
                self._invalid_messages,
            )
            self._invalid_messages = 0
        self.check(subscription)

    def deliver(self, subscription: Subscription, offset: int, payload: bytes) -> None:
        """Pass an event to the listener."""
        subscription.last_offset = offset
        subscription.is_active = True
        room = subscription.room
        if self._recordings and room in self._recordings:
            for recording in self._recordings[room]:
                recording.add(subscription.epoch, offset, payload)
        try:
            self._listener.on_event(room, f"{subscription.epoch}-{offset}", payload)
        except Exception:  # the events after this one must be delivered
            log.exception("An event in room %s could not be delivered", room)

    def report_loss(self, subscription: Subscription, epoch: str, offset: int) -> None:
        """Report to the listener that events up to ``offset`` of ``epoch`` can no longer be fetched."""
        subscription.epoch, subscription.last_offset = epoch, offset
        self._positions.record(subscription.room, f"{epoch}-{offset}".encode())  # the older one was lost
        for recording in self._recordings.get(subscription.room, ()):
            recording.has_lost_events = True
        if not self._lossy_rooms:
            self._loop.call_later(_LOSS_LOG_DELAY, self._log_losses)
        self._lossy_rooms[subscription.room] = None
        self.resyncs += 1
        self._listener.on_resync(subscription.room, f"{epoch}-{offset}")

    def _log_losses(self) -> None:
        rooms, self._lossy_rooms = list(self._lossy_rooms), {}
        examples = ", ".join(rooms[:3]) + (", …" if len(rooms) > 3 else "")
        log.warning("Redis has lost events of %d rooms (%s); their members received a resync", len(rooms), examples)

    # Checks of the state.

    def _on_state(self, subscription: Subscription, state: list[bytes] | None) -> None:
        self.repair.on_state(subscription, state)

    def _on_left(self, subscription: Subscription) -> None:
        """Keep the position in a room that this node leaves, because its members may return on other nodes."""
        self._broadcasts.forget(subscription)
        if subscription.last_offset > 0:
            self._positions.record(subscription.room, f"{subscription.epoch}-{subscription.last_offset}".encode())

    async def _check_quiet_rooms(self) -> None:
        """Check each room without events once per ``QUIET_CHECK_INTERVAL``, some of them each second."""
        seconds = 0
        while True:
            await asyncio.sleep(1.0)
            if not self._router.problems():
                seconds += 1
                if seconds % int(KEPT_FOR) == 0:
                    self._positions.rotate()
            by_channel = self.subscriptions.by_channel
            if not self._to_check:
                self._to_check = deque(by_channel)
            for _ in range(min(len(self._to_check), len(by_channel) // int(QUIET_CHECK_INTERVAL) + 1)):
                subscription = by_channel.get(self._to_check.popleft())
                if subscription is None:
                    continue
                if subscription.pending is None and not subscription.is_active:
                    self.check(subscription)
                subscription.is_active = False

    def check(self, subscription: Subscription) -> None:
        """Compare a subscription with the state of its room, as soon as Redis replies.

        If that is running already, it is done once more afterwards, because an event may have come in between.
        """
        if subscription in self._checks:
            self._checks[subscription] = True
            return
        try:
            reply = self._stream.read_state(subscription.room, subscription.epoch, subscription.last_offset)
        except Unavailable:
            return
        self._checks[subscription] = False
        reply.add_done_callback(partial(self._on_checked, subscription))

    def _on_checked(self, subscription: Subscription, reply: asyncio.Future[Any]) -> None:
        must_repeat = self._checks.pop(subscription)
        if reply.cancelled() or reply.exception() is not None or not self.subscriptions.is_current(subscription):
            return
        self.repair.on_state(subscription, reply.result())
        if must_repeat:
            self.check(subscription)
