"""Frames that are not messages: pongs, empty continuation frames, fragments of one byte, pings with a payload."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from wire import masked

from roomcast.protocol.frames import CONTINUATION, PING, PONG, TEXT

_FRAGMENTS = masked(CONTINUATION, b"x", fin=False) * 20_000
FLOODS = (
    masked(PONG) * 20_000,
    masked(PONG, b"x" * 125) * 500,
    masked(TEXT, fin=False) + masked(CONTINUATION, fin=False) * 20_000 + masked(CONTINUATION),
    masked(TEXT, b"x", fin=False) + _FRAGMENTS + masked(CONTINUATION),
    masked(PING, b"x" * 125) * 500,
)


async def attack(target: Target) -> Outcome:
    """One user sends frames that are not messages on five connections, and reconnects when it is closed."""
    return await target.flood(FLOODS)


ATTACK = Attack(attack, __file__)


async def test_frames_that_are_not_messages_are_limited() -> None:
    """Every connection is closed with 4429, and the others notice little."""
    report = await ATTACK.measure()
    closed = report.outcome["connections ended with"]
    assert closed["4429 Too Many Messages"] > len(FLOODS), report
    assert set(closed) <= {"4429 Too Many Messages", "TimeoutError"}, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
