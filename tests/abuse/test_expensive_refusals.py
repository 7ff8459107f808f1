"""Messages that cost much to refuse: thousands of unknown fields, and broken JSON with thousands of members."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from wire import Peer, masked

from roomcast.protocol.frames import CLOSE, TEXT

CONNECTIONS = 5
#: A little more than the default of WS_MESSAGE_RATE.
RATE = 110
DATA = {"content": "x", **{f"a{n}": 1 for n in range(6000)}}
MESSAGES = (
    json.dumps({"type": "send_message", "room": "channel:2", "data": DATA}, separators=(",", ":")).encode(),
    b'{"type":"send_message","data":{},' + b",".join(b'"a%d":1' % n for n in range(6500)) + b",",
)


async def attack(target: Target) -> Outcome:
    """One user sends messages of 64 KB on five connections, each a little faster than the rate limit allows."""
    frames = [masked(TEXT, message) for message in MESSAGES]
    ends: dict[str, int] = {}
    sizes: list[int] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds

    async def read(peer: Peer) -> None:
        opcode = TEXT
        while opcode != CLOSE:
            opcode, payload = await peer.frame()
            sizes.append(len(payload))
        code = str(int.from_bytes(payload[:2], "big"))
        ends[code] = ends.get(code, 0) + 1

    async def flood() -> None:
        peer = await target.websocket()
        reading = asyncio.create_task(read(peer))
        count, begun = 0, loop.time()
        try:
            while loop.time() < end and not reading.done():
                await peer.send(frames[count % len(frames)])
                count += 1
                await asyncio.sleep(max(0, begun + count / RATE - loop.time()))
        except (OSError, TimeoutError):
            pass
        finally:
            reading.cancel()
            peer.close()

    while loop.time() < end:
        await asyncio.gather(*(flood() for _ in range(CONNECTIONS)))
    return {"answers": len(sizes), "largest answer": max(sizes), "closed with": ends}


ATTACK = Attack(attack, __file__)


async def test_refusing_large_messages_is_cheap() -> None:
    """The answers are small, and the others notice little."""
    report = await ATTACK.measure()
    assert report.outcome["answers"] > 100, report
    assert report.outcome["largest answer"] < 2000, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
