"""The users of the embedded broker: their leases, and their presence in rooms."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence

from .base import (
    MAX_MEMBERS_BYTES,
    MAX_PAGE_MEMBERS,
    Announcements,
    Member,
    MemberPage,
    PresenceChange,
    UserId,
    UserStatus,
)
from .memory_leases import MemoryLeases
from .memory_presence import MemoryPresence
from .memory_values import MemoryValues


class MemoryUsers(MemoryValues):
    """The part of the embedded broker that knows which users are connected, and in which rooms they are."""

    def _clear_users(self, last_seen_ttl: float, announcements: Announcements) -> None:
        self._leases = MemoryLeases(self._clock, last_seen_ttl, announcements.grace)
        epoch = time.time() - self._clock()
        reports = (self._report_presence, self._report_status, self._report_membership)
        self._presence = MemoryPresence(self._clock, epoch, announcements, *reports)

    @abstractmethod
    def _report_presence(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        """Report a join or leave of a subscribed room to the listener."""

    @abstractmethod
    def _report_membership(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        """Report to the listener that a user became a member, or stopped to be one."""

    @abstractmethod
    def _report_status(self, room: str, user_id: UserId, username: str, status: str) -> None:
        """Report a status in a subscribed room to the listener."""

    @abstractmethod
    async def _begin_read(self) -> None:
        """Let other coroutines run if the slice is used up. Raises ``Unavailable`` if the broker is not running."""

    @abstractmethod
    def _end_read(self, count: int) -> None:
        """Subtract ``count`` events or members that were read from the slice."""

    # Leases.

    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """See ``Broker``."""
        self._check_running()
        return self._leases.admit(user_id, connection, limit)

    async def release(self, user_id: UserId, connection: int) -> None:
        """See ``Broker``."""
        self._check_running()
        self._leases.release(user_id, connection)

    async def statuses(self, user_ids: Sequence[UserId]) -> list[UserStatus]:
        """See ``Broker``."""
        self._check_running()
        return [self._leases.status(user_id) for user_id in user_ids]

    # Presence.

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return self._presence.enter(room, user_id, username, connection)

    async def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool = False) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return self._presence.leave(room, user_id, connection, is_lost=is_lost)

    async def set_status(self, room: str, user_id: UserId, status: str) -> None:
        """See ``Broker``."""
        self._check_running()
        self._presence.set_status(room, user_id, status)

    async def announce_due(self) -> None:
        """See ``Broker``."""
        await self._presence.announce_due()

    async def members(self, room: str) -> list[Member]:
        """See ``Broker``."""
        await self._begin_read()
        members = self._presence.members(room)
        self._end_read(len(members))
        return members

    async def list_members(
        self,
        room: str,
        after: str | None = None,
        limit: int = MAX_PAGE_MEMBERS,
        *,
        max_bytes: int = MAX_MEMBERS_BYTES,
        user_id: UserId | None = None,
    ) -> MemberPage:
        """See ``Broker``."""
        await self._begin_read()
        page = self._presence.list_members(room, after, limit, max_bytes, user_id)
        self._end_read(len(page.members))
        return page

    async def rooms(self) -> dict[str, int]:
        """See ``Broker``."""
        self._check_running()
        return {room: len(users) for room, users in self._presence.rooms.items()}
