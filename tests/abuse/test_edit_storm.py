"""A user that edits the oldest message of a long history on Redis again and again."""

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

#: How many edits a connection sends, fewer than one burst allows.
EDITS = 300


async def attack(target: Target) -> Outcome:
    """Five connections of a user, and five of one who is not the author, edit the oldest message 300 times each."""
    begun = asyncio.get_running_loop().time()
    answers = {"sent": 0, "not_author": 0, "other": 0}

    async def edit(user_id: int) -> None:
        peer = await target.websocket(user_id)
        try:
            await peer.send(_message("join_room", {"since": None}))
            while (event := await peer.event())["type"] != "joined_room":
                pass
            epoch = event["data"]["last_id"].partition("-")[0]
            await peer.send(_message("edit_message", {"message_id": f"{epoch}-1", "content": "x"}) * EDITS)
            while True:
                event = await peer.event()
                if event.get("id") == 1 and event["type"] != "joined_room":
                    answer = event["data"].get("code", event["type"])
                    answers[answer if answer in answers else "other"] += 1
        finally:
            peer.close()

    with suppress(TimeoutError):
        async with asyncio.timeout(target.seconds):
            await asyncio.gather(*(edit(user_id) for user_id in (1, 2) for _ in range(CONNECTIONS)))
    return {"answers": answers, "seconds": asyncio.get_running_loop().time() - begun}


def _message(type: str, data: object) -> bytes:
    return masked(TEXT, json.dumps({"type": type, "room": ROOM, "id": 1, "data": data}).encode())


@pytest.mark.redis
async def test_edits_read_history_at_a_limited_rate() -> None:
    """Redis sends what the limits of both users allow, refusals need one event each, and the other clients go on."""
    report, sent = await measure_attack(attack, __file__, TEST_SECONDS, HISTORY_SIZE="1000")
    assert report.outcome["answers"]["not_author"] > 0, report
    assert sent < 2 * (1.1 * READ_BURST + READ_RATE * (report.outcome["seconds"] + 5)), report
    report.check_others()


if __name__ == "__main__":
    main(attack, __file__, HISTORY_SIZE="1000")
