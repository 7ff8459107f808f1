"""One member of a large room sends small messages in bursts, as many as the limits allow."""

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import CONNECTIONS, HAND_SECONDS, Attack, Outcome, Target
from wire import Peer, masked

from roomcast.protocol.frames import TEXT

ROOM = "channel:2"
#: The members of the room in a test, and by hand.
TEST_MEMBERS, HAND_MEMBERS = 100, 800
#: How many messages a connection sends at first, and how many every ``PAUSE`` seconds after that.
FIRST, LATER, PAUSE = 400, 5, 0.05
JOIN = masked(TEXT, json.dumps({"type": "join_room", "room": ROOM}).encode())
MESSAGE = masked(TEXT, json.dumps({"type": "send_message", "room": ROOM, "data": {"content": "x" * 100}}).encode())


async def attack(target: Target) -> Outcome:
    """On five connections one user sends bursts of messages into a room; each of them is written to all its members."""
    loop = asyncio.get_running_loop()
    count = HAND_MEMBERS if target.seconds >= HAND_SECONDS else TEST_MEMBERS
    received = 0
    closed: list[Peer] = []

    async def read(peer: Peer) -> None:
        nonlocal received
        with suppress(ConnectionError):
            while data := await loop.sock_recv(peer.socket, 1 << 18):
                received += len(data)
        closed.append(peer)

    async def send(peer: Peer) -> None:
        await loop.sock_sendall(peer.socket, MESSAGE * FIRST)
        while True:
            await asyncio.sleep(PAUSE)
            await loop.sock_sendall(peer.socket, MESSAGE * LATER)

    members = [await target.websocket(2000 + number // CONNECTIONS) for number in range(count)]
    senders = [await target.websocket(1) for _ in range(CONNECTIONS)]
    for peer in (*members, *senders):
        await peer.send(JOIN)
    tasks = [asyncio.create_task(read(peer)) for peer in (*members, *senders)]
    tasks += [asyncio.create_task(send(peer)) for peer in senders]
    await asyncio.wait(tasks, timeout=target.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    lost = sum(peer in closed for peer in members)
    return {"members": count, "MB to all": round(received / 1e6), "members closed": lost}


ATTACK = Attack(attack, __file__)


async def test_others_do_not_wait_for_a_large_room() -> None:
    """No member is closed; the connections of the user, who sends too much, may be."""
    report = await ATTACK.measure()
    assert report.outcome["members closed"] == 0, report
    assert report.outcome["MB to all"] > 1, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
