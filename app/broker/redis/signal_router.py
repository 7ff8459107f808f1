"""Signals, which are the events of a room that clients cannot name."""

from __future__ import annotations

from typing import Final

from ..base import Listener
from .keys import SIGNALS


class SignalRouter:
    """Passes everything to the node's listener, and events of the room ``SIGNALS`` as signals."""

    def __init__(self, listener: Listener) -> None:
        self._listener: Final = listener
        self.on_presence: Final = listener.on_presence
        self.on_membership: Final = listener.on_membership
        self.on_published: Final = listener.on_published
        self.on_status: Final = listener.on_status
        self.on_signal: Final = listener.on_signal
        self.on_broadcast: Final = listener.on_broadcast
        self.on_question: Final = listener.on_question
        self.wait_for_members: Final = listener.wait_for_members
        self.on_signals_lost: Final = listener.on_signals_lost

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """See ``Listener``."""
        if room == SIGNALS:
            self._listener.on_signal(payload)
        else:
            self._listener.on_event(room, id, payload)

    def on_resync(self, room: str, last_id: str) -> None:
        """See ``Listener``."""
        if room == SIGNALS:
            self._listener.on_signals_lost()
        else:
            self._listener.on_resync(room, last_id)
