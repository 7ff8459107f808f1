"""Clients that miss a long history on Redis and read it slowly."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import pytest
from attacks import TEST_SECONDS, Outcome, Target
from handshakes import request as handshake
from long_history import EVENTS, HISTORY, ROOM, main, measure_attack
from serving import PATH, token_for
from wire import Peer, masked

from roomcast.protocol.frames import CLOSE, TEXT

READERS = 5
#: How fast each client reads, in bytes a second.
READ_RATE = 200_000


class Reader:
    """A user that resumes the whole history slowly, and again from its last event whenever it is disconnected."""

    def __init__(self, target: Target, user_id: int) -> None:
        self._target = target
        self._user_id = user_id
        #: The offset of the last event, and how often the reader has connected.
        self.offset = 0
        self.connections = 0

    async def run(self) -> None:
        """Read at ``READ_RATE`` for the time of the attack, then the rest at once; check that no event is missing."""
        loop = asyncio.get_running_loop()
        slow_until = loop.time() + self._target.seconds
        while self.offset < EVENTS:
            self.connections += 1
            peer = await Peer.connect(("127.0.0.1", self._target.port), receive_buffer=65_536)
            try:
                await peer.send(handshake(f"{PATH}?token={token_for(self._user_id)}"))
                await peer.head()
                epoch = await self._join(peer, None)
                assert await self._join(peer, f"{epoch}-{self.offset}") == epoch
                opcode = TEXT
                while opcode != CLOSE and self.offset < EVENTS:
                    opcode, payload = await peer.frame()
                    if opcode == TEXT and (event := json.loads(payload))["type"] == "message":
                        assert event["id"] == f"{epoch}-{self.offset + 1}"
                        self.offset += 1
                        if loop.time() < slow_until:
                            await asyncio.sleep(len(payload) / READ_RATE)
            except EOFError:
                pass
            finally:
                peer.close()

    async def _join(self, peer: Peer, since: str | None) -> str:
        """Join and leave the room, or join it to resume; return the room's epoch."""
        await self._command(peer, "join_room", {"since": since})
        while (event := json.loads((await peer.frame())[1]))["type"] != "joined_room":
            pass
        assert event["data"]["recovered"] is (since is not None)
        return str(event["data"]["last_id"]).partition("-")[0]

    async def _command(self, peer: Peer, type: str, data: object) -> None:
        await peer.send(masked(TEXT, json.dumps({"type": type, "room": ROOM, "data": data}).encode()))


async def attack(target: Target) -> Outcome:
    """Five users resume a history of 30 MB and read it at 200 KB a second, later as fast as they can."""
    readers = [Reader(target, number) for number in range(1, READERS + 1)]
    await asyncio.gather(*(reader.run() for reader in readers))
    return {
        "events": [reader.offset for reader in readers],
        "connections": [reader.connections for reader in readers],
    }


@pytest.mark.redis
async def test_a_long_history_is_read_once() -> None:
    """Each reader gets each event once, and Redis sends the history at most twice for each; the others go on."""
    report, sent = await measure_attack(attack, __file__, TEST_SECONDS, ANNOUNCE_MAX="0")
    assert report.outcome["events"] == [EVENTS] * READERS
    assert sent < 2 * HISTORY * READERS, report
    report.check_others()


if __name__ == "__main__":
    main(attack, __file__, ANNOUNCE_MAX="0")
