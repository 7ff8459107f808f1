"""What a soak has seen, and what must hold of it: nothing lost unsaid, nothing twice, one order, no foreign room.

Offsets of a room are consecutive, so each member's own view shows at once what is missing, doubled or out of order. The
ledger holds the views against each other and against what publishers were promised.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

#: Happenings remembered, for telling what led to a violation; and how many of them are told with one.
REMEMBERED = 20_000
TOLD = 14
#: Epochs of a room that are kept.
KEPT = 4
NEMESIS = "nemesis"


class Place(NamedTuple):
    """An event's id, ``<epoch>-<offset>``, which orders as the events of a room do."""

    epoch: int
    offset: int

    @classmethod
    def of(cls, id: str) -> Place:
        epoch, _, offset = id.rpartition("-")
        return cls(int(epoch), int(offset))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"


class Epoch:
    """What is known of one epoch of a room: what each offset carries, which were acknowledged, which no member saw."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.offsets: dict[str, int] = {}
        self.acknowledged: set[int] = set()
        self.unseen: set[int] = set()
        self.floor = 0

    @property
    def lost(self) -> int:
        """How many acknowledged events no member has seen."""
        return len(self.acknowledged & self.unseen)

    def prune(self, keep: int) -> None:
        """Forget what is so old that nobody can be told of it any more: a soak may run for days."""
        if len(self.texts) < 4 * keep:
            return
        self.floor = max(self.texts) - 2 * keep
        for offset in [offset for offset in self.texts if offset < self.floor]:
            text = self.texts.pop(offset)
            if self.offsets.get(text) == offset:
                del self.offsets[text]
            self.acknowledged.discard(offset)


class Ledger:
    """All that happened: ``counts``, and ``violations`` as sentences. ``history_size`` is the nodes' HISTORY_SIZE."""

    def __init__(self, history_size: int) -> None:
        self.history_size = history_size
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._begun = time.monotonic()
        self._journal: deque[tuple[float, str, str]] = deque(maxlen=REMEMBERED)
        self._rooms: dict[str, dict[int, Epoch]] = {}
        #: How many epochs all rooms have had, and what was lost in those that are no longer kept.
        self.epochs = 0
        self._gone = 0

    def note(self, who: str, what: str) -> None:
        """Remember something that may have led to a violation later."""
        self._journal.append((time.monotonic() - self._begun, who, what))

    def violate(self, kind: str, who: str, what: str) -> None:
        """Something does not hold: count it by ``kind``, and keep what led to it."""
        self.counts[kind] += 1
        self.note(who, f"VIOLATION: {what}")
        led = [entry for entry in self._journal if entry[1] in (who, NEMESIS)][-TOLD:]
        lines = [f"    {at:8.3f} s  {by}: {text}" for at, by, text in led]
        self.violations.append("\n".join([f"{who}: {what}", *lines]))

    def acknowledged(self, room: str, id: str, text: str, who: str) -> None:
        """A publisher was told that ``text`` has the ``id`` in ``room``."""
        self.counts["acknowledged"] += 1
        place = Place.of(id)
        epoch = self._record(room, place, text, who)
        epoch.acknowledged.add(place.offset)

    def seen(self, room: str, place: Place, text: str, who: str) -> None:
        """A member was told of ``text`` at ``place`` in ``room``."""
        epoch = self._record(room, place, text, who)
        epoch.unseen.discard(place.offset)

    def _record(self, room: str, place: Place, text: str, who: str) -> Epoch:
        epochs = self._rooms.setdefault(room, {})
        epoch = epochs.get(place.epoch)
        if epoch is None:
            epoch = epochs[place.epoch] = Epoch()
            self.epochs += 1
            if len(epochs) > KEPT:
                self._gone += epochs.pop(min(epochs)).lost
        if place.offset < epoch.floor:
            return epoch
        known = epoch.texts.get(place.offset)
        if known is None:
            self._first(epoch, room, place, text, who)
        elif known != text:
            self.violate("two events of one id", who, f"{room} {place} is {text!r} here, and {known!r} elsewhere")
        return epoch

    def _first(self, epoch: Epoch, room: str, place: Place, text: str, who: str) -> None:
        epoch.texts[place.offset] = text
        epoch.unseen.add(place.offset)
        if text.startswith(f"{room} "):  # what publishers said, not who came and went
            before = epoch.offsets.setdefault(text, place.offset)
            if before != place.offset:
                self.violate("published twice", who, f"{text!r} is in {room} as {place.epoch}-{before} and as {place}")
        epoch.prune(self.history_size)

    def check_history(self, room: str, where: str, events: list[dict[str, Any]], last_id: str) -> None:
        """Hold what ``where`` says of a quiet room's history against what was acknowledged and delivered."""
        last = Place.of(last_id)
        epochs = self._rooms.get(room, {})
        if epochs and max(epochs) > last.epoch:
            self.violate("missing", where, f"{room} stands at {last}, but has been in epoch {max(epochs)}")
            return
        places = [Place.of(event["id"]) for event in events]
        first = last.offset - len(places) + 1
        if places != [Place(last.epoch, offset) for offset in range(first, last.offset + 1)]:
            self.violate("out of order", where, f"the history of {room} is not consecutive up to {last}: {places}")
        for place, event in zip(places, events, strict=True):
            self._record(room, place, text_of(event), where)
        kept = {place.offset for place in places}
        epoch = epochs.get(last.epoch, Epoch())
        horizon = last.offset - self.history_size
        missing = sorted(offset for offset in epoch.acknowledged if offset > horizon and offset not in kept)
        if missing:
            self.violate("missing", where, f"acknowledged in {room}, epoch {last.epoch}, and not in history: {missing}")

    def lost(self) -> int:
        """How many acknowledged events went with an epoch before any member was told of them."""
        old = (epochs[number] for epochs in self._rooms.values() for number in epochs if number != max(epochs))
        return self._gone + sum(epoch.lost for epoch in old)


