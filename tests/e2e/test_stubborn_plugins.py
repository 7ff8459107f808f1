"""Plugins that hang, or do not let themselves be cancelled, cannot keep a server from starting or ending."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from redis_servers import RedisServer, free_port
from shell import PATIENCE, SECRET, Process, Running, refusal
from websockets.sync.client import connect

from roomcast.auth.identity import make_token

pytestmark = pytest.mark.slow

URL = f"/api/v1/ws/connect?token={make_token(SECRET, user_id=1, username='alice', rooms=['*'])}"

PLUGIN = """
import asyncio, os, threading, time
from marshmallow import Schema
from roomcast import Plugin

stubborn = Plugin("stubborn")
tasks = []
HOW = os.environ.get("HOW", "")
if HOW == "import":
    raise LookupError("no such table")

async def hang():
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

@stubborn.lifespan
async def connect_database(service):
    if HOW == "start":
        await hang()
    if HOW == "raise":
        raise LookupError("no such table")
    if HOW == "task":
        tasks.append(asyncio.create_task(hang(), name="the plugin's task"))
    if HOW == "thread":
        threading.Thread(target=time.sleep, args=(1000,), name="feed reader").start()
    yield
    if HOW == "stop":
        await hang()

@stubborn.command("stubborn.hang", Schema, access="anyone")
async def hang_for_ever(ctx, data):
    await hang()

@stubborn.command("stubborn.thread", Schema, access="anyone")
async def block_thread(ctx, data):
    await asyncio.to_thread(time.sleep, 1000)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the plugin in a folder; return the folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("stubborn")
    (folder / "stubborn_plugin.py").write_text(PLUGIN)
    info: Path = folder / "stubborn_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stubborn-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[roomcast.plugins]\nstubborn = stubborn_plugin:stubborn\n")
    return str(folder)


def test_a_lifespan_that_hangs_stops_the_start(folder: str) -> None:
    """The sentence names the plugin and the function."""
    options = {"PYTHONPATH": folder, "JWT_SECRET": SECRET, "LIFESPAN_TIMEOUT": "0.2", "HOW": "start"}
    with Process("serve", "--port", str(free_port()), **options) as server:
        assert server.ended() == 1
        sentence = server.wait_for("did not start within", server.err)
    assert "lifespan 'connect_database' of plugin 'stubborn'" in sentence.string
    assert "0.2 s (LIFESPAN_TIMEOUT). It does not end, although it was cancelled." in sentence.string


def test_a_lifespan_that_hangs_at_the_end_is_left_behind(folder: str) -> None:
    """The process ends with status 0, and the log names the plugin and the function."""
    with Running(PYTHONPATH=folder, LIFESPAN_TIMEOUT="0.2", HOW="stop") as server:
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        server.wait_for("lifespan 'connect_database' of plugin 'stubborn' .* does not stop, although", server.err)


def test_a_task_of_a_plugin_is_left_behind(folder: str) -> None:
    """The process ends with status 0, and the log has the name of the task."""
    with Running(PYTHONPATH=folder, HOW="task") as server:
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        place = r"in hang, .*stubborn_plugin\.py:\d+"
        server.wait_for(rf"the plugin's task.* \({place}.*\) does not end, although it was cancelled", server.err)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thread_of_a_plugin_is_left_behind(folder: str, redis_server: RedisServer, workers: int) -> None:
    """The process ends with status 0, although Python waits for threads, and the log has the name of the thread."""
    options = {"REDIS_URL": redis_server.url} if workers > 1 else {}
    command = ("serve", "--port", "0", "--workers", str(workers))
    with Running(*command, PYTHONPATH=folder, HOW="thread", **options) as server:
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        server.wait_for("thread 'feed reader' .* does not end; the process ends without it", server.err, times=workers)


def test_handlers_and_threads_are_left_behind(folder: str) -> None:
    """The client of a handler that suppresses its cancellation gets ``timeout``, and the process ends."""
    with Running(PYTHONPATH=folder, HANDLER_TIMEOUT="0.2") as server, connect(server.ws + URL) as client:
        client.recv(PATIENCE)
        client.send(json.dumps({"type": "stubborn.thread", "id": 1}))
        answer = json.loads(client.recv(PATIENCE))
        assert (answer["id"], answer["data"]["code"]) == (1, "timeout")
        client.send(json.dumps({"type": "stubborn.hang", "id": 2}))
        client.send(json.dumps({"type": "ping", "id": 3}))
        answer = json.loads(client.recv(PATIENCE))
        assert (answer["id"], answer["data"]["code"]) == (2, "timeout")
        assert json.loads(client.recv(PATIENCE))["id"] == 3
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        command = "command stubborn.hang of plugin 'stubborn' by user 1"
        server.wait_for(f"{command} took over 0.2 s", server.err)
        server.wait_for(f"{command} does not end, although it was cancelled; its client goes on without it", server.err)
        server.wait_for(r"task .command stubborn\.hang .* \(in hang, .*stubborn_plugin\.py:\d+", server.err)
        server.wait_for(r"thread 'asyncio_0' .* does not end; the process ends without it", server.err)


@pytest.mark.parametrize("how", ["import", "raise"])
def test_the_traceback_of_a_failed_start_is_shown_for_debugging(folder: str, how: str) -> None:
    """Otherwise the failure is one sentence."""
    options = {"PYTHONPATH": folder, "JWT_SECRET": SECRET, "HOW": how}
    sentence = refusal("serve", "--port", str(free_port()), **options)
    assert "LookupError: no such table" in sentence
    with Process("serve", "--port", str(free_port()), LOG_LEVEL="debug", **options) as server:
        assert server.ended() == 2
        server.wait_for(r'File ".*stubborn_plugin\.py", line \d+', server.err)
        server.wait_for(
            f"Error: .*{'could not be imported' if how == 'import' else 'failed as it started'}", server.err
        )


def test_workers_show_the_traceback_too(folder: str, redis_server) -> None:
    """The worker logs it, and the supervisor shows the sentence."""
    options = {"PYTHONPATH": folder, "JWT_SECRET": SECRET, "HOW": "raise", "REDIS_URL": redis_server.url}
    with Process("serve", "--port", str(free_port()), "--workers", "2", LOG_LEVEL="debug", **options) as server:
        assert server.ended() != 0
        server.wait_for(r'File ".*stubborn_plugin\.py", line \d+', server.err)
