"""One user lists the members of a large room in a loop, or sets a status in 100 rooms of 20 members each."""

import asyncio
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import pytest
from attacks import CONNECTIONS, Attack, Outcome, Target
from wire import Peer, masked

from roomcast.protocol.frames import TEXT

ATTACKER, MEMBERS = 1, 20
ROOMS = [f"channel:{number}" for number in range(2, 102)]
#: How long each connection waits after a command, in seconds: within the limit of messages.
PAUSE = 0.02


def command(type: str, room: str | None, data: str = "{}") -> bytes:
    """Return the frame of a command."""
    where = f',"room":"{room}"' if room is not None else ""
    return masked(TEXT, f'{{"type":"{type}"{where},"data":{data}}}'.encode())


async def attack_with(target: Target, rooms: list[str], members: int, pieces: list[bytes]) -> Outcome:
    """Let the attacker join ``rooms`` with ``members`` others, and send ``pieces`` in a loop; count what happens."""
    joins = b"".join(command("join_room", room) for room in rooms)
    counts = {"joined": 0, "updates": 0, "refused": 0, "replies": 0}

    async def read(peer: Peer) -> None:
        while True:
            _, payload = await peer.frame()
            counts["joined"] += b'"joined_room"' in payload
            counts["updates"] += b'"type":"user_updated"' in payload
            counts["refused"] += b'"rate_limited"' in payload
            counts["replies"] += b'"type":"members"' in payload or b'"type":"presence_set"' in payload

    peers = [await target.websocket(1000 + number) for number in range(members)]
    peers += [await target.websocket(ATTACKER) for _ in range(CONNECTIONS)]
    readers = [asyncio.create_task(read(peer)) for peer in peers]
    for peer in peers:
        await peer.send(joins)
    while counts["joined"] < len(peers) * len(rooms):
        await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def send(peer: Peer) -> None:
        number = 0
        while loop.time() < begun + target.seconds:
            await peer.send(pieces[number % len(pieces)])
            number += 1
            await asyncio.sleep(PAUSE)

    await asyncio.gather(*(send(peer) for peer in peers[-CONNECTIONS:]))
    seconds = loop.time() - begun
    alive = sum(not reader.done() for reader in readers[:members])
    for reader, peer in zip(readers, peers, strict=True):
        reader.cancel()
        peer.close()
    return {
        "seconds": round(seconds, 1),
        "commands carried out": counts["replies"],
        "refused": counts["refused"],
        "updates of a member in each room": counts["updates"] / (len(peers) * len(rooms)),
        "members left": alive,
    }


async def attack_with_statuses(target: Target) -> Outcome:
    """One user sets statuses in 100 rooms on five connections."""
    pieces = [command("set_presence", None, f'{{"status":"{number}"}}') for number in range(2)]
    return await attack_with(target, ROOMS, MEMBERS, pieces)


async def attack_with_lists(target: Target) -> Outcome:
    """One user lists the members of a room of 300 on five connections."""
    return await attack_with(target, ROOMS[:1], 300, [command("members", ROOMS[0])])


ATTACKS = {"statuses": attack_with_statuses, "lists": attack_with_lists}


@pytest.mark.parametrize("name", ATTACKS)
async def test_lists_and_statuses_in_a_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are not delayed, and the members get one status a second in each room."""
    monkeypatch.setenv("MEMBER_ATTACK", name)
    report = await Attack(ATTACKS[name], __file__).measure()
    outcome = report.outcome
    assert outcome["members left"] >= MEMBERS, report
    assert outcome["commands carried out"] > 0, report
    assert outcome["updates of a member in each room"] <= 2 + outcome["seconds"], report
    report.check_others()


if __name__ == "__main__":
    for one in [os.environ["MEMBER_ATTACK"]] if "MEMBER_ATTACK" in os.environ else list(ATTACKS):
        os.environ["MEMBER_ATTACK"] = one
        Attack(ATTACKS[one], __file__).main()
