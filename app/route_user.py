"""The user of a request to a route of a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .auth.identity import Identity
from .auth.room_access import RoomAccess


class User:
    """The user whose token a request has. Routes that are declared with ``auth="user"`` receive one."""

    __slots__ = ("_identity", "_room_access")

    def __init__(self, identity: Identity, room_access: RoomAccess) -> None:
        self._identity: Final = identity
        self._room_access: Final = room_access

    @property
    def user_id(self) -> int | str:
        """The user's id from the token: a number, or a string of at most 255 characters."""
        return self._identity.user_id

    @property
    def username(self) -> str:
        """The user's name, from the token."""
        return self._identity.username

    @property
    def claims(self) -> Mapping[str, Any]:
        """The other claims of the token, as a new dict: without id, name, rooms, times, audience and issuer."""
        return self._identity.claims

    def claims_allow(self, room: str) -> bool:
        """Return True if the ``rooms`` claim of the token covers ``room``, or if ``ROOM_ACCESS`` is ``open``."""
        return self._room_access.claims_allow(self._identity, room)

    def __repr__(self) -> str:
        return f"User({self.user_id!r}, {self.username!r})"
