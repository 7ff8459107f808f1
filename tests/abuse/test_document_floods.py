"""Requests for public documents, from clients without a token, as fast as the server answers."""

import asyncio
import itertools
import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target

CONNECTIONS = 3
PATHS = ("/asyncapi.json", "/openapi.json", "/docs", "/metrics", "/static/roomcast.js")
#: Headers that could be expensive to read, or make each request differ from the others.
HEADERS = (
    "",
    "If-None-Match: " + '"a",' * 1500 + "\r\n",
    f"Accept: {',' * 6000}\r\nAccept-Encoding: {',' * 6000}\r\n",
    "Accept: application/openmetrics-text; version=1.0.%d\r\nAccept-Encoding: gzip\r\n",
)


async def attack(target: Target) -> Outcome:
    """Three connections request documents, each time with another host and other headers, and read the answers."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    requests = zip(itertools.count(), itertools.cycle(itertools.product(HEADERS, PATHS)), strict=False)
    answers = 0

    async def flood() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        while loop.time() < end:
            number, (headers, path) = next(requests)
            more = headers.replace("%d", str(number))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: host-{number}.example\r\n{more}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = re.search(rb"Content-Length: ([0-9]+)", head)
            assert length is not None
            await reader.readexactly(int(length[1]))
            answers += 1
        writer.close()

    await asyncio.gather(*(flood() for _ in range(CONNECTIONS)))
    return {"answers a second": round(answers / target.seconds)}


ATTACK = Attack(attack, __file__)


async def test_a_document_costs_little() -> None:
    """The CPU time of an answer is far below the time that it takes to build a document, which is 2 ms."""
    report = await ATTACK.measure()
    assert report.cpu / report.outcome["answers a second"] < 0.001, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
