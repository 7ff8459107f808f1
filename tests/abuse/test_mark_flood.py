"""One user marks messages of ten rooms as read, as often as the limit of bytes allows."""

import asyncio
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import CONNECTIONS, Attack, Outcome, Target
from wire import Peer, masked

from roomcast.protocol.frames import TEXT

ATTACKER, MEMBERS, MESSAGES = 1, 20, 100
ROOMS = [f"channel:{number}" for number in range(2, 12)]
#: How long each connection waits after 20 commands, in seconds: this uses about 0.9 of WS_BYTE_RATE.
PAUSE = 0.05


def command(type: str, room: str, data: str = "{}") -> bytes:
    """Return the frame of a command."""
    return masked(TEXT, f'{{"type":"{type}","room":"{room}","data":{data}}}'.encode())


JOIN = b"".join(command("join_room", room) for room in ROOMS)


class Reader:
    """Reads a client. ``ids`` are those of the messages in each room, ``marks`` counts ``marked_read``."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.joined = self.marks = self.refused = 0
        self.ids: dict[str, list[str]] = {room: [] for room in ROOMS}
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        """Read until the connection ends."""
        while True:
            try:
                event = await self.peer.event()
            except TimeoutError:  # nothing was sent to this client for a while
                continue
            type = event["type"]
            self.joined += type == "joined_room"
            self.marks += type == "marked_read"
            self.refused += type == "error"
            if type == "message":
                self.ids[event["room"]].append(event["id"])


async def attack(target: Target) -> Outcome:
    """The user marks the messages one after the other on five connections, which are told of each other's marks."""
    readers = [Reader(await target.websocket(1000 + number)) for number in range(MEMBERS)]
    own = [Reader(await target.websocket(ATTACKER)) for _ in range(CONNECTIONS)]
    for reader in readers + own:
        await reader.peer.send(JOIN)
    while sum(reader.joined for reader in readers + own) < (MEMBERS + CONNECTIONS) * len(ROOMS):
        await asyncio.sleep(0.01)
    for number in range(MESSAGES):  # from another user, because an own message moves the mark
        data = f'{{"content":"{number}"}}'
        await readers[0].peer.send(b"".join(command("send_message", room, data) for room in ROOMS))
    ids = own[0].ids
    while min(map(len, ids.values())) < MESSAGES:
        await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    sent = 0

    async def send(reader: Reader) -> None:
        nonlocal sent
        number = 0
        while loop.time() < begun + target.seconds:
            # Twice: the second mark moves nothing, and is only answered.
            events = ((room, ids[room][number % MESSAGES]) for room in ROOMS for _ in range(2))
            await reader.peer.send(
                b"".join(command("mark_read", room, f'{{"event_id":"{id}"}}') for room, id in events)
            )
            number += 1
            sent += 2 * len(ROOMS)
            await asyncio.sleep(PAUSE)
        assert not reader.task.done(), "the attacker was closed, so it has sent less than it may"

    await asyncio.gather(*(send(reader) for reader in own))
    seconds = loop.time() - begun
    before = -1
    while before != (before := sum(reader.marks for reader in own)):  # until the attacker has read the answers
        await asyncio.sleep(0.5)
    outcome = {
        "commands a second": round(sent / seconds),
        "refused": sum(reader.refused for reader in own),
        "marks that the attacker received": sum(reader.marks for reader in own),
        "marks that others received": sum(reader.marks for reader in readers),
        "members left": sum(not reader.task.done() for reader in readers),
    }
    for reader in readers + own:
        reader.task.cancel()
        reader.peer.close()
    return outcome


#: The byte rate is the only limit.
ATTACK = Attack(attack, __file__, WS_MESSAGE_RATE="0", WS_BYTE_RATE="524288")


async def test_marks_in_a_loop() -> None:
    """Other users are not delayed and receive no marks, and all stay."""
    report = await ATTACK.measure()
    report.check_others()
    outcome = report.outcome
    assert outcome["members left"] == MEMBERS, report
    assert outcome["marks that the attacker received"] > 0, report
    assert outcome["marks that others received"] == 0, report
    assert report.memory_mb < 50, report


if __name__ == "__main__":
    ATTACK.main()
