"""The members of rooms in the embedded broker, and the announcements of their joins, leaves and statuses.

``redis/lua/presence.lua`` follows the same rules. A join is announced at once, unless another join of this user in this
room was announced within the grace. Then it is held until the end of the grace, and the user is not listed until then.
A leave is announced at once. If the connection was lost, the user is away for the grace, still counted and listed, and
the leave is announced at its end, unless the user has returned. Leaves are not held, because each one follows a join.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import Callable
from itertools import islice
from math import inf
from typing import Final, NamedTuple

import orjson

from . import connection_set
from .base import (
    STATUS_INTERVAL,
    Announcements,
    ListedMember,
    Member,
    MemberPage,
    PresenceChange,
    UserId,
)
from .connection_set import ConnectionSet

#: Receives the room, the user, the username, and True for a join.
Announce = Callable[[str, UserId, str, bool], None]
#: Receives the room, the user, the username, and the status.
AnnounceStatus = Callable[[str, UserId, str, str], None]
#: When a user arrived and when the join was announced. Usually both are one time. It is negative if the join was not
#: announced. All users who arrive at about the same time share one object, so it takes no memory.
_Times = float | tuple[float, float]
#: A user in a room: the name, the connections or None while the user is away, and the times.
_Present = tuple[str, ConnectionSet | None, _Times]

#: Times are rounded to this, in seconds, so that members who join at the same time share one float.
_RESOLUTION: Final = 0.05
#: How much an entry takes in a frame in addition to the id, the name and the status, in bytes.
_ENTRY_OVERHEAD: Final = 90
#: How many users ``announce_due`` handles before it lets other coroutines run: about 1 ms.
_SLICE: Final = 200


def _arrived(times: _Times) -> float:
    return times[0] if isinstance(times, tuple) else abs(times)


def _joined(times: _Times) -> float | None:
    """Return when the join was announced, or None."""
    if isinstance(times, tuple):
        return times[1]
    return times if times > 0 else None


class _Open(NamedTuple):
    """A user whose presence is announced at the time ``due`` if it differs, or may not be announced before it.

    ``is_in`` is True if the last announcement of the user was a join; then the user is away. ``joined`` is the time at
    which the last join was announced.
    """

    username: str
    is_in: bool
    joined: float
    due: float


class _Status:
    """The status of a user in a room. ``announced_at`` is when one was announced last."""

    __slots__ = ("announced_at", "text")

    def __init__(self) -> None:
        self.text = ""
        self.announced_at = -inf


class MemoryPresence:
    """The members of all rooms. Calls ``announce`` and ``announce_status`` according to ``policy``.

    Calls ``report_membership`` for the beginning and the end of each membership in rooms of ``policy.followed_types``.

    Times are those of ``clock``; ``epoch`` is the Unix time at its time 0.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        epoch: float,
        policy: Announcements,
        announce: Announce,
        announce_status: AnnounceStatus,
        report_membership: Announce,
    ) -> None:
        self._clock: Final = clock
        self._epoch: Final = epoch
        self._grace: Final = policy.grace
        self._max_users: Final = policy.limits
        self._announce: Final = announce
        self._report_status: Final = announce_status
        self._report_membership: Final = report_membership
        self._followed_types: Final = policy.followed_types
        #: Only rooms with members, also if all are away. The users are in order of arrival.
        self.rooms: Final[dict[str, dict[UserId, _Present]]] = {}
        #: Users stay here for at most one grace.
        self._open: Final[dict[tuple[str, UserId], _Open]] = {}
        #: The users whose join is held, by room. Only rooms that have some.
        self._held: Final[dict[str, set[UserId]]] = {}
        #: Only users in the room who have set a status there.
        self._statuses: Final[dict[tuple[str, UserId], _Status]] = {}
        #: When the statuses that wait are announced.
        self._updates: Final[dict[tuple[str, UserId], float]] = {}
        self._last_time = -inf
        self._last_negative = inf

    # Arrivals and departures.

    def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker.enter``."""
        users = self.rooms.get(room)
        if users is None:
            users = self.rooms[room] = {}
        known = users.get(user_id)
        if known is None:
            users[user_id] = (username, connection, self._unannounced())
            self._arrive(room, user_id, username, users)
            if self._followed_types and self._is_followed(room):
                self._report_membership(room, user_id, username, True)
        elif known[1] is None:
            users[user_id] = (username, connection, known[2])
            del self._open[room, user_id]
        else:
            users[user_id] = (username, connection_set.add(known[1], connection), known[2])
            return PresenceChange(False, len(users))
        return PresenceChange(True, len(users))

    def _arrive(self, room: str, user_id: UserId, username: str, users: dict[UserId, _Present]) -> None:
        """Announce a user who was not in the room, now or later."""
        if self._open and (one := self._open.get((room, user_id))) is not None:
            if self._now() < one.due:
                self._held.setdefault(room, set()).add(user_id)
                return
            del self._open[room, user_id]
        self._announce_join(room, user_id, users)

    def _announce_join(self, room: str, user_id: UserId, users: dict[UserId, _Present]) -> None:
        if len(users) > self._max_users.of(room):
            return
        username, connections, times = users[user_id]
        self._announce(room, user_id, username, True)
        arrived, now = _arrived(times), self._now()
        users[user_id] = (username, connections, now if arrived == now else (arrived, now))

    def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool) -> PresenceChange:
        """See ``Broker.leave``."""
        users = self.rooms.get(room, {})
        known = users.get(user_id)
        if known is None or known[1] is None:
            return PresenceChange(False, len(users))
        username, times = known[0], known[2]
        rest = connection_set.remove(known[1], connection)
        if rest is not None:
            users[user_id] = (username, rest, times)
            return PresenceChange(False, len(users))
        joined, now = _joined(times), self._now()
        if self._end_hold(room, user_id):  # the members were not told of the join
            self._remove(room, user_id, users)
        elif is_lost and self._grace:
            users[user_id] = (username, None, times)
            self._open[room, user_id] = _Open(username, True, -inf if joined is None else joined, now + self._grace)
        else:
            self._depart(room, user_id, users)
            if joined is not None and joined + self._grace > now:
                self._open[room, user_id] = _Open(username, False, joined, joined + self._grace)
        return PresenceChange(True, len(users))

    def _depart(self, room: str, user_id: UserId, users: dict[UserId, _Present]) -> None:
        """Remove a user from the room, and announce that if members may know the user.

        Those of a room that is not too large know all users from the list of members.
        """
        username, _, times = users[user_id]
        is_known = _joined(times) is not None or len(users) <= self._max_users.of(room)
        self._remove(room, user_id, users)
        if is_known:
            self._announce(room, user_id, username, False)

    def _remove(self, room: str, user_id: UserId, users: dict[UserId, _Present]) -> None:
        username = users.pop(user_id)[0]
        if not users:
            del self.rooms[room]
        if self._followed_types and self._is_followed(room):
            self._report_membership(room, user_id, username, False)
        if self._statuses and self._statuses.pop((room, user_id), None) is not None:
            self._updates.pop((room, user_id), None)

    def _is_followed(self, room: str) -> bool:
        return room.partition(":")[0] in self._followed_types

    def _is_held(self, room: str, user_id: UserId) -> bool:
        return bool(self._held) and user_id in self._held.get(room, ())

    def _end_hold(self, room: str, user_id: UserId) -> bool:
        """Return True if the join of the user was held until now."""
        if not self._is_held(room, user_id):
            return False
        held = self._held[room]
        held.discard(user_id)
        if not held:
            del self._held[room]
        return True

    # Statuses.

    def set_status(self, room: str, user_id: UserId, text: str) -> None:
        """See ``Broker.set_status``."""
        known = self.rooms.get(room, {}).get(user_id)
        if known is None or known[1] is None:
            return
        key = (room, user_id)
        status = self._statuses.get(key)
        if status is None:
            status = self._statuses[key] = _Status()
        if status.text != text:
            status.text = text
            self._announce_status(room, user_id)

    def _announce_status(self, room: str, user_id: UserId) -> None:
        """Announce the status of a user, or let it wait if another one was announced within the last second."""
        users = self.rooms[room]
        if len(users) > self._max_users.of(room) or self._is_held(room, user_id):
            return
        status, now = self._statuses[room, user_id], self._clock()
        if now < status.announced_at + STATUS_INTERVAL:
            self._updates[room, user_id] = status.announced_at + STATUS_INTERVAL
            return
        status.announced_at = now
        self._report_status(room, user_id, users[user_id][0], status.text)

    # Announcements.

    async def announce_due(self) -> None:
        """See ``Broker.announce_due``."""
        now, number = self._clock(), 0
        for key in [key for key, one in self._open.items() if one.due <= now]:
            number += 1
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            opened = self._open.get(key)
            if opened is not None and opened.due <= now:
                del self._open[key]
                self._settle(*key)
        for key in [key for key, due in self._updates.items() if due <= now]:
            number += 1
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            if self._updates.get(key, inf) <= now:
                del self._updates[key]
                self._announce_status(*key)

    def _settle(self, room: str, user_id: UserId) -> None:
        """Handle the end of a delay: announce the leave of an absent user, or a held join."""
        users = self.rooms.get(room, {})
        known = users.get(user_id)
        if known is None:
            return
        if known[1] is None:
            self._depart(room, user_id, users)
        elif self._end_hold(room, user_id):
            self._announce_join(room, user_id, users)
            if (room, user_id) in self._statuses:
                self._announce_status(room, user_id)

    # Reading.

    def members(self, room: str) -> list[Member]:
        """See ``Broker.members``."""
        users = self.rooms.get(room, {})
        return [
            Member(id, name, 0 if connections is None else connection_set.size(connections))
            for id, (name, connections, _) in users.items()
        ]

    def list_members(
        self, room: str, after: str | None, limit: int, max_bytes: int, user_id: UserId | None
    ) -> MemberPage:
        """See ``Broker.list_members``. The cursor consists of the arrival and the id of the last user on the page."""
        users, held = self.rooms.get(room, {}), self._held.get(room, ())
        start = 0 if after is None else self._place_after(users, after)
        members: list[ListedMember] = []
        size, cursor = 0, None
        for id, (name, _, times) in islice(users.items(), start, None):
            if id in held:
                continue
            status = self._statuses.get((room, id)) if self._statuses else None
            text = "" if status is None else status.text
            size += len(json.dumps(id)) + len(json.dumps(name)) + len(text.encode()) + _ENTRY_OVERHEAD
            if len(members) == limit or (size > max_bytes and members):
                last = members[-1].user_id
                cursor = orjson.dumps([_arrived(users[last][2]), str(last), isinstance(last, int)]).decode()
                break
            members.append(ListedMember(id, name, self._epoch + _arrived(times), text))
        has_user = user_id is not None and user_id in users and user_id not in held
        return MemberPage(members, len(users) - len(held), cursor, has_user)

    @staticmethod
    def _place_after(users: dict[UserId, _Present], cursor: str) -> int:
        """Return the number of users in front of the page that begins after ``cursor``.

        If that user has left, it begins with those who arrived at the same time, so that none is left out.
        """
        try:
            arrived, text, is_number = orjson.loads(cursor)
            user_id = int(text) if is_number else text
            ids = list(users)
            place = bisect_left(ids, arrived, key=lambda id: _arrived(users[id][2]))
            known = users.get(user_id)
        except (TypeError, ValueError):
            raise ValueError("not a cursor") from None
        return ids.index(user_id, place) + 1 if known is not None and _arrived(known[2]) == arrived else place

    def _unannounced(self) -> float:
        """Return the times of a user who arrives now and is not announced yet."""
        now = self._now()
        if self._last_negative != -now:
            self._last_negative = -now
        return self._last_negative

    def _now(self) -> float:
        now = self._clock()
        if now - self._last_time >= _RESOLUTION:
            self._last_time = now
        return self._last_time
