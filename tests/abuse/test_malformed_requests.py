"""Malformed requests of all kinds, from clients without a token: what they cost, and what they leave in the log."""

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from handshakes import request

CONNECTIONS = 3
SECRET = "a-token-in-a-url"
HEAD = f"GET /api/v1/ws/connect?token={SECRET} HTTP/1.1\r\nHost: a\r\n"
KINDS = [
    b"\x00\x01\xff\r\n\r\n",
    bytes.fromhex("16030100c8010000c40303") + bytes(100),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    f"BREW /?token={SECRET} HTTP/1.1\r\n\r\n".encode(),
    f"GET /?token={SECRET} HTTP/9.9\r\n\r\n".encode(),
    f"GET /a\0b?token={SECRET} HTTP/1.1\r\n\r\n".encode(),
    f"GET /{'a' * 9000}?token={SECRET} HTTP/1.1\r\n\r\n".encode(),
    f"GET http://x:99999/?token={SECRET} HTTP/1.1\r\n\r\n".encode(),
    f"{HEAD}Host: b\r\n\r\n".encode(),
    f"{HEAD}a: {'b' * 9000}\r\n\r\n".encode(),
    f"{HEAD}a b: c\r\n\r\n".encode(),
    f"{HEAD}Expect: {SECRET}\r\n\r\n".encode(),
    f"{HEAD}Content-Length: x\r\n\r\n".encode(),
    f"{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
    HEAD.encode() + b"a: b\r\n" * 200 + b"\r\n",
    HEAD.encode() + b"".join(b"a%d: " % n + b"b" * 8000 + b"\r\n" for n in range(9)),
    HEAD.replace("Host: a", f"Host: {SECRET}/é").encode() + b"\r\n",
    f"GET {'/' * 8000} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    b"\r\n" * 20_000,
    request(Sec_WebSocket_Key=SECRET),
    request(Sec_WebSocket_Version="8"),
    request(Connection=None, Upgrade=None),
]


async def attack(target: Target) -> Outcome:
    """Three connections at a time send a malformed request, read the response, and connect again."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    kinds = itertools.cycle(KINDS)
    statuses: dict[str, int] = {}

    async def refused(data: bytes) -> str:
        peer = await target.connect()
        try:
            await peer.send(data)
            return (await peer.head()).split()[1].decode()
        except (OSError, EOFError) as error:
            return type(error).__name__
        finally:
            peer.close()

    async def repeat() -> None:
        while loop.time() < end:
            status = await refused(next(kinds))
            statuses[status] = statuses.get(status, 0) + 1

    await asyncio.gather(*(repeat() for _ in range(CONNECTIONS)))
    return statuses


ATTACK = Attack(attack, __file__)


async def test_malformed_requests_do_not_flood_the_log() -> None:
    """Hundreds of them leave a few lines, without a traceback and without what they contained."""
    report = await ATTACK.measure()
    report.check_others()
    assert set(report.outcome) <= {"400", "404", "417", "426", "431"}, report
    assert sum(report.outcome.values()) > 3 * len(KINDS), report
    # One line for the first of each kind, and one with the number of the others when the server stops.
    assert sum("refused a" in line for line in report.log) <= 2 * len(KINDS), report.log
    assert not any("Traceback" in line or "ERROR" in line or SECRET in line for line in report.log), report.log


if __name__ == "__main__":
    ATTACK.main()
