"""One user types in ten rooms of 100 members, as often as the limit of bytes allows, also by leaving and joining."""

import asyncio
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import pytest
from attacks import CONNECTIONS, Attack, Outcome, Target
from wire import Peer, masked

from roomcast.protocol.frames import TEXT

ATTACKER, MEMBERS = 1, 100
ROOMS = [f"channel:{number}" for number in range(2, 12)]
#: How long each connection waits after 10 to 20 commands, in seconds: this uses about 0.7 of WS_BYTE_RATE.
PAUSE = 0.1
#: The throttle of ``typing``, in seconds.
THROTTLE = 1.0


def command(type: str, room: str, data: str = "{}") -> bytes:
    """Return the frame of a command."""
    return masked(TEXT, b'{"type":"%b","room":"%b","data":%b}' % (type.encode(), room.encode(), data.encode()))


JOIN = b"".join(command("join_room", room) for room in ROOMS)
TYPING = b"".join(command("typing", room, f'{{"typing":{on}}}') for on in ("true", "false") for room in ROOMS)
LEAVING = b"".join(command("typing", room) + command("leave_room", room) + command("join_room", room) for room in ROOMS)


async def attack_with(target: Target, piece: bytes, commands: int) -> Outcome:
    """Let the attacker send ``piece``, of that many ``commands``, in a loop; count what the members receive."""
    received: dict[int, int] = {}
    joined: dict[int, int] = {}

    async def read(user_id: int) -> None:
        peer = await target.websocket(user_id)
        await peer.send(JOIN)
        joined[user_id] = received[user_id] = 0
        try:
            while True:
                _, payload = await peer.frame()
                joined[user_id] += b'"joined_room"' in payload
                received[user_id] += b'"type":"typing"' in payload
        finally:
            peer.close()

    members = [asyncio.create_task(read(1000 + number)) for number in range(MEMBERS)]
    while sum(joined.values()) < MEMBERS * len(ROOMS):
        await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    end = begun + target.seconds
    sent = 0

    async def drain(peer: Peer) -> None:
        while True:
            await peer.frame()

    async def send() -> None:
        nonlocal sent
        peer = await target.websocket(ATTACKER)
        reading = asyncio.create_task(drain(peer))
        await peer.send(JOIN)
        while loop.time() < end:
            await peer.send(piece)
            sent += 1
            await asyncio.sleep(PAUSE)
        assert not reading.done(), "the attacker was closed, so it has sent less than it may"
        reading.cancel()
        peer.close()

    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    seconds = loop.time() - begun
    before = -1
    while before != (before := sum(received.values())):  # until the members have read what was sent to them
        await asyncio.sleep(0.5)
    alive = sum(not member.done() for member in members)
    for member in members:
        member.cancel()
    return {
        "commands a second": round(sent * commands / seconds),
        "events of a member in each room": max(received.values()) / len(ROOMS),
        "members left": alive,
        "seconds": seconds,
    }


async def attack(target: Target) -> Outcome:
    """One user types in ten rooms of 100 members on five connections."""
    return await attack_with(target, TYPING, 2 * len(ROOMS))


async def attack_by_leaving(target: Target) -> Outcome:
    """The same user types, leaves and joins, so that each time the end is sent at once."""
    return await attack_with(target, LEAVING, 3 * len(ROOMS))


ATTACKS = {"typing": attack, "leaving": attack_by_leaving}


def program(name: str) -> Attack:
    """Return the attack. The byte rate is the only limit."""
    return Attack(ATTACKS[name], __file__, WS_MESSAGE_RATE="0", WS_BYTE_RATE="524288")


@pytest.mark.parametrize("name", ATTACKS)
async def test_typing_is_throttled_and_others_go_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members receive at most one event a second of a user who only types; others are not delayed, and all stay."""
    monkeypatch.setenv("TYPING_ATTACK", name)
    report = await program(name).measure()
    report.check_others()
    assert report.outcome["members left"] == MEMBERS, report
    assert report.outcome["events of a member in each room"] > 0, report
    assert report.memory_mb < 50, report
    if name == "typing":
        assert report.outcome["events of a member in each room"] <= report.outcome["seconds"] / THROTTLE + 2, report


if __name__ == "__main__":
    for one in [os.environ["TYPING_ATTACK"]] if "TYPING_ATTACK" in os.environ else list(ATTACKS):
        os.environ["TYPING_ATTACK"] = one
        program(one).main()
