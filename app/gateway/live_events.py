"""Send events that are not stored: the throttle, and what is sent when their users leave.

The state of a user in a room is kept only while it is needed: for ``throttle`` seconds after an event, and while the
user is in the room if the last event differs from the event's ``leave``.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from marshmallow import Schema

from ..errors import Unavailable
from ..live_event import LivePublication
from ..protocol import messages
from .client import Client
from .delivery import CROWD
from .node import Node

log = logging.getLogger("roomcast")

#: How many bytes the states of a node may take, as ``_cost`` estimates. Beyond that, the oldest states are dropped.
MAX_STATE_BYTES: Final = 16 * 2**20
#: What a state takes in addition to the payloads of its events, in bytes.
_STATE_COST: Final = 1000
#: Throttled events are sent at multiples of this time, in seconds, so that one timer call sends many of them.
_GRANULARITY: Final = 0.025
#: How many entries of dropped states the heap may have in addition to those of current states.
_SPARE_ENTRIES: Final = 1000
#: For how long an event may wait in a large room, in seconds: twice the longest delay of ``live_delivery``.
_OVERTAKEN: Final = 0.5

#: A room, a type of events, and the user's id, or the name of the sender in a tuple.
StateKey = tuple[str, str, "int | str | tuple[str | None]"]


class _State:
    """The state of one user, room and type of events.

    ``last`` is the last event that was sent, if it is to be followed by another one when the user leaves. ``waiting``
    is the newest event that was throttled. ``is_throttled`` is True until the next event may be sent. ``sent_at`` is
    the loop time of the last event.
    """

    __slots__ = ("cost", "is_throttled", "last", "sent_at", "waiting")

    def __init__(self) -> None:
        self.last: LivePublication | None = None
        self.waiting: LivePublication | None = None
        self.is_throttled = False
        self.sent_at = 0.0
        self.cost = 0


class _Due(NamedTuple):
    """When a throttle ends. ``number`` makes entries comparable."""

    at: float
    number: int
    key: StateKey
    state: _State


class LiveEvents:
    """Sends the events of plugins, clients and the HTTP API that are not stored."""

    def __init__(self, node: Node) -> None:
        self._loop: Final = node.loop
        self._broker: Final = node.broker
        self._registry: Final = node.registry
        self._delivery: Final = node.delivery
        self._kept_types: Final = [
            event.type for event in node.registry.events.values() if event.live is not None and event.live.keeps_state
        ]
        #: What is kept of users' last events, the oldest first.
        self.states: Final[dict[StateKey, _State]] = {}
        self._bytes = 0
        #: A heap. Entries whose state was dropped stay until they are due, or until they are more than half.
        self._due: list[_Due] = []
        self._numbers: Final = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def send(self, publication: LivePublication) -> None:
        """Send an event now, or at the end of its throttle if no newer one replaces it until then.

        Raises ``Unavailable`` if the broker cannot be reached now.
        """
        options = publication.options
        if not options.keeps_state:
            self._broadcast(publication)
            return
        key = _key(publication)
        state = self.states.get(key)
        if state is not None and state.is_throttled:
            state.waiting = publication
            self._charge(state)
            return
        self._broadcast(publication)
        if state is None:
            state = self.states[key] = _State()
        self._sent(key, state, publication)

    def withdraw(self, event: str | type[Schema], room: str, user_id: int | str) -> None:
        """Drop the user's throttled event, and send none when the user leaves. Raises ``InvalidEvent``."""
        key = (room, self._registry.live_event(event).type, user_id)
        state = self.states.get(key)
        if state is not None:
            self._overtake(state)
            state.last = state.waiting = None
            if state.is_throttled:
                self._charge(state)
            else:
                self._drop(key)

    def _overtake(self, state: _State) -> None:
        """Send the last event with ``leave`` if it may still wait in a large room, where it is replaced then.

        Otherwise it could arrive after the stored event that ends it.
        """
        last = state.last
        if last is None or last.options.leave is None or self._loop.time() - state.sent_at > _OVERTAKEN:
            return
        entry = self._delivery.rooms.get(last.room)
        if entry is not None and len(entry.members) >= CROWD:
            self._send_again(last, last.options.leave)

    def left(self, client: Client, room: str) -> None:
        """Send the last events of the client's user again, with ``leave``, if no connection of the user is left.

        Only connections of this node count. Call this when ``client`` is not a member of ``room`` any more.
        """
        if not self.states:
            return
        user_id = client.identity.user_id
        keys = [key for type in self._kept_types if (key := (room, type, user_id)) in self.states]
        if not keys or self._has_other_connection(client, room):
            return
        for key in keys:
            last = self.states[key].last
            self._drop(key)
            if last is not None and last.options.leave is not None:
                self._send_again(last, last.options.leave)

    def _has_other_connection(self, client: Client, room: str) -> bool:
        connections = self._delivery.personal.get(client.personal_room, ())
        return any(one is not client and self._delivery.has(room, one) for one in connections)

    def _send_again(self, last: LivePublication, leave: Mapping[str, Any]) -> None:
        event = orjson.loads(last.payload)
        payload = messages.event(last.type, event.get("room"), {**event["data"], **leave}, last.sender)
        try:
            self._broadcast(last._replace(payload=payload))
        except Unavailable as error:
            log.debug("%s of a user who left %s was not sent: %s", last.type, last.room, error.detail)

    def _broadcast(self, publication: LivePublication) -> None:
        self._broker.broadcast(publication.room, encode(publication))

    # State.

    def _sent(self, key: StateKey, state: _State, publication: LivePublication) -> None:
        """Keep what is needed after ``publication`` was sent."""
        options = publication.options
        leaves = publication.is_member and options.leave is not None
        is_ended = not leaves or options.ends(orjson.loads(publication.payload)["data"])
        state.last = None if is_ended else publication
        state.waiting = None
        state.sent_at = self._loop.time()
        if options.throttle:
            state.is_throttled = True
            at = math.ceil((state.sent_at + options.throttle) / _GRANULARITY) * _GRANULARITY
            if len(self._due) > 2 * len(self.states) + _SPARE_ENTRIES:
                self._due = [entry for entry in self._due if self.states.get(entry.key) is entry.state]
                heapq.heapify(self._due)
            heapq.heappush(self._due, _Due(at, next(self._numbers), key, state))
            self._set_timer()
        elif state.last is None:
            self._drop(key)
            return
        self._charge(state)

    def _charge(self, state: _State) -> None:
        """Update the bytes of ``state``; drop the oldest states above the limit."""
        cost = _STATE_COST + sum(len(one.payload) for one in (state.last, state.waiting) if one)
        self._bytes += cost - state.cost
        state.cost = cost
        while self._bytes > MAX_STATE_BYTES:
            self._drop(next(iter(self.states)))

    def _drop(self, key: StateKey) -> None:
        state = self.states.pop(key)
        self._bytes -= state.cost
        state.last = state.waiting = None  # the heap may still refer to the state

    # Throttle.

    def _set_timer(self) -> None:
        if self._due and self._due[0].at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._due[0].at
            self._timer = self._loop.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._loop.time()
        while self._due and self._due[0].at <= now:
            _, _, key, state = heapq.heappop(self._due)
            if self.states.get(key) is state:
                self._end_throttle(key, state)
        self._set_timer()

    def _end_throttle(self, key: StateKey, state: _State) -> None:
        """Send the event that waits, or drop the state if it is not needed."""
        state.is_throttled = False
        waiting = state.waiting
        if waiting is not None:
            try:
                self._broadcast(waiting)
            except Unavailable as error:
                log.debug("%s in %s was not sent: %s", waiting.type, waiting.room, error.detail)
            self._sent(key, state, waiting)
        elif state.last is None:
            self._drop(key)


def _key(publication: LivePublication) -> StateKey:
    user_id = publication.user_id
    return publication.room, publication.type, (publication.sender,) if user_id is None else user_id


def encode(publication: LivePublication) -> bytes:
    """Return the message for ``Broker.broadcast``: a line for ``live_delivery``, and the event.

    The line is a JSON list: the user's id or null, the sender's name if there is no id, the type if the event is
    conflated, and true if the user's own connections do not receive it.
    """
    options, user_id = publication.options, publication.user_id
    sender = publication.sender if user_id is None else None
    head = orjson.dumps([user_id, sender, publication.type if options.conflate else None, options.others_only])
    return head + b"\n" + publication.payload
