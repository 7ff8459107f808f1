"""Responses that the client does not read: pipelined requests for a file, from clients without a token."""

import asyncio
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target
from wire import Peer

CONNECTIONS = 100
REQUESTS = b"GET /static/roomcast.js.map HTTP/1.1\r\nHost: a\r\n\r\n" * 2000


async def attack(target: Target) -> Outcome:
    """One hundred connections send requests without an end and never read; the client's kernel takes only 4 KB."""
    loop = asyncio.get_running_loop()
    address = ("127.0.0.1", target.port)
    peers = [await Peer.connect(address, receive_buffer=4096) for _ in range(CONNECTIONS)]

    async def flood(peer: Peer) -> bool:
        """Return True if the server ends the connection."""
        try:
            async with asyncio.timeout_at(end):
                while True:
                    await loop.sock_sendall(peer.socket, REQUESTS)
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            peer.close()

    end = loop.time() + target.seconds
    ended = sum(await asyncio.gather(*map(flood, peers)))
    await asyncio.sleep(end - loop.time())
    return {"connections": CONNECTIONS, "ended by the server": ended}


ATTACK = Attack(attack, __file__, HANDSHAKE_TIMEOUT="0.5")


async def test_connections_that_do_not_read_are_ended() -> None:
    """All are ended while the attack runs, and the others go on."""
    report = await ATTACK.measure(6)
    assert report.outcome["ended by the server"] == CONNECTIONS, report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
