"""One user fills the broker with idempotency keys, the longest that there are."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import pytest
from attacks import CONNECTIONS, Attack, Outcome, Target
from redis_servers import RedisServer
from wire import masked

from roomcast.protocol.frames import TEXT
from roomcast.protocol.messages import MAX_KEY

#: Less than the default of WS_MESSAGE_RATE.
RATE = 95
ROOM = f"channel:{'r' * 128}"
JOIN = json.dumps({"type": "join_room", "room": ROOM}).encode()


def message(number: int) -> bytes:
    """Return a small message with a key of emoji, which take 4 bytes each."""
    key = f"{number}/".ljust(MAX_KEY, "\U0001f511")
    return json.dumps({"type": "send_message", "room": ROOM, "data": {"content": "x"}, "key": key}).encode()


async def attack(target: Target) -> Outcome:
    """One user sends messages with long keys on five connections, as fast as the message rate allows."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    keys = 0

    async def flood(first: int) -> None:
        nonlocal keys
        peer = await target.websocket()
        reading = asyncio.create_task(peer.wait_until_closed())
        count, begun = 0, loop.time()
        try:
            await peer.send(masked(TEXT, JOIN))
            while loop.time() < end and not reading.done():
                await peer.send(masked(TEXT, message(first + count)))
                count += 1
                await asyncio.sleep(max(0, begun + count / RATE - loop.time()))
        except (OSError, TimeoutError):
            pass
        finally:
            keys += count
            reading.cancel()
            peer.close()

    await asyncio.gather(*(flood(number * 1_000_000) for number in range(CONNECTIONS)))
    return {"keys": keys}


async def memory_of(server: RedisServer, pattern: str) -> list[int]:
    """Return what each key that matches ``pattern`` takes in Redis, in bytes."""
    async with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for key in await client.keys(pattern):
            pipeline.memory_usage(key)
        return list(await pipeline.execute())


async def measure(seconds: float) -> None:
    """Run the attack on a server with Redis; check the results, and print them."""
    async with RedisServer() as server:
        report = await Attack(attack, __file__, REDIS_URL=server.url).measure(seconds)
        sizes = await memory_of(server, "*!claim:*"), await memory_of(server, "*:k:*")
    each = sum(sum(some) / len(some) for some in sizes)
    print(f"{report}\nRedis:                {sum(map(sum, sizes)) / 1e6:.2f} MB, {each:.0f} bytes for each key")
    report.check_others()
    assert report.outcome["keys"] > 100, report
    assert each < 1000, report


@pytest.mark.redis
async def test_long_keys_are_stored_short() -> None:
    """A key takes the same memory whatever its length, and the others notice nothing."""
    await measure(2.0)


if __name__ == "__main__":
    if "--attack" in sys.argv:
        Attack(attack, __file__).main()
    else:
        asyncio.run(measure(8.0))
