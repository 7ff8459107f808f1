"""One user fills Redis with large messages."""

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

#: Less than the default of WS_MESSAGE_RATE.
RATE = 95
#: What Redis may use, in bytes: filled within 2 s before.
MAXMEMORY = 40_000_000
JOIN = b'{"type":"join_room","room":"channel:2"}'
DATA = {"content": "x", "metadata": {"filler": "x" * 65_000}}
SEND = json.dumps({"type": "send_message", "room": "channel:2", "data": DATA}).encode()


async def attack(target: Target) -> Outcome:
    """One user sends messages of 64 KB in one room on five connections, as fast as the message rate allows."""
    loop = asyncio.get_running_loop()
    end = loop.time() + target.seconds
    sent = 0

    async def flood() -> None:
        nonlocal sent
        peer = await target.websocket()
        frame = masked(TEXT, SEND)
        reading = asyncio.create_task(peer.wait_until_closed())
        count, begun = 0, loop.time()
        try:
            await peer.send(masked(TEXT, JOIN))
            while loop.time() < end and not reading.done():
                await peer.send(frame)
                count += 1
                await asyncio.sleep(max(0, begun + count / RATE - loop.time()))
        except (OSError, TimeoutError):
            pass
        finally:
            sent += count
            reading.cancel()
            peer.close()

    while loop.time() < end:
        await asyncio.gather(*(flood() for _ in range(CONNECTIONS)))
    peer = await target.connect()
    await peer.send(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head = await peer.head()
    return {"sent MB": sent * len(SEND) // 10**6, "ready": head.split(b" ")[1].decode()}


async def measure(seconds: float) -> None:
    """Run the attack on a server with a small Redis; check the results, and print them."""
    async with RedisServer(maxmemory=MAXMEMORY, maxmemory_policy="noeviction") as server:
        attack_on_redis = Attack(attack, __file__, REDIS_URL=server.url, WS_BYTE_RATE="0")
        report = await attack_on_redis.measure(seconds)
        used = (await server.info("memory"))["used_memory_dataset"]
    print(f"{report}\nRedis:                {used / 1e6:.1f} MB of data")
    # How fast the others' messages are is not checked: without WS_BYTE_RATE, nothing limits the bytes of one user.
    assert not report.lost, report
    assert report.outcome["ready"] == "200", report
    assert used < MAXMEMORY / 4


@pytest.mark.redis
async def test_one_room_does_not_fill_redis() -> None:
    """The history of a room is bounded in bytes, so Redis does not fill, and the server stays ready."""
    await measure(2.0)


if __name__ == "__main__":
    if "--attack" in sys.argv:
        Attack(attack, __file__).main()
    else:
        asyncio.run(measure(8.0))
