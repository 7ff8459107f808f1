"""Heads of requests that are expensive to parse or to route, from clients without a token."""

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from handshakes import request

CONNECTIONS = 3


def get(path: str, *headers: str) -> bytes:
    """Return a request with a body that did not arrive, so that the connection ends after the response."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *headers, "", ""]).encode()


def four(name: str, part: str) -> list[str]:
    """Return as many bytes of a header as a head may have."""
    return [f"{name}: {part * (7900 // len(part))}"] * 4


KINDS = [
    get("/" * 8000),
    get("/a" * 4000),
    get("/static/" + "./" * 4000),
    get("/nope?" + "a&" * 4000),
    get("/console", *four("Cookie", "a=b;")),
    get("/console", *four("Cookie", "roomcast_console=1.0;")),
    get("/docs", *four("Forwarded", "for=1,")),
    get("/docs", *four("Forwarded", ",")),
    get("/docs", *four("X-Forwarded-For", ",")),
    get("/static/roomcast.js", *four("If-None-Match", '"a",')),
    get("/static/roomcast.js", *four("Accept-Encoding", ",")),
    get("/static/roomcast.js", *four("Range", "0-1,")),
    get("/nope", *[f"a{n}: b" for n in range(120)]),
    request(**{"Sec_WebSocket_Protocol": ", " * 3900}),
    request(**{"Forwarded": "for=1," * 1300}),
    request(**{"X_Forwarded_For": "," * 7900}),
]


async def attack(target: Target) -> Outcome:
    """Three connections at a time send such a head, read the response, and connect again."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    kinds = itertools.cycle(KINDS)
    count = 0

    async def repeat() -> None:
        nonlocal count
        while loop.time() < end:
            peer = await target.connect()
            try:
                await peer.send(next(kinds))
                await peer.head()
                count += 1
            finally:
                peer.close()

    await asyncio.gather(*(repeat() for _ in range(CONNECTIONS)))
    return {"requests": count}


ATTACK = Attack(attack, __file__, TRUST_PROXY="2", CONSOLE="1")


async def test_no_head_is_expensive() -> None:
    """The others go on, and the attacker is served at the pace of a plain client."""
    report = await ATTACK.measure()
    report.check_others()
    assert report.outcome["requests"] > len(KINDS), report


if __name__ == "__main__":
    ATTACK.main()
