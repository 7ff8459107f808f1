"""Bodies that the server does not need, from clients without a token: without an end, and in chunks of one byte."""

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target

CONNECTIONS = 3
HEAD = "POST /anything HTTP/1.1\r\nHost: a\r\n"
#: The head of each kind of request, and the bytes that follow it again and again.
KINDS = {
    "endless": (f"{HEAD}Content-Length: 1000000000000\r\n\r\n", bytes(65_536)),
    "in chunks": (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
}


async def attack(target: Target) -> Outcome:
    """Three connections at a time post a body without an end to a path that does not exist; they reconnect at once."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    kinds = itertools.cycle(KINDS)
    most = dict.fromkeys(KINDS, 0)

    async def post() -> None:
        kind = next(kinds)
        head, piece = KINDS[kind]
        peer, sent = await target.connect(), 0
        try:
            await peer.send(head.encode())
            while loop.time() < end:
                await peer.send(piece)
                sent += len(piece)
        except OSError:
            pass
        finally:
            peer.close()
        most[kind] = max(sent, most[kind])

    while loop.time() < end:
        await asyncio.gather(*(post() for _ in range(CONNECTIONS)))
    return {"the largest body, in MB": {kind: sent / 1e6 for kind, sent in most.items()}}


ATTACK = Attack(attack, __file__)


async def test_bodies_that_are_not_read_are_cut_off() -> None:
    """Each connection is closed after a few MB, including what the kernel has received, and the others go on."""
    report = await ATTACK.measure()
    assert max(report.outcome["the largest body, in MB"].values()) < 40, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
