"""Receives events, signals, joins and leaves from the broker, and passes them to the parts of the gateway."""

from __future__ import annotations

import asyncio
from typing import Final

from ..broker.base import UserId
from ..fastpath import encode_event_frame
from ..protocol import frames, messages
from .direct_events import DIRECT, DirectEvents
from .hooks import Hooks
from .live_delivery import LiveDelivery
from .node import Node
from .presence import Presence
from .signals import Signals
from .unread import MARK, Unread
from .user_status import UserStatuses

#: How long a publisher waits for members that are behind, in seconds, for each slice of events of the embedded broker
#: (40 KiB, or about 200 small events): if most members of the room are behind, and if fewer are.
WAIT_FOR_MOST: Final = 0.1
WAIT_FOR_FEW: Final = 0.025
_POLL_INTERVAL: Final = 0.001


class BrokerListener:
    """The gateway's implementation of ``broker.base.Listener``."""

    def __init__(
        self,
        node: Node,
        presence: Presence,
        signals: Signals,
        user_status: UserStatuses,
        unread: Unread,
        direct_events: DirectEvents,
        hooks: Hooks,
    ) -> None:
        self._loop: Final = node.loop
        self._delivery: Final = node.delivery
        self._counters: Final = node.counters
        self._live_delivery: Final = LiveDelivery(node.loop, node.delivery, node.counters)
        self._presence: Final = presence
        self._unread: Final = unread
        self._direct_events: Final = direct_events
        self.on_membership: Final = hooks.member_changed
        self.on_published: Final = hooks.published
        self.on_signal: Final = signals.received
        self.on_signals_lost: Final = signals.lost
        self.on_question: Final = user_status.answer

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Deliver an event to the room's members on this node."""
        self._counters.events += 1
        self._delivery.deliver(room, encode_event_frame(payload, id))

    def on_presence(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        """Send the room's members on this node the join or leave of a user."""
        self._counters.events += 1
        self._presence.announce(room, user_id, username, has_joined)

    def on_broadcast(self, room: str, payload: bytes) -> None:
        """Send the room's members on this node an event that is not stored, or connections of a user an event or mark.

        A payload that is only JSON is sent to all of them. ``LiveDelivery`` delivers the events of plugins.
        """
        if payload.startswith(b"{"):
            self._delivery.deliver_later(room, frames.text(payload))
        elif payload.startswith(DIRECT):
            self._direct_events.on_broadcast(room, payload)
        elif payload.startswith(MARK):
            self._unread.on_broadcast(room, payload)
        else:
            self._counters.events += 1
            self._live_delivery.receive(room, payload)

    def on_status(self, room: str, user_id: UserId, username: str, status: str) -> None:
        """Send the room's members on this node the new status of a user."""
        self._counters.events += 1
        self._presence.announce_status(room, user_id, username, status)

    async def wait_for_members(self, room: str) -> None:
        """Let other coroutines run, and wait a moment while members of ``room`` are behind: back-pressure.

        A member is behind while the kernel accepts no more bytes for it. A publisher that never waits overflows the
        buffers of all members, and they are closed with 1013, even if they read as fast as they can. With the wait, the
        publisher keeps the pace of the members.

        The wait is bounded, so that no slow reader can hold up a publisher: it publishes at least 8,000 small events or
        1.6 MB a second. A member that reads more slowly is closed after about a second, as it would be without the
        wait, unless most members are that slow. Publishers in other rooms do not wait for this member.
        """
        begun = self._loop.time()
        await asyncio.sleep(0)  # the events are written now, or in slices
        while self._delivery.is_writing and self._loop.time() - begun < WAIT_FOR_MOST:  # noqa: ASYNC110
            await asyncio.sleep(0)
        while behind := self._delivery.share_behind(room):
            if self._loop.time() - begun >= (WAIT_FOR_MOST if behind > 0.5 else WAIT_FOR_FEW):
                return
            await asyncio.sleep(_POLL_INTERVAL)

    def on_resync(self, room: str, last_id: str) -> None:
        """Send ``resync`` to the room's members: events were lost. ``last_id`` is the id of the room's newest event."""
        shown = None if room.startswith("user:") else room
        self._delivery.deliver(room, frames.text(messages.resync(shown, last_id)))
