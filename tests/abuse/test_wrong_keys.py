"""Guesses of the API key, from one address: in the HTTP API, the health check and the console's login."""

import asyncio
import itertools
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from attacks import Attack, Outcome, Target

CONNECTIONS = 3
KEY = "the-key-of-the-operators-backend"
#: How many guesses are sent on a connection without waiting for the answers.
AT_ONCE = 20
HEADS = (
    "GET /api/v1/rooms HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess-{}\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess-{}\r\n\r\n",
    "DELETE /api/v1/users/1/tokens HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess-{}\r\n\r\n",
)


async def attack(target: Target) -> Outcome:
    """Three connections at a time pipeline wrong keys and reconnect when closed. In between, the right key is used."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    numbers = itertools.count()
    statuses: Counter[str] = Counter()
    right: Counter[str] = Counter()

    async def guess() -> None:
        while loop.time() < end:
            peer = await target.connect()
            try:
                await peer.send("".join(HEADS[n % 3].format(n) for n in itertools.islice(numbers, AT_ONCE)).encode())
                while True:
                    head = await peer.head()
                    statuses[head[9:12].decode()] += 1
                    await peer.read(int(head.lower().partition(b"content-length: ")[2].split()[0]))
            except (OSError, EOFError):
                pass
            finally:
                peer.close()

    async def use_right_key() -> None:
        while loop.time() < end:
            peer = await target.connect()
            await peer.send(f"GET /api/v1/rooms HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
            right[(await peer.head())[9:12].decode()] += 1
            peer.close()
            await asyncio.sleep(0.1)

    await asyncio.gather(use_right_key(), *(guess() for _ in range(CONNECTIONS)))
    return {"wrong": dict(statuses), "right": dict(right)}


ATTACK = Attack(attack, __file__, API_KEY=KEY)


async def test_wrong_keys_are_limited_and_the_right_key_is_accepted() -> None:
    """Five guesses are answered with 401, the others with 429. The right key is accepted in between, every time."""
    report = await ATTACK.measure()
    wrong, right = report.outcome["wrong"], report.outcome["right"]
    assert wrong["401"] <= 5 < wrong["429"], report
    assert list(right) == ["200"], report
    report.check_others()


if __name__ == "__main__":
    ATTACK.main()
