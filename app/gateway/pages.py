"""Pages of history as clients receive them: their frames, their size, and the wait until the client has read enough.

Used by joins and by the command ``history``. A client never has more than ``WS_MAX_BUFFER`` unread bytes because of a
page.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Final

from ..broker.base import MAX_PAGE_BYTES, Event
from ..fastpath import encode_event_frame
from .client import Client

#: The greatest size of a frame without the event's payload and id, in bytes.
FRAME_OVERHEAD: Final = 20
#: How often to check whether a client has read its page, in seconds: at first, and when it turns out to be slow.
_FIRST_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.1


def max_page_size(max_unread: int) -> int:
    """Return the greatest size of a page for a client that may have ``max_unread`` unread bytes.

    It is half of them, because live events of other rooms may arrive meanwhile.
    """
    return min(MAX_PAGE_BYTES, max_unread // 2)


def frame_size(event: Event) -> int:
    """Return the size of the frame of ``event``, in bytes. It may be a few bytes too large."""
    return len(event.payload) + len(event.id) + FRAME_OVERHEAD


def frames_size(events: Iterable[Event]) -> int:
    """Return the size of the frames of ``events``, in bytes. It may be a few bytes too large for each."""
    return sum(map(frame_size, events))


def event_frames(events: Iterable[Event]) -> bytes:
    """Return the frames of ``events``."""
    return b"".join([encode_event_frame(event.payload, event.id) for event in events])


def newest_fitting(events: Sequence[Event], size: int) -> Sequence[Event]:
    """Return the newest of ``events`` whose frames have at most ``size`` bytes together."""
    first = len(events)
    while first and (size := size - frame_size(events[first - 1])) >= 0:
        first -= 1
    return events[first:]


async def wait_for_reads(client: Client, max_unread: int = 0, patience: float = math.inf) -> None:
    """Wait until the client has at most ``max_unread`` unread bytes, or has ended, for at most ``patience`` seconds."""
    pause = _FIRST_POLL
    while client.end is None and client.unread_bytes > max_unread and patience > 0:
        await asyncio.sleep(pause)  # most clients read a page within 10 ms
        patience -= pause
        pause = min(2 * pause, _LONGEST_POLL)
