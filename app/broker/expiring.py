"""A dict whose entries expire, with a limit on its memory."""

from __future__ import annotations

from heapq import heappop, heappush
from sys import getsizeof
from typing import Final, Generic, TypeVar

from ..errors import BrokerUnavailable

_K = TypeVar("_K", str, tuple[str, str])
_V = TypeVar("_V")


class ExpiringDict(Generic[_K, _V]):
    """A dict in which each entry has its own expiry time. All times are seconds of one clock, which callers read.

    Each ``put`` frees up to two expired entries. So the expired entries never outnumber the others, and no call frees
    many at once. If the estimated size is ``max_size`` bytes or more, new entries are refused. None is dropped early.
    """

    __slots__ = ("_entries", "_expiries", "_max_size", "size")

    #: The memory of an entry in addition to the strings and bytes in it, in bytes. Measured.
    ENTRY_OVERHEAD: Final = 300

    def __init__(self, max_size: int) -> None:
        self._max_size: Final = max_size
        self._entries: dict[_K, tuple[float, _V]] = {}
        #: A heap of expiry times and keys. It still contains entries that were replaced or removed; they count towards
        #: ``size`` until they expire.
        self._expiries: list[tuple[float, _K]] = []
        #: The estimated size in bytes.
        self.size = 0

    def check_space(self, now: float) -> None:
        """Raise ``Unavailable`` if there is no space for a new entry."""
        self.expire(now, 2)
        if self.size >= self._max_size:
            raise BrokerUnavailable("The embedded broker has no space for more keys of this kind; try again later.")

    def put(self, key: _K, value: _V, now: float, ttl: float, *, force: bool = False) -> None:
        """Store ``value`` under ``key`` for ``ttl`` seconds, replacing an earlier value.

        Raises ``Unavailable`` if there is no space, unless ``force`` is true.
        """
        self.expire(now, 2)
        if not force:
            self.check_space(now)
        self.pop(key, now)
        expiry = now + ttl
        self._entries[key] = (expiry, value)
        heappush(self._expiries, (expiry, key))
        self.size += self._key_size(key) + _value_size(value)

    def _key_size(self, key: _K) -> int:
        # A character takes 1 to 4 bytes, so the number of characters is not the size.
        return self.ENTRY_OVERHEAD + (getsizeof(key) if isinstance(key, str) else sum(map(getsizeof, key)))

    def _free_next(self) -> None:
        """Free the entry that expires next."""
        expiry, key = heappop(self._expiries)
        self.size -= self._key_size(key)
        entry = self._entries.get(key)
        if entry is not None and entry[0] == expiry:
            self.size -= _value_size(entry[1])
            del self._entries[key]

    def get(self, key: _K, now: float) -> _V | None:
        """Return the value of ``key``, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] > now else None

    def pop(self, key: _K, now: float) -> _V | None:
        """Remove ``key``; return its value, or None if there is none or it has expired."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.size -= _value_size(entry[1])
        return entry[1] if entry[0] > now else None

    def expire(self, now: float, limit: int) -> bool:
        """Free up to ``limit`` expired entries; return True if there may be more."""
        expiries = self._expiries
        for _ in range(limit):
            if not expiries or expiries[0][0] > now:
                return False
            self._free_next()
        return True


def _value_size(value: object) -> int:
    return getsizeof(value) if isinstance(value, bytes | str) else 0
