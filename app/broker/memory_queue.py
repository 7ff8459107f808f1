"""A queue of the embedded broker: bounded, in the memory of the process, and lost when that ends."""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..failure_log import FailureLog
from .memory_leases import NODE
from .queue import DeadLetter, LeaseChange, Queue, QueueEntry, QueueInfo, QueueLimits, parse_id

log = logging.getLogger("roomcast.queue")

#: The limits of a queue of the embedded broker. 64 MiB of payloads take about 70 MiB of memory.
MEMORY_LIMITS: Final = QueueLimits(10_000, 64 * 2**20, 1000)


class MemoryQueue(Queue):
    """The queue ``name``. ``check_running`` raises ``Unavailable`` if the broker is closed."""

    def __init__(
        self, name: str, limits: QueueLimits, clock: Callable[[], float], check_running: Callable[[], None]
    ) -> None:
        self._name: Final = name
        self._limits: Final = limits
        self._clock: Final = clock
        self._check_running: Final = check_running
        self._numbers: Final = itertools.count(1)
        #: The payload and the time of each entry, by its number.
        self._entries: Final[OrderedDict[int, tuple[bytes, float]]] = OrderedDict()
        self._bytes = 0
        self._dead: Final[OrderedDict[int, DeadLetter]] = OrderedDict()
        self._states: Final[dict[str, str]] = {}
        self._lease_end = 0.0
        self._last_read = 0
        self._failures: Final = FailureLog(log)

    async def append(self, payloads: Sequence[bytes]) -> None:
        """See ``Queue``."""
        self._check_running()
        now = self._clock()
        for payload in payloads:
            self._entries[next(self._numbers)] = (payload, now)
            self._bytes += len(payload)
        dropped = 0
        while len(self._entries) > self._limits.entries or self._bytes > self._limits.bytes:
            _, (payload, _) = self._entries.popitem(last=False)
            self._bytes -= len(payload)
            dropped += 1
        if dropped:
            self.dropped += dropped
            self._failures.add("full", f"The queue {self._name} is full: its {dropped} oldest entries were dropped")

    async def acquire(self, lease: float) -> LeaseChange | None:
        """See ``Queue``. There is no other node."""
        self._check_running()
        now = self._clock()
        is_taken = self._lease_end <= now
        if is_taken:
            self._last_read = 0
        self._lease_end = now + lease
        return "taken" if is_taken else "extended"

    async def release(self) -> None:
        """See ``Queue``."""
        self._lease_end = 0.0

    async def read(self, limit: int, max_bytes: int) -> Sequence[QueueEntry] | None:
        """See ``Queue``."""
        self._check_running()
        now = self._clock()
        if self._lease_end <= now:
            return None
        found: list[QueueEntry] = []
        size = 0
        # Entries that were read and not removed are few: those whose delivery fails.
        for number, (payload, appended) in self._entries.items():
            if len(found) == limit or size >= max_bytes:
                break
            if number > self._last_read:
                found.append(QueueEntry(f"{number}-0", payload, now - appended))
                size += len(payload)
        if found:
            self._last_read = int(found[-1].id[:-2])
        return found

    def rewind(self) -> None:
        """See ``Queue``."""
        self._last_read = 0

    async def remove(self, entries: Sequence[QueueEntry]) -> None:
        """See ``Queue``."""
        self._check_running()
        for entry in entries:
            self._pop(entry)

    def _pop(self, entry: QueueEntry) -> bool:
        known = self._entries.pop(int(entry.id[:-2]), None)
        if known is not None:
            self._bytes -= len(known[0])
        return known is not None

    async def bury(self, entries: Sequence[QueueEntry], reason: str) -> None:
        """See ``Queue``."""
        self._check_running()
        for entry in entries:
            if self._pop(entry):
                number = next(self._numbers)
                self._dead[number] = DeadLetter(f"{number}-0", entry.payload, reason, time.time())
        while len(self._dead) > self._limits.dead_letters:
            self._dead.popitem(last=False)

    async def write_states(self, states: Mapping[str, str | None]) -> bool:
        """See ``Queue``."""
        self._check_running()
        if self._lease_end <= self._clock():
            return False
        for name, state in states.items():
            if state is None:
                self._states.pop(name, None)
            else:
                self._states[name] = state
        return True

    async def read_states(self) -> dict[str, str]:
        """See ``Queue``."""
        self._check_running()
        return dict(self._states)

    async def info(self) -> QueueInfo:
        """See ``Queue``."""
        self._check_running()
        now = self._clock()
        oldest = next(iter(self._entries.values()), (b"", now))
        consumer = NODE if self._lease_end > now else None
        return QueueInfo(len(self._entries), self._bytes, now - oldest[1], len(self._dead), consumer)

    async def dead_letters(self, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """See ``Queue``."""
        self._check_running()
        last = (0, 0) if after is None else parse_id(after)
        later = (letter for number, letter in self._dead.items() if (number, 0) > last)
        return list(itertools.islice(later, limit))

    async def retry(self, ids: Sequence[str]) -> int:
        """See ``Queue``."""
        self._check_running()
        letters = self._pop_dead(ids)
        await self.append([letter.payload for letter in letters])
        return len(letters)

    async def delete(self, ids: Sequence[str]) -> int:
        """See ``Queue``."""
        self._check_running()
        return len(self._pop_dead(ids))

    def _pop_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        numbers = [number for number, sub in map(parse_id, ids) if sub == 0]
        return [letter for number in numbers if (letter := self._dead.pop(number, None)) is not None]
