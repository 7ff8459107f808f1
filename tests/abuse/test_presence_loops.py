"""One user joins and leaves a large room in a loop, so that every member is told each time."""

import asyncio
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from wire import Peer, masked

from roomcast.protocol.frames import TEXT

MEMBERS = 300
#: The user who attacks, and its numbers of connections that leave and join again, and that are closed and opened again.
ATTACKER, LEAVING, RECONNECTING = 1, 3, 2
#: Steps a second of each connection, within the limit of messages.
RATE = 50
#: The default of PRESENCE_GRACE.
GRACE = 3.0
ROOM = "channel:2"
JOIN, LEAVE = (
    masked(TEXT, b'{"type":"%s","room":"%s"}' % (type, ROOM.encode())) for type in (b"join_room", b"leave_room")
)


async def attack(target: Target) -> Outcome:
    """One user joins and leaves a room of 300 on five connections: three by command, two by closing the connection."""
    received: dict[int, list[int]] = {}
    loop = asyncio.get_running_loop()

    async def read(user_id: int) -> None:
        peer = await target.websocket(user_id)
        await peer.send(JOIN)
        try:
            while True:
                _, payload = await peer.frame()
                if b'"joined_room"' in payload:
                    received[user_id] = []
                elif b'"user_id":%d}' % ATTACKER in payload:
                    received[user_id].append(len(payload))
        finally:
            peer.close()

    members = [asyncio.create_task(read(1000 + number)) for number in range(MEMBERS)]
    while len(received) < MEMBERS:
        await asyncio.sleep(0.01)
    steps, begun = 0, loop.time()
    end = begun + target.seconds

    async def drain(peer: Peer) -> None:
        while True:
            await peer.frame()

    async def leave_and_join() -> None:
        nonlocal steps
        peer = await target.websocket(ATTACKER)
        reading = asyncio.create_task(drain(peer))
        while loop.time() < end:
            await peer.send(JOIN + LEAVE)
            steps += 2
            await asyncio.sleep(2 / RATE)
        reading.cancel()
        peer.close()

    async def reconnect() -> None:
        nonlocal steps
        while loop.time() < end:
            peer = await target.websocket(ATTACKER)
            await peer.send(JOIN)
            steps += 2
            await asyncio.sleep(2 / RATE)
            peer.close()

    await asyncio.gather(*(leave_and_join() for _ in range(LEAVING)), *(reconnect() for _ in range(RECONNECTING)))
    seconds = loop.time() - begun
    for member in members:
        member.cancel()
    return {
        "joins and leaves": steps,
        "seconds": round(seconds, 1),
        "announcements to one member": max(len(sizes) for sizes in received.values()),
        "bytes to all members": sum(sum(sizes) for sizes in received.values()),
    }


ATTACK = Attack(attack, __file__)


async def test_joining_and_leaving_in_a_loop() -> None:
    """One join and one leave within the grace are announced, and the others notice nothing."""
    report = await ATTACK.measure()
    assert report.outcome["joins and leaves"] > 50, report
    allowed = 2 * (1 + report.outcome["seconds"] / GRACE)
    assert 1 <= report.outcome["announcements to one member"] <= allowed, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
