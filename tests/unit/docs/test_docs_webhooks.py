"""The page about webhooks: its example of a receiver, its request, and its tables."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import aiohttp
import orjson
import pytest
from docs_pages import rows, snippet
from redis_servers import free_port
from serving import Serve, connect
from shell import PATIENCE, TASK, environment, roomcast
from waiting import wait_until
from webhook_receiver import SECRET

from roomcast.plugins.webhook.events import TYPES, published_event, state_event
from roomcast.plugins.webhook.settings import WebhookSettings


async def test_the_receiver_works(serve: Serve, tmp_path: Path) -> None:
    """The example verifies webhooks, knows the users who are online, and prints published events."""
    program, output = tmp_path / "receiver.py", tmp_path / "output"
    program.write_text(snippet("a receiver of webhooks"))
    port = free_port()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(program), str(port)],
            env={**os.environ, "WEBHOOK_SECRET": SECRET},
            stdout=file,
            stderr=file,
        )
    try:
        variables = {"WEBHOOK_URL": f"http://127.0.0.1:{port}/webhooks", "WEBHOOK_SECRET": SECRET}
        server = await serve(plugin_variables=variables, presence_grace=0.1)
        async with aiohttp.ClientSession() as session:

            async def online() -> list[int] | None:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/online") as response:
                        return await response.json()
                except aiohttp.ClientError:
                    return None

            async def is_online(users: list[int]) -> bool:
                return await online() == users

            async with connect(server, 7) as alice:
                await wait_until(lambda: is_online([7]))
                await alice.join("channel:1")
                await alice.send("send_message", "channel:1", {"content": "Hello"})
                await wait_until(lambda: output.read_text() == "channel:1 message\n")
            await wait_until(lambda: is_online([]))
            async with session.post(variables["WEBHOOK_URL"], data=b"[]") as response:
                assert response.status == 401
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_lines_to_try_it_work(tmp_path: Path) -> None:
    """The receiver and ``roomcast dev`` have the same secret, and a published event arrives."""
    (tmp_path / "receiver.py").write_text(snippet("a receiver of webhooks"))
    lines = snippet("try webhooks").replace("9000", str(free_port()))
    script = lines.replace("roomcast dev", "exec roomcast dev --port 0 --json")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-euc", script], cwd=tmp_path, env=environment(PATH=path), stdout=file, start_new_session=True
        )

    def printed(beginning: str) -> str:
        """Wait for a line that begins with the text, and return it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            found = [line for line in output.read_text().splitlines(keepends=True) if line.startswith(beginning)]
            if found and found[0].endswith("\n"):
                return found[0]
            time.sleep(0.05)
        raise AssertionError(output.read_text())

    try:
        document = orjson.loads(printed("{"))
        key = document["environment"]["API_KEY"]
        roomcast("publish", "task.created", "project:1", TASK, "--url", document["url"], API_KEY=key)
        assert printed("project:1") == "project:1 task.created\n"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_request_has_the_form_of_events() -> None:
    """The events in the example have the fields of real ones."""
    user, published = orjson.loads(snippet("a request of a webhook"))
    assert user.keys() == state_event("user:7", is_present=True).keys()
    assert user["data"] == state_event("user:7", is_present=True)["data"]
    assert published == published_event(published["data"])


def test_all_settings_and_types_are_listed() -> None:
    """The tables have each setting, and each type of event."""
    settings = [row[0].strip("`") for row in rows("docs/webhooks.md") if row[0].startswith("`WEBHOOK_")]
    assert settings == [f"WEBHOOK_{field.name.upper()}" for field in fields(WebhookSettings)]
    assert tuple(row[0].strip("`") for row in rows("docs/webhooks.md", "## Events")[1:]) == TYPES