def text_of(event: dict[str, Any]) -> str:
    """What tells an event from all others: the text its publisher made up, or who came or went."""
    data = event["data"]
    if event["type"] == "message":
        return str(data["content"])
    return str(data["message"]) if event["type"] == "notification.new" else f"{event['type']} {data['username']}"


class View:
    """What one member has seen of one room, over all its connections: up to where, and whether it is in it now."""

    def __init__(self, ledger: Ledger, who: str, room: str) -> None:
        self._ledger = ledger
        self._who = who
        self.room = room
        self.place: Place | None = None
        self.inside = False
        #: What it asked to resume from last.
        self._asked: Place | None = None

    def ask(self) -> str | None:
        """The member asks to be let in: return the id to resume from."""
        self._asked = self.place
        return None if self.place is None else str(self.place)

    def joined(self, recovered: bool, last_id: str) -> None:
        """The room let the member in, with or without what it has missed."""
        last = Place.of(last_id)
        self.inside = True
        self._note(f"joined {self.room} since {self._asked}: recovered {recovered}, last {last}")
        if self._asked is None:
            self.place = last
            return
        self._ledger.counts["resumes"] += 1
        if not recovered:
            self._ledger.counts["told: not recovered"] += 1
            self._restart("recovered: false", last)
            return
        self._ledger.counts["recovered"] += 1
        if self._asked.epoch != last.epoch or self._asked > last:
            self._violate("missing", f"{self.room} recovered since {self._asked}, though it stands at {last}")

    def resync(self, last_id: str) -> None:
        """The member was told that events were lost."""
        self._ledger.counts["told: resync"] += 1
        self._note(f"told to resync {self.room} from {self.place} to {last_id}")
        if not self.inside:
            self._violate("foreign room", f"a resync of {self.room}, where it is not")
        self._restart("resync", Place.of(last_id))

    def _restart(self, how: str, last: Place) -> None:
        before = self.place
        if before is not None and before.epoch > last.epoch:
            self._violate("out of order", f"{how} took {self.room} back from {before} to {last}")
        elif before is not None and before.epoch == last.epoch:
            missed = last.offset - before.offset
            if missed < 0:
                self._violate("out of order", f"{how} took {self.room} back from {before} to {last}")
            elif missed <= self._ledger.history_size:
                self._violate("told in vain", f"{how} in {self.room} at {before}, though {last} is within history")
        self.place = last

    def event(self, id: str, text: str) -> None:
        """The member was told of an event: it must be the very next one."""
        place = Place.of(id)
        self._ledger.counts["delivered"] += 1
        if not self.inside or self.place is None:
            self._violate("foreign room", f"{place} {text!r} of {self.room}, where it is not")
            return
        if place.epoch != self.place.epoch:
            self._violate("missing", f"{self.room} went from {self.place} to {place} {text!r} without a resync")
        elif place.offset <= self.place.offset:
            self._violate("doubles", f"{place} {text!r} of {self.room} came when {self.place} had been told")
        elif place.offset > self.place.offset + 1:
            self._violate("missing", f"{self.room} went from {self.place} to {place} {text!r}")
        if not text.startswith((f"{self.room} ", "user_joined ", "user_left ")):
            self._violate("foreign room", f"{place} {text!r} came in {self.room}")
        self.place = max(self.place, place)
        self._ledger.seen(self.room, place, text, self._who)

    def left(self, why: str) -> None:
        """The member is out of the room, or its connection has ended."""
        if self.inside:
            self._note(f"out of {self.room} at {self.place}: {why}")
        self.inside = False

    def _note(self, what: str) -> None:
        self._ledger.note(self._who, what)

    def _violate(self, kind: str, what: str) -> None:
        self._ledger.violate(kind, self._who, what)


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Two columns."""
    return "\n".join(f"  {name:<44}{value!s:>12}" for name, value in rows)
