"""The values of ``Broker`` that concern presence: members, their statuses, and announcements. ``base`` exports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from .room_types import PerRoomType

#: The largest number of members in a page, and their size in bytes.
MAX_PAGE_MEMBERS = 100
MAX_MEMBERS_BYTES = 64 * 1024
#: At most one status of a user is announced in a room within this time, in seconds.
STATUS_INTERVAL = 1.0

UserId = int | str


class Member(NamedTuple):
    """A user in a room, and the number of the user's connections in it, on all nodes.

    The number is 0 within ``Announcements.grace`` after the last connection was lost.
    """

    user_id: UserId
    username: str
    connections: int = 1


class ListedMember(NamedTuple):
    """A user in a list of members. ``since`` is the Unix time of arrival. ``status`` is "" if the user has set none."""

    user_id: UserId
    username: str
    since: float
    status: str


class MemberPage(NamedTuple):
    """A part of the list of members.

    ``total`` is the number of users on all pages. ``cursor`` is the ``after`` of the next page, or None if this is the
    last one. ``has_user`` is True if the user that the caller asked about is on one of the pages.
    """

    members: Sequence[ListedMember]
    total: int
    cursor: str | None
    has_user: bool


class UserStatus(NamedTuple):
    """Whether a user is online, on all nodes.

    ``connections`` is the number of leases. ``since`` is the Unix time since when the user has had at least one; a
    return within ``Announcements.grace`` continues the time before. ``last_seen`` is the Unix time at which a user
    without leases had one for the last time. Both are None if that is not known. ``nodes`` are the names of the nodes
    with the leases.
    """

    connections: int = 0
    since: float | None = None
    last_seen: float | None = None
    nodes: tuple[str, ...] = ()


class Announcements(NamedTuple):
    """When joins and leaves are announced.

    A user who returns within ``grace`` seconds after the last connection was lost is not announced; 0 disables this. At
    most one join of a user is announced in a room within ``grace``. A user who joins again earlier is announced at the
    end of this time, if still there. Joins in rooms of more than ``max_users`` users, with the new one, are not
    announced, nor are changes of a status there. ``max_users_by_type`` has the types of rooms with another limit.
    ``followed_types`` are the types of rooms whose joins and leaves are reported to ``Listener.on_membership``.
    """

    grace: float = 3.0
    max_users: int = 1000
    max_users_by_type: Mapping[str, int] = MappingProxyType({})
    followed_types: frozenset[str] = frozenset()

    @property
    def limits(self) -> PerRoomType[int]:
        """The number of users above which joins are not announced."""
        return PerRoomType(self.max_users, self.max_users_by_type)


DEFAULT_ANNOUNCEMENTS = Announcements()


class PresenceChange(NamedTuple):
    """The result of entering or leaving a room.

    ``user_changed`` is True if it was the user's first connection in the room, or the last one out. ``users`` is the
    number of users in the room afterwards.
    """

    user_changed: bool
    users: int
