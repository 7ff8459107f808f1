"""Hooks of a plugin in processes of their own: each one is called once in the cluster, also after kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis
from redis_servers import RedisServer
from shell import API_KEY, PATIENCE, SECRET, Running
from websockets.sync.client import ClientConnection, connect

from roomcast.auth.identity import make_token

#: REDIS_LEASE of nodes that are killed, in seconds.
LEASE = 2.0
ROOM = "channel:1"
#: A plugin whose hooks append lines to a file. With HANG, hooks of joins and events never end on this node.
PLUGIN = """
import asyncio
import os
from roomcast import Plugin

watch = Plugin("watch")

def note(*words):
    with open(os.environ["NOTES"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

async def hang():
    if os.environ.get("HANG"):
        await asyncio.sleep(3600)

@watch.on_join("channel")
async def joined(ctx):
    note("begin", "join", ctx.room, ctx.user_id)
    await hang()
    note("join", ctx.room, ctx.user_id)

@watch.on_leave("channel")
async def left(ctx):
    note("leave", ctx.room, ctx.user_id)

@watch.on_online
async def online(service, user_id):
    note("online", user_id)

@watch.on_offline
def offline(service, user_id):
    note("offline", user_id)

@watch.before_publish("message")
async def check(service, event):
    note("before", event["source"], event["data"]["content"])

@watch.after_publish("message")
async def store(service, event):
    note("begin", "after", event["room"], event["data"]["content"])
    await hang()
    note("after", event["room"], event["data"]["content"])
"""


class Watched:
    """The notes of the hooks, and the environment of servers with the plugin."""

    def __init__(self, folder: Path, redis: RedisServer, prefix: str) -> None:
        self._redis = redis
        self._changes = f"{{{prefix}:*}}:h"
        self.path = folder / "notes"
        self.path.touch()
        (folder / "watching.py").write_text(textwrap.dedent(PLUGIN))
        info = folder / "watching-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watching\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[roomcast.plugins]\nwatch = watching:watch\n")
        self.environ = {
            "PYTHONPATH": str(folder),
            "NOTES": str(self.path),
            "REDIS_URL": redis.url,
            "REDIS_PREFIX": prefix,
            "REDIS_LEASE": str(LEASE),
            "REDIS_TIMEOUT": "1",
            "PRESENCE_GRACE": "0.5",
            "HANDLER_TIMEOUT": "60",
        }

    def serve(self, *args: str, **variables: str) -> Running:
        """Start a server."""
        return Running("serve", "--port", "0", *args, **self.environ, **variables)

    def notes(self) -> Counter[str]:
        """Return the notes with their numbers."""
        return Counter(self.path.read_text().splitlines())

    def until(self, condition: Callable[[Counter[str]], bool]) -> None:
        """Wait until the notes fulfil ``condition``."""
        end = time.monotonic() + 2 * PATIENCE
        while not condition(self.notes()):
            assert time.monotonic() < end, self.notes()
            time.sleep(0.05)

    def until_processed(self) -> None:
        """Wait until the hooks for joins and leaves are recorded as done: killing their node does not repeat them."""
        end = time.monotonic() + 2 * PATIENCE
        with Redis.from_url(self._redis.url) as client:
            while found := list(client.scan_iter(self._changes)):
                assert time.monotonic() < end, found
                time.sleep(0.05)


@pytest.fixture
def watched(tmp_path: Path, redis_server: RedisServer, redis_prefix: str) -> Watched:
    """The plugin, for servers on the shared Redis."""
    return Watched(tmp_path, redis_server, redis_prefix)


def join(stack: ExitStack, server: Running, user: int, room: str = ROOM) -> ClientConnection:
    """Connect a client of ``user`` that is in ``room``."""
    token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
    client = stack.enter_context(connect(f"{server.ws}/api/v1/ws/connect?token={token}", max_queue=None))
    client.send(json.dumps({"type": "join_room", "room": room}))
    while json.loads(client.recv(PATIENCE))["type"] != "joined_room":
        pass
    return client


def publish(server: Running, *contents: str) -> None:
    """Publish messages over the HTTP API: one alone, several as a list."""
    data = {"username": "bot", "user_id": 0, "metadata": {}}
    events = [{"type": "message", "room": ROOM, "data": {**data, "content": content}} for content in contents]
    body = json.dumps(events[0] if len(events) == 1 else events).encode()
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/api/v1/events", body, headers)
    urllib.request.urlopen(request, timeout=PATIENCE).close()


@pytest.mark.redis
def test_two_nodes(watched: Watched) -> None:
    """Hooks are called once in the cluster, on nodes that share users and rooms, for all sources of events."""
    with watched.serve() as first, watched.serve() as second:
        with ExitStack() as stack:
            client = join(stack, first, 1)
            join(stack, second, 1)
            join(stack, second, 2)
            client.send(json.dumps({"type": "send_message", "room": ROOM, "data": {"content": "a"}}))
            publish(second, "b")
            publish(first, "c", "d")
            watched.until(lambda notes: sum(note.startswith("after") for note in notes) == 4)
        watched.until(lambda notes: notes["offline 1"] + notes["offline 2"] == 2 and notes[f"leave {ROOM} 1"] == 1)
    counted = {note: count for note, count in watched.notes().items() if not note.startswith("begin")}
    per_user = [text for user in (1, 2) for text in (f"join {ROOM} {user}", f"leave {ROOM} {user}")]
    per_user += [text for user in (1, 2) for text in (f"online {user}", f"offline {user}")]
    before = ["before client a", "before api b", "before api c", "before api d"]
    after = [f"after {ROOM} {content}" for content in "abcd"]
    assert counted == dict.fromkeys([*per_user, *before, *after], 1)


@pytest.mark.redis
def test_a_node_is_killed(watched: Watched) -> None:
    """After kill -9 of the only node with a user, another node calls the hooks for the leave once."""
    with watched.serve() as first, watched.serve(), ExitStack() as stack:
        join(stack, first, 1)
        watched.until(lambda notes: notes[f"join {ROOM} 1"] == 1 and notes["online 1"] == 1)
        watched.until_processed()
        first.process.kill()
        watched.until(lambda notes: notes[f"leave {ROOM} 1"] == 1 and notes["offline 1"] == 1)
        time.sleep(2 * LEASE)
    assert watched.notes() == Counter(
        [f"begin join {ROOM} 1", f"join {ROOM} 1", "online 1", f"leave {ROOM} 1", "offline 1"]
    )


@pytest.mark.redis
def test_a_node_is_killed_while_hooks_run(watched: Watched) -> None:
    """Hooks that a killed node had begun are called by another node, and in the order of the user."""
    with watched.serve(HANG="yes") as first, ExitStack() as stack:
        join(stack, first, 1)
        publish(first, "a", "b")
        # The hooks of one room are called one after the other, so the second event waits.
        watched.until(lambda notes: notes[f"begin join {ROOM} 1"] == 1 and notes[f"begin after {ROOM} a"] == 1)
        with watched.serve():
            time.sleep(2 * LEASE)
            assert not watched.notes()[f"join {ROOM} 1"], "the hook still runs on the first node"
            first.process.kill()
            watched.until(
                lambda notes: (
                    notes[f"leave {ROOM} 1"] == 1
                    and notes[f"after {ROOM} a"] == notes[f"after {ROOM} b"] == 1
                    and notes["offline 1"] == 1
                )
            )
            time.sleep(2 * LEASE)
    notes = watched.notes()
    assert notes[f"join {ROOM} 1"] == notes[f"leave {ROOM} 1"] == notes[f"after {ROOM} a"] == 1
    lines = watched.path.read_text().splitlines()
    assert lines.index(f"join {ROOM} 1") < lines.index(f"leave {ROOM} 1")


@pytest.mark.redis
def test_a_worker_is_killed(watched: Watched) -> None:
    """Workers are nodes: after kill -9 of one, another calls the hooks for its users, once."""
    with watched.serve("--workers", "2") as server, ExitStack() as stack:
        server.wait_for(r"\[worker \d\] process \d+ serves", server.err, times=2)
        for user in range(8):
            join(stack, server, user)
        # A member is told before Redis knows it. If the node were killed in between, no hook would be called.
        watched.until(lambda notes: sum(note.startswith(("online", "join")) for note in notes) == 16)
        watched.until_processed()
        text = "".join(server.err)
        pids = [int(found) for found in re.findall(r"\[worker \d\] process (\d+) serves", text)]
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pids[1], signal.SIGKILL)
        watched.until(lambda notes: sum(note.startswith("offline") for note in notes) == 8)
        watched.until(lambda notes: sum(note.startswith("leave") for note in notes) == 8)
        time.sleep(2 * LEASE)
    assert max(watched.notes().values()) == 1
