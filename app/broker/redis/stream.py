"""Read the stream of a room, in which Redis stores the room's events."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..base import Event
from .keys import Keys
from .options import RedisOptions
from .router import Router
from .scripts import Script

HISTORY: Final = Script("room", "history", stamped=True)


class StreamPage(NamedTuple):
    """Events of a stream, and its state when they were read.

    ``last_offset`` is the newest offset of ``epoch``. ``is_complete`` is True if the stream still contains all events
    after the requested id; ``events`` are the oldest of them.
    """

    epoch: str
    last_offset: int
    is_complete: bool
    events: list[Event]


class StreamReader:
    """Reads streams, with the TTLs of ``options``."""

    def __init__(self, router: Router, keys: Keys, options: RedisOptions) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._history_ttl_ms: Final = options.history_ttl_ms
        self._room_ttl_ms: Final = options.room_ttl_ms

    async def read(self, room: str, epoch: str, offset: str, limit: int, size: int) -> StreamPage:
        """Return up to ``limit`` events after the id ``<epoch>-<offset>``, or the newest ones if both are empty.

        Only the newest ``size`` events count as stored. A room that does not exist begins an epoch. Raises
        ``Unavailable``.
        """
        keys = (self._keys.meta(room), self._keys.stream(room))
        args = (epoch, offset, limit, size, self._history_ttl_ms, self._room_ttl_ms)
        reply = await self._router.run(HISTORY, keys, args)
        found = reply[3]
        events = [Event(found[i].decode(), found[i + 1]) for i in range(0, len(found), 2)]
        return StreamPage(reply[0].decode(), int(reply[1]), reply[2] == 1, events)
