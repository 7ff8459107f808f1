"""The live events of one room that wait to be written, bounded for each source."""

from __future__ import annotations

from typing import Final, NamedTuple

#: How many bytes of live events a member of a room receives at once.
BATCH_BYTES: Final = 8 * 1024
#: How many bytes of live events may wait in a room, of all sources and of one.
MAX_ROOM_BYTES: Final = 256 * 1024
MAX_SOURCE_BYTES: Final = 16 * 1024
#: What a frame takes in memory besides its bytes.
_OVERHEAD: Final = 100

#: The user who caused an event: the id, or None and the name of the sender.
Source = tuple["int | str | None", "str | None"]
#: A frame, and True if it is not for the user's own connections.
LiveFrame = tuple[bytes, bool]


class Segment(NamedTuple):
    """Frames of one source that are written together. ``for_user`` are those that the user itself receives."""

    source: Source
    frames: list[bytes]
    for_user: list[bytes]


class _Waiting:
    """The frames of one source by key, and their size."""

    __slots__ = ("frames", "size")

    def __init__(self) -> None:
        self.frames: dict[str | int, LiveFrame] = {}
        self.size = 0


class LiveQueue:
    """The frames that wait in one room. The sources take turns, in the order of their oldest frames.

    ``size`` is the size of all frames, with their overhead.
    """

    __slots__ = ("_sources", "size")

    def __init__(self) -> None:
        self._sources: dict[Source, _Waiting] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._sources)

    def add(self, source: Source, key: str | int, frame: bytes, *, others_only: bool) -> int:
        """Add a frame, in the place of an older one of the source with the same ``key``; return how many were dropped.

        If the source has too much, its oldest frames are dropped; if the room has too much, the new frame is.
        """
        size = len(frame) + _OVERHEAD
        waiting = self._sources.get(source)
        old = None if waiting is None else waiting.frames.get(key)
        if old is not None:
            size -= len(old[0]) + _OVERHEAD
        if self.size and size > 0 and self.size + size > MAX_ROOM_BYTES:
            return 1
        if waiting is None:
            waiting = self._sources[source] = _Waiting()
        waiting.frames[key] = (frame, others_only)
        waiting.size += size
        self.size += size
        dropped = 0
        while waiting.size > MAX_SOURCE_BYTES and len(waiting.frames) > 1:
            self._remove(waiting, next(iter(waiting.frames)))
            dropped += 1
        return dropped

    def take(self) -> list[Segment]:
        """Remove and return the next frames: about ``BATCH_BYTES``, at least one."""
        segments: list[Segment] = []
        rest = BATCH_BYTES
        for source in list(self._sources):
            waiting = self._sources.pop(source)
            segment = Segment(source, [], [])
            while waiting.frames and rest > 0:
                frame, others_only = self._remove(waiting, next(iter(waiting.frames)))
                rest -= len(frame)
                segment.frames.append(frame)
                if not others_only:
                    segment.for_user.append(frame)
            segments.append(segment)
            if waiting.frames:
                self._sources[source] = waiting  # behind the others
            if rest <= 0:
                break
        return segments

    def _remove(self, waiting: _Waiting, key: str | int) -> LiveFrame:
        removed = waiting.frames.pop(key)
        size = len(removed[0]) + _OVERHEAD
        waiting.size -= size
        self.size -= size
        return removed
