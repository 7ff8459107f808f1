"""Sockets without a token that are opened and left open, more of them than the server may open files."""

import asyncio
import contextlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import pytest
from attacks import Attack, Outcome, Target
from handshakes import request
from serving import PATH
from shell import OPEN_FILES

#: How many files the server may open.
FILES = 512
#: How many sockets the attacker keeps open: half of them from one address, half from the other addresses.
SOCKETS = 900
ADDRESSES = 150
#: How many users connect during the attack, from one address.
USERS = 20
#: What the sockets send before they are idle.
KINDS = {
    "silent": b"",
    "incomplete": b"GET / HTTP/1.1\r\n",
    "idle HTTP": b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n",
    "refused": request(f"{PATH}?token=x"),
}
PROBE = b"GET /health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def attack(target: Target) -> Outcome:
    """Attackers keep 900 sockets open, and open a new one for each that is closed. Users and health checks connect."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    opened = dict.fromkeys(KINDS, 0)

    async def occupy(number: int) -> None:
        kind = list(KINDS)[number % len(KINDS)]
        address = f"127.0.1.{1 + number % ADDRESSES}" if number % 2 else "127.0.2.1"
        while loop.time() < end:
            peer = await target.connect(address)
            opened[kind] += 1
            with contextlib.suppress(OSError, TimeoutError):
                await peer.send(KINDS[kind])
                async with asyncio.timeout_at(end):
                    while await loop.sock_recv(peer.socket, 4096):
                        pass
            peer.close()

    sockets = [asyncio.create_task(occupy(number)) for number in range(SOCKETS)]
    await asyncio.sleep(target.seconds / 4)
    users = [await is_served(target, number) for number in range(USERS)]
    probes = [await is_answered(target) for _ in range(USERS)]
    await asyncio.gather(*sockets)
    return {"opened": opened, "users refused": users.count(False), "probes refused": probes.count(False)}


async def is_served(target: Target, number: int) -> bool:
    """Connect a user; return False if that fails."""
    try:
        peer = await target.websocket(5000 + number)
        served = (await peer.event())["type"] == "connected"
    except (OSError, EOFError, AssertionError):
        return False
    peer.close()
    return served


async def is_answered(target: Target) -> bool:
    """Send a health check; return False if it is not answered with 200."""
    peer = await target.connect()
    try:
        await peer.send(PROBE)
        return (await peer.head()).startswith(b"HTTP/1.1 200 ")
    except (OSError, EOFError):
        return False
    finally:
        peer.close()


ATTACK = Attack(attack, __file__, **{OPEN_FILES: str(FILES)})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have only 127.0.0.1")
async def test_new_users_connect_and_probes_are_answered() -> None:
    """The attackers' own sockets are closed, and the log has one line about them."""
    report = await ATTACK.measure()
    assert report.outcome["users refused"] == report.outcome["probes refused"] == 0, report
    report.check_others()
    lines = [line for line in report.log if "closed sockets" in line]
    assert len(lines) == 1, report.log


if __name__ == "__main__":
    ATTACK.main()
