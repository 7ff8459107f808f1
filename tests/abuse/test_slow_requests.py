"""Requests that arrive slowly: heads and bodies byte by byte, and in chunks of one byte, without a token."""

import asyncio
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from wire import Peer

CONNECTIONS = 60
HEAD = b"POST /console/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
#: What is sent at once, and what is then sent again and again. The server needs the body of a login.
KINDS = {
    "head": (b"GET /docs HTTP/1.1\r\nHost: a\r\n", b"a"),
    "second head": (b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\nGET /docs HTTP/1.1\r\n", b"a"),
    "empty lines": (b"\r\n", b"\r\n"),
    "body": (HEAD + b"Content-Length: 8000\r\n\r\n", b"a"),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "a body that nothing reads": (b"POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 8000\r\n\r\n", b"a"),
    "early frames": (b"GET /nope HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"a"),
}


async def attack(target: Target) -> Outcome:
    """Sixty connections of each kind send a byte as often as they can, and never complete their request."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    ended = dict.fromkeys(KINDS, 0)

    async def send(kind: str) -> None:
        first, again = KINDS[kind]
        peer: Peer = await target.connect()
        try:
            await peer.send(first)
            while loop.time() < end:
                await asyncio.sleep(0.02)
                await peer.send(again)
        except OSError:
            ended[kind] += 1
        finally:
            peer.close()

    await asyncio.gather(*(send(kind) for kind in KINDS for _ in range(CONNECTIONS)))
    return {"connections of each kind": CONNECTIONS, "ended by the server": ended}


ATTACK = Attack(
    attack,
    __file__,
    HANDSHAKE_TIMEOUT="0.5",
    HTTP_KEEPALIVE="0.5",
    CONSOLE="1",
    MAX_UNAUTHENTICATED_PER_ADDRESS="1000",
    MAX_CONNECTIONS="4000",
)


async def test_slow_requests_are_ended() -> None:
    """Each kind is ended by a timeout, and the others go on."""
    report = await ATTACK.measure(6)
    report.check_others()
    assert set(report.outcome["ended by the server"].values()) == {CONNECTIONS}, report


if __name__ == "__main__":
    ATTACK.main()
