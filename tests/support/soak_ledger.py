"""Records what a soak run publishes and delivers, and checks the guarantees.

The offsets of a room are consecutive, so one member's events alone show what is missing, repeated or out of order. The
ledger also compares the members with each other and with the replies to publishers. It checks four guarantees: no event
is lost without notice, none is delivered twice, all members see one order, and no member gets events of another room.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

#: Notes kept in memory, and how many of them are printed with a violation.
NOTES_KEPT = 20_000
NOTES_PRINTED = 14
#: Epochs kept for each room.
EPOCHS_KEPT = 4
NEMESIS = "nemesis"


class EventId(NamedTuple):
    """An event id, ``<epoch>-<offset>``. Ids of one room sort in the order of its events."""

    epoch: int
    offset: int

    @classmethod
    def parse(cls, id: str) -> EventId:
        """Parse the text form."""
        epoch, _, offset = id.rpartition("-")
        return cls(int(epoch), int(offset))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"


class Epoch:
    """One epoch of a room: the text at each offset, the acknowledged offsets, and those that no member received."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.offsets: dict[str, int] = {}
        self.acknowledged: set[int] = set()
        self.unseen: set[int] = set()
        self.floor = 0

    @property
    def lost(self) -> int:
        """Return the number of acknowledged events that no member received."""
        return len(self.acknowledged & self.unseen)

    def prune(self, keep: int) -> None:
        """Drop events that are too old to be delivered again. A soak may run for days."""
        if len(self.texts) < 4 * keep:
            return
        self.floor = max(self.texts) - 2 * keep
        for offset in [offset for offset in self.texts if offset < self.floor]:
            text = self.texts.pop(offset)
            if self.offsets.get(text) == offset:
                del self.offsets[text]
            self.acknowledged.discard(offset)


class Ledger:
    """Collects ``counts`` by name, and ``violations`` as sentences.

    ``history_size`` is the nodes' HISTORY_SIZE. In each method, ``actor`` is the name of the client, node or fault
    injector that the entry is about.
    """

    def __init__(self, history_size: int) -> None:
        self.history_size = history_size
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._started = time.monotonic()
        self._notes: deque[tuple[float, str, str]] = deque(maxlen=NOTES_KEPT)
        self._rooms: dict[str, dict[int, Epoch]] = {}
        #: The number of epochs of all rooms so far, and the events lost in epochs that were dropped since.
        self.epochs = 0
        self._lost_before = 0

    def note(self, actor: str, what: str) -> None:
        """Record something that may explain a later violation."""
        self._notes.append((time.monotonic() - self._started, actor, what))

    def violate(self, kind: str, actor: str, what: str) -> None:
        """Record a violation, counted by ``kind``, with the notes that preceded it."""
        self.counts[kind] += 1
        self.note(actor, f"VIOLATION: {what}")
        related = [entry for entry in self._notes if entry[1] in (actor, NEMESIS)][-NOTES_PRINTED:]
        lines = [f"    {at:8.3f} s  {by}: {text}" for at, by, text in related]
        self.violations.append("\n".join([f"{actor}: {what}", *lines]))

    def acknowledged(self, room: str, id: str, text: str, actor: str) -> None:
        """Record a reply to a publisher: ``text`` has the ``id`` in ``room``."""
        self.counts["acknowledged"] += 1
        event_id = EventId.parse(id)
        epoch = self._record(room, event_id, text, actor)
        epoch.acknowledged.add(event_id.offset)

    def received(self, room: str, event_id: EventId, text: str, actor: str) -> None:
        """Record that a member received ``text`` as ``event_id`` of ``room``."""
        epoch = self._record(room, event_id, text, actor)
        epoch.unseen.discard(event_id.offset)

    def _record(self, room: str, event_id: EventId, text: str, actor: str) -> Epoch:
        epochs = self._rooms.setdefault(room, {})
        epoch = epochs.get(event_id.epoch)
        if epoch is None:
            epoch = epochs[event_id.epoch] = Epoch()
            self.epochs += 1
            if len(epochs) > EPOCHS_KEPT:
                self._lost_before += epochs.pop(min(epochs)).lost
        if event_id.offset < epoch.floor:
            return epoch
        known = epoch.texts.get(event_id.offset)
        if known is None:
            self._record_new(epoch, room, event_id, text, actor)
        elif known != text:
            self.violate("two events of one id", actor, f"{room} {event_id} is {text!r}, but was {known!r} before")
        return epoch

    def _record_new(self, epoch: Epoch, room: str, event_id: EventId, text: str, actor: str) -> None:
        epoch.texts[event_id.offset] = text
        epoch.unseen.add(event_id.offset)
        if text.startswith(f"{room} "):  # published by a client, not user_joined or user_left
            before = epoch.offsets.setdefault(text, event_id.offset)
            if before != event_id.offset:
                both = f"{event_id.epoch}-{before} and as {event_id}"
                self.violate("published twice", actor, f"{text!r} is in {room} as {both}")
        epoch.prune(self.history_size)

    def check_history(self, room: str, node: str, events: list[dict[str, Any]], last_id: str) -> None:
        """Compare a quiet room's history, as ``node`` returned it, with what was acknowledged and delivered."""
        last = EventId.parse(last_id)
        epochs = self._rooms.get(room, {})
        if epochs and max(epochs) > last.epoch:
            self.violate("missing", node, f"the last id of {room} is {last}, but it has been in epoch {max(epochs)}")
            return
        ids = [EventId.parse(event["id"]) for event in events]
        first = last.offset - len(ids) + 1
        if ids != [EventId(last.epoch, offset) for offset in range(first, last.offset + 1)]:
            self.violate("out of order", node, f"the history of {room} is not consecutive up to {last}: {ids}")
        for event_id, event in zip(ids, events, strict=True):
            self._record(room, event_id, text_of(event), node)
        kept = {event_id.offset for event_id in ids}
        epoch = epochs.get(last.epoch, Epoch())
        horizon = last.offset - self.history_size
        missing = sorted(offset for offset in epoch.acknowledged if offset > horizon and offset not in kept)
        if missing:
            self.violate("missing", node, f"acknowledged in {room}, epoch {last.epoch}, but not in history: {missing}")

    def lost(self) -> int:
        """Return the number of acknowledged events whose epoch ended before any member received them."""
        old = (epochs[number] for epochs in self._rooms.values() for number in epochs if number != max(epochs))
        return self._lost_before + sum(epoch.lost for epoch in old)


