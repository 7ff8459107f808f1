"""Compressed request bodies: about 1 MB that inflates to 1 GB, from clients without a token."""

import asyncio
import sys
import zlib
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target

CONNECTIONS = 10


def body() -> bytes:
    """Return 0.97 MB of gzip that inflate to about 970 MB: the same compressed block again and again."""
    compressor = zlib.compressobj(9, wbits=31)
    first, again = (compressor.compress(bytes(10_000_000)) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 99


async def attack(target: Target) -> Outcome:
    """Ten connections at a time post 0.97 MB that inflate to 970 MB, to a path that does not exist."""
    statuses: dict[str, int] = {}
    content = body()
    head = f"POST /anything HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {len(content)}\r\n\r\n"

    async def post() -> None:
        peer = await target.connect()
        try:
            await peer.send(head.encode() + content)
            status = (await peer.head()).split()[1].decode()
            await peer.wait_until_closed()
        except (OSError, EOFError, TimeoutError) as error:
            status = type(error).__name__
        finally:
            peer.close()
        statuses[status] = statuses.get(status, 0) + 1

    end = asyncio.get_running_loop().time() + target.seconds
    while asyncio.get_running_loop().time() < end:
        await asyncio.gather(*(post() for _ in range(CONNECTIONS)))
    return statuses


ATTACK = Attack(attack, __file__)


async def test_compressed_bodies_are_not_inflated() -> None:
    """Every such request is refused with 415, and the others notice nothing."""
    report = await ATTACK.measure()
    assert set(report.outcome) == {"415"}, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
