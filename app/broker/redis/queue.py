"""A queue on Redis: a stream with a consumer group, and a lease for the node that reads it.

All keys of a queue share a hash tag, so that one server of a Cluster stores the queue, and each script is atomic. A
queue survives what a stream survives: with ``appendonly yes``, restarts and failovers lose at most the last second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from ...failure_log import FailureLog
from ..queue import DeadLetter, LeaseChange, Queue, QueueEntry, QueueInfo, parse_id
from .connection import Part
from .keys import Keys
from .options import RedisOptions
from .router import Router
from .scripts import Script

log = logging.getLogger("roomcast.queue")

_SHARED: Final = ("server_time", "queue")
_APPEND: Final = Script(*_SHARED, "queue_append")
_ACQUIRE: Final = Script(*_SHARED, "queue_acquire")
_READ: Final = Script(*_SHARED, "queue_read")
_REMOVE: Final = Script(*_SHARED, "queue_remove")
_DEAD: Final = Script(*_SHARED, "queue_dead")
_STATES: Final = Script(*_SHARED, "queue_states")
_INFO: Final = Script(*_SHARED, "queue_info")

#: The id of the first read after the lease was taken: entries that an earlier consumer has read come first.
_BEGIN: Final = "0-0"
_NEVER_READ: Final = ">"
#: How many states one command reads, and how many entries one script removes. 1,000 take Redis about 1 ms.
_PAGE: Final = 1000


class RedisQueue(Queue):
    """The queue ``name``, for ``node``. Entries that are appended wait for an unreachable server, as a publish does."""

    def __init__(self, name: str, router: Router, keys: Keys, node: str, options: RedisOptions) -> None:
        self._name: Final = name
        self._router: Final = router
        self._keys: Final = keys.queue(name)
        self._node: Final = node
        self._limits: Final = options.queue_limits
        self._wait: Final = options.wait
        self._after = _BEGIN
        self._failures: Final = FailureLog(log)

    async def append(self, payloads: Sequence[bytes]) -> None:
        """See ``Queue``."""
        args: list[Part] = [self._limits.entries, self._limits.bytes, *payloads]
        size = sum(map(len, payloads))
        self._count_dropped(await self._router.run(_APPEND, self._keys, args, wait=self._wait, size=size))

    def _count_dropped(self, count: int) -> None:
        if count:
            self.dropped += count
            self._failures.add("full", f"The queue {self._name} is full: its {count} oldest entries were dropped")

    async def acquire(self, lease: float) -> LeaseChange | None:
        """See ``Queue``."""
        reply = await self._router.run(_ACQUIRE, self._keys, (self._node, max(int(lease * 1000), 1)))
        if reply == 1:
            return "extended"
        self._after = _BEGIN
        return "taken" if reply else None

    async def release(self) -> None:
        """See ``Queue``."""
        await self._router.run(_ACQUIRE, self._keys, (self._node, 0))

    async def read(self, limit: int, max_bytes: int) -> Sequence[QueueEntry] | None:
        """See ``Queue``."""
        after, self._after = self._after, _BEGIN  # unless a reply shows how far this has read
        found: list[QueueEntry] = []
        while True:
            reply = await self._router.run(_READ, self._keys, (self._node, after, limit, max_bytes))
            if reply is None:
                return None
            now, items = reply
            ids = [id.decode() for id in items[::2]]
            found += [
                QueueEntry(id, payload, max(now - parse_id(id)[0], 0) / 1000)
                for id, payload in zip(ids, items[1::2], strict=True)
            ]
            if found or after == _NEVER_READ:
                self._after = after if after == _NEVER_READ else ids[-1]
                return found
            after = _NEVER_READ

    def rewind(self) -> None:
        """See ``Queue``."""
        self._after = _BEGIN

    async def remove(self, entries: Sequence[QueueEntry]) -> None:
        """See ``Queue``."""
        for i in range(0, len(entries), _PAGE):
            each: list[Part] = [
                part for entry in entries[i : i + _PAGE] for part in (entry.id, len(entry.payload), b"")
            ]
            await self._router.run(_REMOVE, self._keys, (0, "", *each))

    async def bury(self, entries: Sequence[QueueEntry], reason: str) -> None:
        """See ``Queue``."""
        for entry in entries:
            args = (self._limits.dead_letters, reason, entry.id, len(entry.payload), entry.payload)
            await self._router.run(_REMOVE, self._keys, args)

    async def write_states(self, states: Mapping[str, str | None]) -> bool:
        """See ``Queue``."""
        changed = [part for name, state in states.items() if state is not None for part in (name, state)]
        deleted = [name for name, state in states.items() if state is None]
        args: list[Part] = [self._node, len(changed) // 2, *changed, *deleted]
        return bool(await self._router.run(_STATES, self._keys, args))

    async def read_states(self) -> dict[str, str]:
        """See ``Queue``."""
        found: dict[str, str] = {}
        cursor: bytes | int = 0
        while True:
            key = self._keys[4]
            cursor, items = await self._router.call(key, "HSCAN", key, cursor, "COUNT", _PAGE)
            decoded = [item.decode() for item in items]
            found.update(zip(decoded[::2], decoded[1::2], strict=True))
            if cursor == b"0":
                return found

    async def info(self) -> QueueInfo:
        """See ``Queue``."""
        entries, size, age, dead, consumer = await self._router.run(_INFO, self._keys, ())
        return QueueInfo(entries, size, age / 1000, dead, None if consumer is None else consumer.decode())

    async def dead_letters(self, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """See ``Queue``."""
        if after is not None:
            parse_id(after)
        key = self._keys[3]
        begin = "-" if after is None else f"({after}"
        found = []
        for id, (_, payload, _, reason) in await self._router.call(key, "XRANGE", key, begin, "+", "COUNT", limit):
            time = parse_id(id.decode())[0] / 1000
            found.append(DeadLetter(id.decode(), payload, reason.decode(errors="replace"), time))
        return found

    async def retry(self, ids: Sequence[str]) -> int:
        """See ``Queue``."""
        return await self._pop_dead(ids, (self._limits.entries, self._limits.bytes))

    async def delete(self, ids: Sequence[str]) -> int:
        """See ``Queue``."""
        return await self._pop_dead(ids, (0, 0))

    async def _pop_dead(self, ids: Sequence[str], limits: tuple[int, int]) -> int:
        for id in ids:
            parse_id(id)
        count, dropped = await self._router.run(_DEAD, self._keys, (*limits, *ids))
        self._count_dropped(dropped)
        return int(count)