def text_of(event: dict[str, Any]) -> str:
    """Return a text that identifies an event: the text from the publisher, or the type with the user's name."""
    data = event["data"]
    if event["type"] == "message":
        return str(data["content"])
    return str(data["message"]) if event["type"] == "notification.new" else f"{event['type']} {data['username']}"


class RoomView:
    """One member's view of one room over all its connections. Reports violations to the ledger.

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
            self.last = last
            return
        self._ledger.counts["resumes"] += 1
        if not recovered:
            self._ledger.counts["not recovered"] += 1
            self._restart("recovered: false", last)
            return
        self._ledger.counts["recovered"] += 1
        if self._since.epoch != last.epoch or self._since > last:
            self._violate("missing", f"{self.room} recovered since {self._since}, though its last id is {last}")

    def on_resync(self, last_id: str) -> None:
        """Check a ``resync`` frame, which reports that events were lost."""
        self._ledger.counts["resync"] += 1
        self._note(f"resync of {self.room} from {self.last} to {last_id}")
        if not self.is_member:
            self._violate("foreign room", f"a resync of {self.room}, which it is not in")
        self._restart("resync", EventId.parse(last_id))

    def _restart(self, how: str, last: EventId) -> None:
        before = self.last
        if before is not None and before.epoch > last.epoch:
            self._violate("out of order", f"{how} took {self.room} back from {before} to {last}")
        elif before is not None and before.epoch == last.epoch:
            missed = last.offset - before.offset
            if missed < 0:
                self._violate("out of order", f"{how} took {self.room} back from {before} to {last}")
            elif missed <= self._ledger.history_size:
                self._violate("needless resync", f"{how} in {self.room} at {before}, though {last} is within history")
        self.last = last

    def on_event(self, id: str, text: str) -> None:
        """Check an event: its id must follow directly on the previous one."""
        event_id = EventId.parse(id)
        self._ledger.counts["delivered"] += 1
        if not self.is_member or self.last is None:
            self._violate("foreign room", f"{event_id} {text!r} of {self.room}, which it is not in")
            return
        if event_id.epoch != self.last.epoch:
            self._violate("missing", f"{self.room} went from {self.last} to {event_id} {text!r} without a resync")
        elif event_id.offset <= self.last.offset:
            self._violate("doubles", f"{event_id} {text!r} of {self.room} came after {self.last}")
        elif event_id.offset > self.last.offset + 1:
            self._violate("missing", f"{self.room} went from {self.last} to {event_id} {text!r}")
        if not text.startswith((f"{self.room} ", "user_joined ", "user_left ")):
            self._violate("foreign room", f"{event_id} {text!r} came in {self.room}")
        self.last = max(self.last, event_id)
        self._ledger.received(self.room, event_id, text, self._actor)

    def on_left(self, why: str) -> None:
        """Record that the member left the room, or that its connection ended."""
        if self.is_member:
            self._note(f"out of {self.room} at {self.last}: {why}")
        self.is_member = False

    def _note(self, what: str) -> None:
        self._ledger.note(self._actor, what)

    def _violate(self, kind: str, what: str) -> None:
        self._ledger.violate(kind, self._actor, what)


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Format two columns."""
    return "\n".join(f"  {name:<44}{value!s:>12}" for name, value in rows)
