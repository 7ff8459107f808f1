"""Messages of 64 KB as fast as the network allows: events for a room, junk, and one message with many fields."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from wire import masked

from roomcast.protocol.frames import TEXT

ROOM = "channel:2"
SIZE = 65_000
EVENT = {"type": "send_message", "room": ROOM, "data": {"content": "x", "metadata": {"a": "x" * SIZE}}}
MESSAGES = (
    json.dumps(EVENT).encode(),
    b'{"type":"ping","data":{"a":"%b"}}' % (b"x" * SIZE),
    b"[" * SIZE,
    b'{"type":"send_message","data":{},' + b",".join(b'"a%d":1' % n for n in range(6500)) + b",",
    b'{"id":1,"type":"ping","id":[' + b"{}," * (SIZE // 3),
)


async def attack(target: Target) -> Outcome:
    """One user sends messages of 64 KB on five connections without a pause, and reconnects when it is closed."""
    join = masked(TEXT, json.dumps({"type": "join_room", "room": ROOM}).encode())
    return await target.flood([masked(TEXT, message) for message in MESSAGES], begin=join)


ATTACK = Attack(attack, __file__)


async def test_bytes_are_limited() -> None:
    """The connections are closed with 4429 after a few MB, and the others notice little."""
    report = await ATTACK.measure()
    closed = report.outcome["connections ended with"]
    assert closed["4429 Too Many Messages"] > len(MESSAGES), report
    assert set(closed) <= {"4429 Too Many Messages", "TimeoutError"}, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
