"""Connections that are refused, or closed for a violation, and that continue to send."""

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from wire import masked

from roomcast.protocol.frames import CONTINUATION, PING, PONG, TEXT

CONNECTIONS = 2
FLOODS = (
    masked(TEXT, b"{}") * 8000,
    masked(PONG) * 10_000,
    masked(PING, b"x" * 125) * 500,
    masked(TEXT, b"x", fin=False) + masked(CONTINUATION, fin=False) * 10_000,
    b"\xff" * 65_536,
)


async def attack(target: Target) -> Outcome:
    """Two connections at a time with the token `x` send frames and junk without an end, and reconnect when closed."""
    floods = itertools.cycle(FLOODS)
    sent: list[int] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds

    async def flood() -> None:
        data, total = next(floods), 0
        peer = await target.websocket(token="x")
        try:
            async with asyncio.timeout_at(end):
                while True:
                    await peer.send(data)
                    total += len(data)
        except (OSError, TimeoutError):
            sent.append(total)
        finally:
            peer.close()

    async def reconnect() -> None:
        while loop.time() < end:
            await flood()

    await asyncio.gather(*(reconnect() for _ in range(CONNECTIONS)))
    return {"connections": len(sent), "MB sent": sum(sent) / 1e6}


ATTACK = Attack(attack, __file__)


async def test_a_refused_connection_is_not_read() -> None:
    """The kernel's buffers fill up, then the client cannot send any more."""
    report = await ATTACK.measure()
    assert report.outcome["MB sent"] / report.outcome["connections"] < 40, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
