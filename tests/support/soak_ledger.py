"""Records what a soak run publishes, delivers and loses, and checks the guarantees that concern several members.

What a member receives is compared with the other members, with the replies to publishers, and with the data that Redis
has lost according to its files. ``soak_room_view`` checks the events of one member.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

#: Notes kept in memory, and how many of them are printed with a violation.
NOTES_KEPT = 20_000
NOTES_PRINTED = 14
#: Epochs kept for each room.
EPOCHS_KEPT = 8
#: How long after Redis and all nodes are back a loss may be reported for the first time, in seconds.
REPORT_TIME = 5.0
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


class Incident:
    """A loss of data. ``at`` is the time of the loss.

    All nodes have reported what they have seen until ``reported_by``. If ``nodes_ended`` is True, a node ended at about
    the same time, so that perhaps no node is left that has seen the lost events.
    """

    def __init__(self, at: float) -> None:
        self.at = at
        self.reported_by = math.inf
        self.nodes_ended = False


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
        #: By room and epoch: the newest offset that was acknowledged or delivered.
        self._newest: dict[str, dict[int, int]] = {}
        self._incidents: dict[str, list[Incident]] = {}
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

    # Losses

    def lost_data(self, rooms: Iterable[str]) -> Incident:
        """Record that Redis has lost data of ``rooms``."""
        incident = Incident(time.monotonic())
        for room in rooms:
            self._incidents.setdefault(room, []).append(incident)
            self.counts["rooms that lost data"] += 1
        return incident

    def incidents(self, room: str, since: float) -> list[Incident]:
        """Return the losses of ``room`` that a member may be told of that has its position since a time."""
        now = time.monotonic()
        return [one for one in self._incidents.get(room, ()) if one.at >= since or now < one.reported_by]

    def missed(self, room: str, before: EventId, after: EventId) -> EventId | None:
        """Return an acknowledged or delivered event between two positions in different epochs, or None."""
        for epoch, offset in self._newest.get(room, {}).items():
            if (epoch == before.epoch and offset > before.offset) or before.epoch < epoch < after.epoch:
                return EventId(epoch, offset)
        return None

    def _record(self, room: str, event_id: EventId, text: str, actor: str) -> Epoch:
        newest = self._newest.setdefault(room, {})
        newest[event_id.epoch] = max(newest.get(event_id.epoch, 0), event_id.offset)
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
        offsets = list(range(last.offset - len(ids) + 1, last.offset + 1))
        if [id.offset for id in ids] != offsets or ids != sorted(ids) or (ids and ids[-1].epoch > last.epoch):
            self.violate("out of order", node, f"the history of {room} is not consecutive up to {last}: {ids}")
        for event_id, event in zip(ids, events, strict=True):
            self._record(room, event_id, text_of(event), node)
        texts = Counter(text for text in map(text_of, events) if text.startswith(f"{room} "))
        if repeated := [text for text, count in texts.items() if count > 1]:
            self.violate("published twice", node, f"the history of {room} contains {repeated} more than once")
        # Older epochs end where Redis has lost data, unless it never did.
        has_lost = bool(self._incidents.get(room))
        horizon = last.offset - self.history_size
        missing = sorted(
            EventId(number, offset)
            for number, epoch in epochs.items()
            if number == last.epoch or not has_lost
            for offset in epoch.acknowledged
            if offset > horizon
        )
        if missing := [id for id in missing if id not in ids]:
            self.violate("missing", node, f"acknowledged in {room}, but not in its history: {missing}")

    def is_at(self, room: str, position: EventId, last: EventId) -> bool:
        """Return True if a member at ``position`` has received the event ``last``, the newest one of ``room``.

        An epoch may have no event yet, and a room without events has no epoch.
        """
        if position == last or position.offset == last.offset == 0:
            return True
        return position.offset == last.offset and last.epoch not in self._newest.get(room, {})

    def lost(self) -> int:
        """Return the number of acknowledged events whose epoch ended before any member received them."""
        old = (epochs[number] for epochs in self._rooms.values() for number in epochs if number != max(epochs))
        return self._lost_before + sum(epoch.lost for epoch in old)


def text_of(event: dict[str, Any]) -> str:
    """Return the text from the publisher of an event, which identifies it."""
    return str(event["data"]["content" if event["type"] == "message" else "message"])


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Format two columns."""
    return "\n".join(f"  {name:<44}{value!s:>12}" for name, value in rows)
