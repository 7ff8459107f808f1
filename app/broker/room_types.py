"""What differs between the types of rooms for a broker. The type of a room is its name before the colon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

_T = TypeVar("_T")


class HistoryLimits(NamedTuple):
    """How many events of a room are stored, and how long each of them, in seconds."""

    size: int
    ttl: float


class PerRoomType(Generic[_T]):
    """A value for each type of rooms: that in ``by_type``, or ``default`` for all other types."""

    __slots__ = ("by_type", "default")

    def __init__(self, default: _T, by_type: Mapping[str, _T] | None = None) -> None:
        self.default: Final = default
        self.by_type: Final[Mapping[str, _T]] = by_type or {}

    def __iter__(self) -> Iterator[_T]:
        """Yield all values, beginning with the default."""
        yield self.default
        yield from self.by_type.values()

    def of(self, room: str) -> _T:
        """Return the value for ``room``."""
        by_type = self.by_type
        return by_type.get(room.partition(":")[0], self.default) if by_type else self.default
