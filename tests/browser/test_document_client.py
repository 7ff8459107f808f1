"""The complete chat client of docs/protocol.md, unchanged, in Chromium and with the URL that it names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from browser import PATIENCE, chromium
from client_pages import page_server
from docs_pages import snippet
from serving import SECRET, running

from roomcast.auth.identity import make_token
from roomcast.web.server import Server

pytestmark = pytest.mark.browser

#: A page with the example as its script.
PAGE = f'<!doctype html><link rel="icon" href="data:,"><script>{snippet("complete chat client")}</script>'


@asynccontextmanager
async def gateway(origin: str) -> AsyncIterator[Server]:
    """Run a server that allows pages of ``origin``."""
    async with running(api_key=None, allowed_origins=(origin,)) as server:
        yield server


async def test_example_client_runs_unchanged():
    """It connects to localhost:8000, joins channel:1, sends a message and receives a task event."""
    token = make_token(SECRET, user_id=12345, username="alice", rooms=["channel:*"])
    page_with_token = PAGE.replace('"your_jwt_token"', f'"{token}"')
    async with (
        page_server(page_with_token) as origin,
        gateway(origin) as server,
        chromium(f"--host-resolver-rules=MAP localhost:8000 127.0.0.1:{server.port}") as browser,
    ):
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE)
        logged: list[str] = []
        page.on("console", lambda message: logged.append(message.text))
        async with page.expect_console_message(lambda message: message.text == "Connected as alice"):
            await page.goto(origin)
        async with page.expect_console_message(lambda message: message.text == "alice: Hello everyone!"):
            # The example logs no line when it has joined the room.
            await page.evaluate('client.sendMessage("channel:1", "Hello everyone!")')
        async with page.expect_console_message(lambda message: message.text == "New task: Write it down"):
            data = {"task_id": 789, "title": "Write it down"}
            await server.gateway.publishing.publish("task.created", "channel:1", data, "alice", None)
        assert logged == ["Connected as alice", "alice: Hello everyone!", "New task: Write it down"]
