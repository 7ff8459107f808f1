"""One member's view of one room in a soak, over all its connections.

The offsets of a room are consecutive, so the ids alone show what is missing, repeated or out of order. A member may go
on in a newer epoch without notice only if no event was lost in between. It may be told of a loss only if there was one.
"""

from __future__ import annotations

import time

from soak_ledger import EventId, Ledger


class RoomView:
    """The events that ``actor`` has received in ``room``. Reports violations to the ledger.

    ``last`` is the newest event id that the member received, ``is_member`` is True while it is in the room.
    """

    def __init__(self, ledger: Ledger, actor: str, room: str) -> None:
        self._ledger = ledger
        self._actor = actor
        self.room = room
        self.last: EventId | None = None
        self.is_member = False
        #: The id that the latest join resumes from.
        self._since: EventId | None = None
        #: When the member last started over: it joined, or was told that it may have missed events.
        self._began = time.monotonic()
        #: The changes of the epoch without notice since then.
        self._crossed: list[tuple[EventId, EventId]] = []

    def resume_from(self) -> str | None:
        """Return the id for ``since`` of a join that is about to be sent."""
        self._since = self.last
        return None if self.last is None else str(self.last)

    def on_joined(self, recovered: bool, last_id: str) -> None:
        """Check a ``joined_room`` or ``connected`` frame."""
        last = EventId.parse(last_id)
        self.is_member = True
        self._note(f"joined {self.room} since {self._since}: recovered {recovered}, last {last}")
        if self._since is None:
            self._begin(last)
            return
        self._ledger.counts["resumes"] += 1
        if not recovered:
            self._ledger.counts["not recovered"] += 1
            self._restart("recovered: false", last)
            return
        self._ledger.counts["recovered"] += 1
        if self._since.epoch != last.epoch:
            self._ledger.counts["recovered in a newer epoch"] += 1
        if self._since > last or self._since.offset > last.offset:
            self._violate("missing", f"{self.room} recovered since {self._since}, though its last id is {last}")
        elif self._since.offset == last.offset:  # no event follows
            self._move(last)

    def on_resync(self, last_id: str) -> None:
        """Check a ``resync`` frame, which reports that events were lost."""
        self._ledger.counts["resync"] += 1
        self._note(f"resync of {self.room} from {self.last} to {last_id}")
        if not self.is_member:
            self._violate("foreign room", f"a resync of {self.room}, which it is not in")
        self._restart("resync", EventId.parse(last_id))

    def _restart(self, how: str, last: EventId) -> None:
        """Start over at ``last``, because events may be missing. There must be a reason."""
        before = self.last
        if before is not None and before > last:
            self._violate("out of order", f"{how} took {self.room} back from {before} to {last}")
        elif before is not None and not self._ledger.incidents(self.room, self._began):
            missed = last.offset - before.offset
            if missed < 0:
                self._violate("out of order", f"{how} took {self.room} back from {before} to {last}")
            elif missed <= self._ledger.history_size:
                self._violate("needless resync", f"{how} in {self.room} at {before}, though {last} is within history")
        self._begin(last)

    def _begin(self, last: EventId) -> None:
        self.last = last
        self._began = time.monotonic()
        self._crossed.clear()

    def _move(self, to: EventId) -> None:
        if self.last is not None and to.epoch != self.last.epoch:
            self._crossed.append((self.last, to))
        self.last = to

    def on_event(self, id: str, text: str) -> None:
        """Check an event: its offset must follow directly on the previous one."""
        event_id = EventId.parse(id)
        self._ledger.counts["delivered"] += 1
        last = self.last
        if not self.is_member or last is None:
            self._violate("foreign room", f"{event_id} {text!r} of {self.room}, which it is not in")
            return
        if event_id.offset <= last.offset and event_id.epoch <= last.epoch:
            self._violate("doubles", f"{event_id} {text!r} of {self.room} came after {last}")
        elif event_id.offset != last.offset + 1:
            self._violate("missing", f"{self.room} went from {last} to {event_id} {text!r}")
        elif event_id.epoch < last.epoch:
            self._violate("out of order", f"{event_id} {text!r} of {self.room} came after {last}")
        if not text.startswith(f"{self.room} "):
            self._violate("foreign room", f"{event_id} {text!r} came in {self.room}")
        if event_id > last:
            self._move(event_id)
        self._ledger.received(self.room, event_id, text, self._actor)

    def on_left(self, why: str) -> None:
        """Record that the member left the room, or that its connection ended."""
        if self.is_member:
            self._note(f"out of {self.room} at {self.last}: {why}")
        self.is_member = False

    def check_losses(self) -> None:
        """Check that each event that was lost while the member went on was reported to it. Called at rest."""
        for before, after in self._crossed:
            missed = self._ledger.missed(self.room, before, after)
            if missed is None:
                continue
            if any(incident.nodes_ended for incident in self._ledger.incidents(self.room, self._began)):
                self._ledger.counts["lost without notice, tolerated"] += 1
            else:
                what = f"{self.room} went from {before} to {after} without notice that {missed} was lost"
                self._violate("missing", what)

    def _note(self, what: str) -> None:
        self._ledger.note(self._actor, what)

    def _violate(self, kind: str, what: str) -> None:
        self._ledger.violate(kind, self._actor, what)
