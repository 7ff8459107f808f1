"""What one connection of a feature soak has received of one room, checked frame by frame."""

from __future__ import annotations

from typing import Any

from feature_record import Record, UnreadClaim, parse


class View:
    """A room as one connection sees it."""

    def __init__(self, record: Record, who: str, user: int, room: str) -> None:
        self._record = record
        self._who = who
        self._user = user
        self.room = room
        self.is_member = False
        self.epoch = ""
        #: The offset of the next event, or None if a join has not told it.
        self.next: int | None = None
        #: The newest event that any earlier connection of this client has received.
        self.last_id: str | None = None
        #: The number of joins and leaves without a reply, and of those that are over.
        self.changing = 0
        self.changes = 0
        #: Of the newest events that follow a join: the offset of the last one, and how many were asked for.
        self._newest: tuple[int, int, bool] | None = None
        #: The offset of the last event that the last ``unread`` of a join included.
        self._included = 0
        self._claim: tuple[int, tuple[str, int]] | None = None
        #: The members, if a join has asked for them all.
        self.members: set[int] | None = None

    def on_joined(self, data: dict[str, Any], options: dict[str, Any], marked: tuple[str, int]) -> None:
        """Check ``joined_room``, the reply to a join with ``options``. The user had ``marked`` an event before."""
        was_member, self.is_member = self.is_member, True
        since, last = options.get("since"), options.get("last")
        if ("recovered" in data) != ("since" in options):
            self._problem("joined_room", f"{options} was answered with {data}")
        self._claim = None
        if "last_id" in data:
            epoch, newest = parse(data["last_id"])
            if was_member and not data.get("recovered") and self.next not in (None, newest + 1):
                self._problem("gap", f"a join again at {self.next} with {options} was answered with {data}")
            self.epoch, self.next, self._included = epoch, newest + 1, newest
            if data.get("recovered"):
                if since is None or parse(since)[0] != epoch:
                    self._problem("recovered", f"{options} was answered with {data}")
                else:
                    self.next = parse(since)[1] + 1
                self._count("joins: recovered")
            else:
                self._check_loss(since, epoch, newest)
                self._newest = (newest, last, data["more"]) if last and newest else None
                self._count("joins: with last" if last else "joins: not recovered")
            self.add_claim(epoch, newest, data, marked, f"join with {options}")
        elif was_member and self.next is not None:
            self._count("joins: again")
            self.add_claim(self.epoch, self.next - 1, data, marked, "join again")
        elif not was_member:
            self._count("joins: plain")
            self.epoch, self.next, self._included = "", None, 0
            self._claim = (data["unread"], marked) if "unread" in data else None
        if options.get("presence"):
            self._on_members(data)

    def _check_loss(self, since: str | None, epoch: str, newest: int) -> None:
        if since is not None and parse(since)[0] == epoch and newest - parse(since)[1] <= self._record.history_size:
            self._problem("needless loss", f"since {since} was not recovered at {epoch}-{newest}")

    def _on_members(self, data: dict[str, Any]) -> None:
        ids = [member["user_id"] for member in data["members"]]
        if len(set(ids)) != len(ids) or data["member_count"] != len(ids) or self._user not in ids:
            self._problem("members", f"user {self._user} received {data}")
        self.members = set(ids)

    def add_claim(self, epoch: str, position: int, data: dict[str, Any], marked: tuple[str, int], how: str) -> None:
        """Record a count of unread messages, which is checked at the end."""
        if "unread" not in data:
            self._count("joins: without unread")
            return
        low = marked[1] if marked[0] == epoch else 0
        asked = self._record.asked.get((self._user, self.room, epoch), 0)
        claim = UnreadClaim(self._who, self._user, self.room, epoch, position, data["unread"], low, asked, how)
        self._record.claims.append(claim)

    def on_marked(self, data: dict[str, Any], how: str) -> None:
        """Check ``marked_read``."""
        epoch, offset = parse(data["event_id"])
        if self.is_member and self.next is not None and self.epoch == epoch:
            position = max(self.next - 1, self._included)
            if self.next - 1 < self._included:
                how += ", resuming"
            self.add_claim(epoch, position, data, (epoch, offset), how)

    def on_frame(self) -> None:
        """Check a frame of any room that is not an event of this room: the newest events may not be interrupted."""
        if self._newest is not None:
            newest, last, more = self._newest
            self._newest = None
            self._problem("last", f"of the newest {last} of {newest} events none followed, more is {more}")

    def on_event(self, frame: dict[str, Any]) -> None:
        """Check a stored event."""
        epoch, offset = parse(frame["id"])
        self._record.on_event(self._who, frame)
        self._count("events")
        if not self.is_member:
            self._problem("outside", f"received {frame}")
            return
        if self._newest is not None:
            self._check_newest(offset)
        elif self.next is None:
            self.epoch, self.next = epoch, offset
            if self._claim is not None:
                self.add_claim(epoch, offset - 1, {"unread": self._claim[0]}, self._claim[1], "plain join")
                self._claim = None
        if offset != self.next or (epoch != self.epoch and offset != 1):  # an empty room has no lasting epoch
            self._problem("order", f"received {frame['id']} instead of {self.epoch}-{self.next}")
        self.epoch, self.next, self.last_id = epoch, offset + 1, frame["id"]

    def _check_newest(self, offset: int) -> None:
        assert self._newest is not None
        newest, last, more = self._newest
        self._newest = None
        count = newest - offset + 1
        self._count("newest events")
        if not 1 <= count <= last:
            self._problem("last", f"of the newest {last} of {newest} events {offset} came first")
        elif count < last and more:
            self._count("joins: fewer newest events than asked for")
        elif count < last and offset != 1 and newest - offset + 1 < self._record.history_size:
            self._problem("last", f"of the newest {last} of {newest} events {offset} came first, more is {more}")
        elif not more and offset > newest - self._record.history_size + 1 and offset != 1:
            self._problem("last", f"more is False before {offset} of {newest}")
        self.next = offset

    def on_resync(self, last_id: str) -> None:
        """Go on after a loss of events."""
        self._count("resync")
        self.epoch, offset = parse(last_id)
        self.next = offset + 1

    def on_live(self, frame: dict[str, Any]) -> None:
        """Check an event that is not stored."""
        self._count(f"live: {frame['type']}")
        user = frame["data"]["user_id"]
        if not self.is_member or "id" in frame or "key" in frame:
            self._problem("live", f"received {frame}, is a member: {self.is_member}")
        if frame["type"] == "typing" and user == self._user:
            self._problem("live", f"received its own {frame}")
        if self.members is not None:
            if frame["type"] == "user_joined":
                self.members.add(user)
            elif frame["type"] == "user_left":
                self.members.discard(user)

    def on_history(self, asked: dict[str, Any], data: dict[str, Any]) -> None:
        """Check a page of history."""
        self._count("pages")
        offsets = []
        for frame in data["events"]:
            self._record.on_event(self._who, frame)
            offsets.append(parse(frame["id"])[1])
        epoch, newest = parse(data["last_id"])
        if offsets and offsets != list(range(offsets[0], offsets[-1] + 1)):
            self._problem("history", f"{asked}: {offsets}")
        if len(offsets) > asked["limit"] or (offsets and offsets[-1] > newest):
            self._problem("history", f"{asked}: {offsets}, last id {newest}")
        if self.next is not None and offsets and epoch == self.epoch and offsets[-1] >= self.next:
            self._problem("history", f"{asked} returned {offsets[-1]} before it came live, {self.next} is next")
        if (since := asked.get("since")) is None:
            self._check_backward(asked, offsets, epoch, newest, more=data["more"])
        elif not data["recovered"]:
            self._check_loss(since, epoch, newest)
        else:
            first, last = (offsets[0], offsets[-1]) if offsets else (newest + 1, newest)
            if first != parse(since)[1] + 1 or data["more"] != (last < newest):
                self._problem("history", f"{asked}: {offsets}, more {data['more']}, last id {newest}")

    def _check_backward(
        self, asked: dict[str, Any], offsets: list[int], epoch: str, newest: int, *, more: bool
    ) -> None:
        before, size = asked.get("before"), self._record.history_size
        end = newest if before is None else parse(before)[1] - 1
        if before is not None and parse(before)[0] != epoch:
            return
        is_wrong = offsets[-1] != end if offsets else end > max(newest - size + 1, 0)
        has_lost = len(offsets) < asked["limit"] and offsets and offsets[0] > max(1, newest - size + 1) and not more
        if is_wrong or has_lost:
            self._problem("history", f"{asked}: {offsets}, last id {newest}, more {more}")

    def on_left(self) -> None:
        """Record that the connection is not in the room any more."""
        self.is_member, self.next, self._newest, self._claim, self.members = False, None, None, None, None

    def _count(self, what: str) -> None:
        self._record.counts[what] += 1

    def _problem(self, kind: str, what: str) -> None:
        self._record.problem(kind, f"{self._who} in {self.room}: {what}")
