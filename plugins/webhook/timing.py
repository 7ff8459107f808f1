"""The times of the delivery, and waiting."""

from __future__ import annotations

import asyncio
from typing import NamedTuple


class Timing(NamedTuple):
    """Times in seconds; tests have shorter ones."""

    #: How long the consumer may be silent before another node takes over, and how often the others try.
    lease: float = 5.0
    poll: float = 1.0
    #: The queue is read at least this often.
    read: float = 0.25
    #: How long an event waits for earlier ones of its room, which other nodes may append later: if no earlier one is
    #: known, and if some between the two are missing.
    reorder: float = 0.3
    gap: float = 10.0
    #: How often all users and rooms are compared with what the receiver was told. With many users it is less often.
    compare: float = 10.0
    #: How long no absence is believed after Redis could not be reached or may have lost data. The nodes write their
    #: members again meanwhile.
    settle: float = 10.0
    #: How long nothing is sent after the receiver has answered 410.
    gone: float = 3600.0
    #: How long the receiver may refuse an event until that is a dead letter.
    retry: float = 86400.0


async def wait(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until ``event`` is set, but at most ``seconds``. Return True if it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
