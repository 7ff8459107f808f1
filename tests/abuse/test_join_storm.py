"""A user that asks for all of a long history on Redis again and again, and reads it as fast as it can."""

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

#: How many joins a connection sends, as many as one burst allows.
JOINS = 400


async def attack(target: Target) -> Outcome:
    """Five connections of a user send 400 joins with the oldest id each, and read what they get."""
    begun = asyncio.get_running_loop().time()
    received = 0

    async def join_again() -> None:
        nonlocal received
        peer = await target.websocket()
        await peer.send(_join(None))
        while (event := await peer.event())["type"] != "joined_room":
            pass
        epoch = event["data"]["last_id"].partition("-")[0]
        try:
            await peer.send(_join(f"{epoch}-0") * JOINS)
            while True:
                _, payload = await peer.frame()
                received += len(payload)
        finally:
            peer.close()

    with suppress(TimeoutError):
        async with asyncio.timeout(target.seconds):
            await asyncio.gather(*(join_again() for _ in range(CONNECTIONS)))
    return {"received": received, "seconds": asyncio.get_running_loop().time() - begun}


def _join(since: str | None) -> bytes:
    return masked(TEXT, json.dumps({"type": "join_room", "room": ROOM, "data": {"since": since}}).encode())


@pytest.mark.redis
async def test_a_user_reads_history_at_a_limited_rate() -> None:
    """Redis sends the burst and what the rate allows, and the other clients go on."""
    report, sent = await measure_attack(attack, __file__, TEST_SECONDS, ANNOUNCE_MAX="0")
    assert sent < 1.1 * READ_BURST + READ_RATE * (report.outcome["seconds"] + 5), report
    report.check_others()


if __name__ == "__main__":
    main(attack, __file__, ANNOUNCE_MAX="0")
