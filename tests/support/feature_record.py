"""What all clients of a feature soak have sent and received, and the checks that need all of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Any, NamedTuple

#: How many problems of each kind are printed.
PRINTED = 3


def parse(id: str) -> tuple[str, int]:
    """Return the epoch and the offset of an event id."""
    epoch, _, offset = id.rpartition("-")
    return epoch, int(offset)


class UnreadClaim(NamedTuple):
    """A count of unread messages that a client was told.

    It concerns the events up to ``position``. The mark of the user was at least ``low``, and at most ``asked`` or
    at the newest own message.
    """

    who: str
    user: int
    room: str
    epoch: str
    position: int
    unread: int
    low: int
    asked: int
    how: str


class Record:
    """The events of all rooms as any client has received them, and what was sent. Collects problems."""

    def __init__(self, history_size: int) -> None:
        self.history_size = history_size
        self.counts: Counter[str] = Counter()
        self.problems: dict[str, list[str]] = {}
        #: Each event by room, epoch and offset.
        self.events: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        #: The key with which each text was sent, and the ids of the events that it became.
        self.keys: dict[str, str | None] = {}
        self.ids: dict[str, set[str]] = {}
        #: The ids that senders were told, by text.
        self.acknowledged: dict[str, str] = {}
        #: The keys with which each message was deleted.
        self.deletions: dict[str, set[str | None]] = {}
        #: The highest offset that each user has marked and was confirmed, and all that were asked for.
        self.marked: dict[tuple[int, str, str], int] = {}
        self.asked: dict[tuple[int, str, str], int] = {}
        self.claims: list[UnreadClaim] = []
        #: By room and epoch, at the end: the offsets of all events and of the messages, and each user's newest message.
        self._offsets: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        self._newest_own: dict[tuple[str, str], dict[int, int]] = {}

    def problem(self, kind: str, what: str) -> None:
        """Record a problem of a ``kind``."""
        self.counts[f"PROBLEM {kind}"] += 1
        self.problems.setdefault(kind, []).append(what)

    def on_event(self, who: str, frame: dict[str, Any]) -> None:
        """Check a stored event, which is the same for all who receive it, and record it."""
        room, id, data = frame["room"], frame["id"], frame["data"]
        epoch, offset = parse(id)
        known = self.events.setdefault(room, {}).setdefault(epoch, {})
        if (before := known.setdefault(offset, frame)) is not frame:
            if before != frame:
                self.problem("two versions", f"{who} received {frame}, others {before}")
            return
        if frame["type"] == "message.deleted":
            if frame.get("key") not in self.deletions.get(data["message_id"], ()):
                self.problem("wrong key", f"{who} received {frame}")
            return
        text = data["content"].rstrip("x")
        if text not in self.keys or room != text.split()[0]:
            self.problem("foreign text", f"{who} received {frame}")
        elif frame.get("key") != self.keys[text]:
            self.problem("wrong key", f"{who} received {frame}, its key is {self.keys[text]}")
        self.ids.setdefault(text, set()).add(id)

    def check_end(self) -> None:
        """Check what needs all events."""
        for text, ids in self.ids.items():
            if len(ids) > 1:
                self.problem("published twice", f"{text} has the ids {ids}")
            if text in self.acknowledged and self.acknowledged[text] not in ids:
                self.problem("wrong reply", f"{text} was acknowledged as {self.acknowledged[text]}, and has {ids}")
        for claim in self.claims:
            self._check_claim(claim)

    def _check_claim(self, claim: UnreadClaim) -> None:
        events = self.events.get(claim.room, {}).get(claim.epoch, {})
        key = (claim.room, claim.epoch)
        if key not in self._offsets:
            messages = [offset for offset in events if events[offset]["type"] == "message"]
            self._offsets[key] = (sorted(events), sorted(messages))
            self._newest_own[key] = own = {}
            for offset in messages:
                user = events[offset]["data"]["user_id"]
                own[user] = max(own.get(user, 0), offset)
        known, messages = self._offsets[key]
        high = max(claim.low, claim.asked, self._newest_own[key].get(claim.user, 0))
        if _count(known, claim.low, claim.position) != claim.position - claim.low:
            self.counts["unread not checked, events unknown"] += 1
            return
        least, most = (_count(messages, mark, claim.position) for mark in (high, claim.low))
        if not claim.low:  # without a mark, messages that have left the history are read
            least = 0
        self.counts["unread checked"] += 1
        self.counts["unread checked exactly"] += least == most
        if not least <= claim.unread <= most:
            self.problem("unread", f"{claim}: between {least} and {most} are correct, marks {claim.low}..{high}")


def _count(offsets: list[int], after: int, until: int) -> int:
    """Return how many of the sorted ``offsets`` are greater than ``after`` and at most ``until``."""
    return max(bisect_right(offsets, until) - bisect_right(offsets, after), 0)
