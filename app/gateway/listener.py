"""Receives events, signals and lost members from the broker, and passes them to the parts of the gateway."""

from __future__ import annotations

from typing import Final

from ..broker.base import Member
from ..fastpath import encode_event_frame
from ..protocol import frames, messages
from .node import Node
from .presence import Presence
from .signals import Signals

#: The beginning of the payloads of user_joined and user_left.
_PRESENCE_PREFIX: Final = b'{"type":"user_'


class BrokerListener:
    """The gateway's implementation of ``broker.base.Listener``."""

    def __init__(self, node: Node, presence: Presence, signals: Signals) -> None:
        self._delivery: Final = node.delivery
        self._tasks: Final = node.tasks
        self._counters: Final = node.counters
        self._presence: Final = presence
        self.on_signal: Final = signals.received
        self.on_signals_lost: Final = signals.lost

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Deliver an event to the room's members on this node. Joins and leaves may be delayed in a large room."""
        self._counters.events += 1
        frame = encode_event_frame(payload, id)
        if payload.startswith(_PRESENCE_PREFIX):
            self._delivery.deliver_later(room, frame)
        else:
            self._delivery.deliver(room, frame)

    def on_resync(self, room: str, last_id: str) -> None:
        """Send ``resync`` to the room's members: events were lost. ``last_id`` is the id of the room's newest event."""
        shown = None if room.startswith("user:") else room
        self._delivery.deliver(room, frames.text(messages.resync(shown, last_id)))

    def on_member_lost(self, room: str, member: Member, users: int) -> None:
        """Announce that a user whose node died has left."""
        self._tasks.spawn(self._presence.member_lost(room, member, users))

    def on_member_returned(self, room: str, member: Member, users: int) -> None:
        """Announce that a user of this node, whom another node announced as gone, is in the room."""
        self._tasks.spawn(self._presence.member_returned(room, member, users))
