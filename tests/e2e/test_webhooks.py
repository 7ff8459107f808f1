"""Webhooks of several workers, and while nodes, Redis and the receiver are killed, in a short run.

``WEBHOOK_SOAK_MINUTES=10`` makes it longer.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from paths import TESTS
from redis_servers import RedisServer, run
from shell import PATIENCE, SECRET, Running, publish
from webhook_receiver import SECRET as WEBHOOK_SECRET
from webhook_soak import TOLD, Receiver
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from roomcast.auth.identity import make_token

SOAK = TESTS / "support" / "webhook_soak.py"
ROOM = "channel:1"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver in a process of its own."""
    receiver = Receiver(tmp_path)
    receiver.start()
    yield receiver
    receiver.kill()


def until(receiver: Receiver, condition: Callable[[], bool]) -> None:
    """Wait until what the receiver has accepted fulfils ``condition``."""
    end = time.monotonic() + 3 * PATIENCE
    while True:
        receiver.read()
        if condition():
            return
        assert time.monotonic() < end, (receiver.told, receiver.published)
        time.sleep(0.05)


def is_open(client: ClientConnection) -> bool:
    """Return True if the worker of ``client`` lives."""
    try:
        return client.ping().wait(PATIENCE)
    except ConnectionClosed:
        return False


def consumers(server: Running) -> list[str]:
    """Return the numbers of the workers that have begun to deliver, in order."""
    found = (re.search(r"\[worker (\d)\].*This node delivers webhooks now", line) for line in server.err)
    return [match[1] for match in found if match]


def test_a_worker_that_delivers_is_killed(receiver: Receiver, redis_server: RedisServer, redis_prefix: str) -> None:
    """One of two workers delivers. If it is killed, the other one does, nothing is lost, and the states are right."""
    variables = {
        "REDIS_URL": redis_server.url,
        "REDIS_PREFIX": redis_prefix,
        "REDIS_LEASE": "2",
        "REDIS_TIMEOUT": "1",
        "PRESENCE_GRACE": "0.5",
        "WEBHOOK_URL": f"http://127.0.0.1:{receiver.port}/webhooks",
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    with Running("serve", "--workers", "2", "--port", "0", **variables) as server, ExitStack() as stack:
        pids: dict[str, int] = {}
        for _ in range(2):
            found = server.wait_for(r"\[worker (\d)\] process (\d+) serves", server.err, times=len(pids) + 1)
            pids[found[1]] = int(found[2])
        clients = {}
        for user in range(1, 13):
            token = make_token(SECRET, user_id=user, username=f"u{user}", rooms=["*"])
            client = stack.enter_context(connect(f"{server.ws}/api/v1/ws/connect?token={token}", max_queue=None))
            client.send(json.dumps({"type": "join_room", "room": ROOM}))
            clients[user] = client
        until(receiver, lambda: receiver.told == {**dict.fromkeys(clients, "user.online"), ROOM: "room.occupied"})
        first = consumers(server)[0]
        lines = "".join(
            json.dumps({"type": "message", "room": ROOM, "data": {"content": str(i), "username": "u", "user_id": 1}})
            + "\n"
            for i in range(200)
        )
        receiver.kill()
        assert publish(server, "-", stdin=lines).returncode == 0
        # Until an event is in the queue, it may arrive late, and until that is recorded, twice.
        keys = [("XLEN", f"{{{redis_prefix}:!queue:webhook}}:e", 200), ("HLEN", f"{{{redis_prefix}:{ROOM}}}:e", 0)]
        for command, key, count in keys:
            until(receiver, lambda command=command, key=key, count=count: run(redis_server(command, key)) == count)
        os.kill(pids[first], signal.SIGKILL)
        receiver.start()
        until(receiver, lambda: len(receiver.published.get(ROOM, {})) == 200)
        offsets = [int(id.rpartition("-")[2]) for id in receiver.published[ROOM]]
        assert offsets == sorted(offsets)
        assert receiver.counts["published events that arrived again"] == 0
        expected = {user: "user.online" if is_open(one) else "user.offline" for user, one in clients.items()}
        until(receiver, lambda: {user: receiver.told[user] for user in clients} == expected)
        assert len(consumers(server)) == 2


def test_the_receiver_is_right_within_a_minute() -> None:
    """After each phase of kills, the last state that the receiver was told is right for all users and rooms."""
    minutes = os.environ.get("WEBHOOK_SOAK_MINUTES", "0.25")
    command = [sys.executable, str(SOAK), "--minutes", minutes, "--users", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=float(minutes) * 120 + 600)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(line.strip().rsplit(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
    for name in (*TOLD, "kill_node", "kill_redis", "kill_receiver", "checks"):
        assert int(counts.get(name, 0)) > 0, f"{name}: the soak was idle\n{done.stdout}"
