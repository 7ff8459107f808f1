"""A user that reads a long history on Redis again and again with ``history`` and ``last``, as fast as it can."""

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import pytest
from attacks import CONNECTIONS, TEST_SECONDS, Outcome, Target
from long_history import ROOM, main, measure_attack
from wire import masked

from roomcast.gateway.history_limit import READ_BURST, READ_RATE
from roomcast.protocol.frames import TEXT

#: How many requests a connection sends, as many as one burst allows.
REQUESTS = 400
#: The largest size of a reply, in bytes.
MAX_REPLY = 256 * 1024


async def attack(target: Target) -> Outcome:
    """Five connections of a user send 400 requests each: for the newest events, for those before, and joins."""
    begun = asyncio.get_running_loop().time()
    received = largest = 0

    async def read_again() -> None:
        nonlocal received, largest
        peer = await target.websocket()
        await peer.send(_request("join_room", last=1))
        while (event := await peer.event())["type"] != "joined_room":
            pass
        epoch, _, offset = event["data"]["last_id"].partition("-")
        requests = [
            _request("history", limit=200),
            _request("join_room", last=200),
            _request("history", limit=200, before=f"{epoch}-{int(offset) // 2}"),
            _request("history", limit=200, since=f"{epoch}-{int(offset) // 2}"),
        ]
        try:
            await peer.send(b"".join(requests) * (REQUESTS // len(requests)))
            while True:
                _, payload = await peer.frame()
                received += len(payload)
                largest = max(largest, len(payload))
        finally:
            peer.close()

    with suppress(TimeoutError):
        async with asyncio.timeout(target.seconds):
            await asyncio.gather(*(read_again() for _ in range(CONNECTIONS)))
    return {"received": received, "largest": largest, "seconds": asyncio.get_running_loop().time() - begun}


def _request(type: str, **data: str | int) -> bytes:
    return masked(TEXT, json.dumps({"type": type, "room": ROOM, "data": data}).encode())


@pytest.mark.redis
async def test_a_user_reads_history_at_a_limited_rate() -> None:
    """Redis sends the burst and what the rate allows, no reply exceeds its page, and the other clients go on."""
    report, sent = await measure_attack(attack, __file__, TEST_SECONDS, ANNOUNCE_MAX="0")
    assert sent < 1.1 * READ_BURST + READ_RATE * (report.outcome["seconds"] + 5), report
    assert 0 < report.outcome["largest"] <= MAX_REPLY, report
    report.check_others()


if __name__ == "__main__":
    main(attack, __file__, ANNOUNCE_MAX="0")
