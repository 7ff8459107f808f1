"""One member of a room sends as much as it may, and the others read 1 MB/s each."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import CONNECTIONS, HAND_SECONDS, Attack, Outcome, Target
from wire import Peer, masked

from roomcast.protocol.frames import TEXT

ROOM = "channel:2"
#: Members that read slowly: a few in a test, and a large room by hand.
TEST_READERS, HAND_READERS = 40, 300
#: How many bytes a second each of them reads, and how often it reads.
SPEED = 1_000_000
TICK = 0.05
#: The kernel keeps little for a reader, as on a slow line.
RECEIVE_BUFFER = 16_384
#: How many messages a second the user sends on each connection: a little more than the default of WS_BYTE_RATE allows.
RATE = 1.2
_METADATA = b'{"type":"send_message","room":"channel:2","data":{"content":"x","metadata":{"a":%b}}}'
MESSAGES = (
    _METADATA % (b'"%b"' % (b"x" * 65_000)),
    _METADATA % (b"[1e15%b]" % (b",1e15" * 12_000)),  # each number has 18 characters in the event
)
#: An edit takes 100 bytes, and its event contains the metadata of the message again. Some are sent at once.
EDIT = '{"type":"edit_message","room":"channel:2","data":{"message_id":"%s","content":"y"}}'
EDITS = 5


async def attack(target: Target) -> Outcome:
    """On five connections one user sends 64 KB messages, and edits of them, into a room whose members read 1 MB/s."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    count = HAND_READERS if target.seconds >= HAND_SECONDS else TEST_READERS
    readers = Readers([await join(target, 2000 + n // 5, receive_buffer=RECEIVE_BUFFER) for n in range(count)])
    reading = asyncio.create_task(readers.read())
    senders = [await join(target, 1) for _ in range(CONNECTIONS)]
    refused = 0
    ends: list[str] = []

    async def send(peer: Peer, number: int) -> None:
        nonlocal refused
        begun = loop.time()
        for n in range(int(target.seconds * RATE) + 1):
            await asyncio.sleep(max(0, begun + n / RATE - loop.time()))
            await peer.send(masked(TEXT, MESSAGES[number % len(MESSAGES)].replace(b'{"type"', b'{"id":1,"type"', 1)))
            opcode, payload = await peer.frame()
            while opcode == TEXT and b'"id":1,' not in payload[:100]:
                opcode, payload = await peer.frame()
            if opcode != TEXT:
                ends.append(payload[2:].decode())
                return
            answer = json.loads(payload)
            if answer["type"] == "sent":
                edit = masked(TEXT, (EDIT % answer["data"]["event_id"]).encode())
                await peer.send(edit * EDITS)
            else:
                refused += 1

    await asyncio.gather(*(send(peer, number) for number, peer in enumerate(senders)))
    await asyncio.sleep(max(0, end - loop.time()))
    reading.cancel()
    await readers.finish()
    return {
        **{"refused": refused, "user closed with": ends, "readers": count, "readers closed": readers.closed},
        "MB each": readers.received / 1e6 / count,
    }


async def join(target: Target, user_id: int, **options: Any) -> Peer:
    """Connect a user who joins the room."""
    peer = await target.websocket(user_id, **options)
    await peer.send(masked(TEXT, json.dumps({"type": "join_room", "room": ROOM}).encode()))
    while (await peer.event())["type"] != "joined_room":
        pass
    return peer


class Readers:
    """Members that read ``SPEED`` bytes a second each, and what becomes of them."""

    def __init__(self, peers: list[Peer]) -> None:
        self.open = peers
        self.received = 0
        self.closed = 0

    async def read(self) -> None:
        """Read until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += TICK
            await asyncio.sleep(max(0, due - loop.time()))
            self.read_once(int(SPEED * TICK))

    def read_once(self, size: int) -> int:
        """Read up to ``size`` bytes of each; return how many bytes that are."""
        total = 0
        for peer in self.open[:]:
            try:
                data = peer.socket.recv(size)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            total += len(data)
            if not data or b"Too Slow" in data:
                self.closed += 1
                self.open.remove(peer)
        self.received += total
        return total

    async def finish(self) -> None:
        """Read what is left, as fast as possible."""
        quiet = 0
        while quiet < 10:
            quiet = 0 if self.read_once(1 << 20) else quiet + 1
            await asyncio.sleep(TICK)


ATTACK = Attack(attack, __file__)


async def test_one_member_cannot_get_the_others_closed() -> None:
    """The user is limited before the others, who read slowly, have too much unsent data."""
    report = await ATTACK.measure()
    assert report.outcome["readers closed"] == 0, report
    assert report.outcome["MB each"] > 0.5, report
    assert report.outcome["refused"] > 0, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
