"""The members of rooms in the embedded broker, and the announcements of their joins and leaves.

``redis/lua/presence.lua`` follows the same rules. A join is announced at once, unless another join of this user in this
room was announced within the grace. Then it is held until the end of the grace. A leave is announced at once, or after
the grace if the connection was lost. After a delay, only a difference from the last announcement is announced: nothing
if the user has returned. Leaves are not held, because each one follows a join.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple

from . import connection_set
from .base import Announcements, Member, PresenceChange, UserId
from .connection_set import ConnectionSet

#: Receives the room, the user, the username, and True for a join.
Announce = Callable[[str, UserId, str, bool], None]
#: A present user: the name, the connections, and when the join was announced, or None if it was not.
_Present = tuple[str, ConnectionSet, float | None]

#: Times are rounded to this, in seconds, so that members who join at the same time share one float.
_RESOLUTION: Final = 0.05
#: How many users ``announce_due`` handles before it lets other coroutines run: about 1 ms.
_SLICE: Final = 200


class _Open(NamedTuple):
    """A user whose presence is announced at the time ``due`` if it differs, or may not be announced before it.

    ``is_in`` is True if the last announcement of the user was a join. ``joined`` is the time at which the last join was
    announced.
    """

    username: str
    is_in: bool
    joined: float
    due: float


class MemoryPresence:
    """The members of all rooms. Calls ``announce`` according to ``policy``, with times of ``clock``."""

    def __init__(self, clock: Callable[[], float], policy: Announcements, announce: Announce) -> None:
        self._clock: Final = clock
        self._grace, self._max_users = policy
        self._announce: Final = announce
        #: Only rooms with members.
        self.rooms: Final[dict[str, dict[UserId, _Present]]] = {}
        #: Users stay here for at most one grace.
        self._open: Final[dict[tuple[str, UserId], _Open]] = {}
        self._last_time = -inf

    def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker.enter``."""
        users = self.rooms.get(room)
        if users is None:
            users = self.rooms[room] = {}
        known = users.get(user_id)
        if known is None:
            users[user_id] = (username, connection, None)
            users[user_id] = (username, connection, self._arrive(room, user_id, username, len(users)))
        else:
            users[user_id] = (username, connection_set.add(known[1], connection), known[2])
        return PresenceChange(known is None, len(users))

    def _arrive(self, room: str, user_id: UserId, username: str, users: int) -> float | None:
        """Announce a user who was not in the room, if necessary; return when the user's join was announced."""
        if self._open and (one := self._open.get((room, user_id))) is not None:
            if not one.is_in and self._now() < one.due:
                return None
            del self._open[room, user_id]
            if one.is_in:
                return one.joined
        return self._announce_join(room, user_id, username, users)

    def _announce_join(self, room: str, user_id: UserId, username: str, users: int) -> float | None:
        if users > self._max_users:
            return None
        self._announce(room, user_id, username, True)
        return self._now()

    def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool) -> PresenceChange:
        """See ``Broker.leave``."""
        users = self.rooms.get(room, {})
        known = users.get(user_id)
        if known is None:
            return PresenceChange(False, len(users))
        username, connections, joined = known
        rest = connection_set.remove(connections, connection)
        if rest is not None:
            users[user_id] = (username, rest, joined)
            return PresenceChange(False, len(users))
        del users[user_id]
        if not users:
            del self.rooms[room]
        self._depart(room, user_id, username, joined, len(users), is_lost)
        return PresenceChange(True, len(users))

    def _depart(
        self, room: str, user_id: UserId, username: str, joined: float | None, users: int, is_lost: bool
    ) -> None:
        """Announce that a user left the room, now or later. ``users`` is the number of users that are left."""
        key = (room, user_id)
        if joined is None:
            if key in self._open or users >= self._max_users:  # the join is held, or was not announced
                return
            joined = -inf  # the room was larger at the join; members may know the user from the list of members
        now = self._now()
        if is_lost and self._grace:
            self._open[key] = _Open(username, True, joined, now + self._grace)
            return
        self._announce(room, user_id, username, False)
        if joined + self._grace > now:
            self._open[key] = _Open(username, False, joined, joined + self._grace)

    async def announce_due(self) -> None:
        """See ``Broker.announce_due``."""
        now = self._clock()
        due = [key for key, one in self._open.items() if one.due <= now]
        for number, key in enumerate(due, 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            one = self._open.get(key)
            if one is not None and one.due <= now:
                del self._open[key]
                self._settle(*key, one)

    def _settle(self, room: str, user_id: UserId, one: _Open) -> None:
        users = self.rooms.get(room, {})
        known = users.get(user_id)
        if known is not None:
            users[user_id] = (known[0], known[1], self._announce_join(room, user_id, known[0], len(users)))
        elif one.is_in:
            self._announce(room, user_id, one.username, False)

    def members(self, room: str) -> list[Member]:
        """See ``Broker.members``."""
        users = self.rooms.get(room, {})
        return [Member(id, name, connection_set.size(connections)) for id, (name, connections, _) in users.items()]

    def _now(self) -> float:
        now = self._clock()
        if now - self._last_time >= _RESOLUTION:
            self._last_time = now
        return self._last_time
