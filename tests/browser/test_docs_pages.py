"""The documentation's examples for pages do what the text says, run as they are written in a real Chromium."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from browser import PATIENCE, chromium
from docs_pages import code, rows, snippet
from playwright.async_api import Page
from serving import Serve, answer, connect, token_for, url

from roomcast.errors import SERVICE_RESTART
from roomcast.web.server import Server

pytestmark = pytest.mark.browser

LOCAL = "localhost:8000"
ROOM = "channel:456"


@asynccontextmanager
async def page_of(server: Server) -> AsyncIterator[Page]:
    """Open a page of the server's own origin."""
    async with chromium() as browser:
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE)
        await page.goto(url(server, "/health/live"))
        yield page


def script(server: Server, text: str, before: str = "", after: str = "") -> str:
    """Return a snippet for ``server``, with alice's token in ``token`` and other lines before and after it."""
    source = text.replace(LOCAL, f"127.0.0.1:{server.port}")
    return f"const token = {token_for(1, 'alice')!r};\n{before}\n{source}\n{after}"


async def logged(page: Page, text: str, source: str) -> None:
    """Run ``source`` in the page, and wait until it logs ``text``."""
    async with page.expect_console_message(lambda message: text in message.text):
        await page.add_script_tag(content=source)


async def test_from_a_page(serve: Serve) -> None:
    """The lines of the README join the room and send a message there."""
    server = await serve()
    head, _, body = snippet("from a page").replace(LOCAL, f"127.0.0.1:{server.port}").partition("\n")
    token = f"const token = {token_for(1, 'alice')!r};"
    async with connect(server, 2, "bob") as bob, page_of(server) as page:
        await bob.join(ROOM)
        async with page.expect_console_message(lambda message: message.type == "log") as said:
            await page.add_script_tag(content=f"{head}\n{token}\n{body}", type="module")
        assert (await said.value).text == "alice: Hello everyone!"
        assert (await bob.recv_type("message"))["data"]["content"] == "Hello everyone!"


async def test_the_module_is_where_it_says(serve: Serve) -> None:
    """The address in the import is one that pages of other origins may import from."""
    server = await serve()
    async with answer(server, "GET", "/static/roomcast.js", key=None) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_connect_with_roomcast_js(serve: Serve) -> None:
    """With a function that fetches the token, the lines connect and send a message."""
    server = await serve()
    source = snippet("connect with roomcast.js").replace(LOCAL, f"127.0.0.1:{server.port}")
    async with page_of(server) as page:
        await page.route("**/my/token", lambda route: route.fulfill(body=token_for(1, "alice")))
        async with page.expect_console_message(lambda message: message.text == "alice: Hello everyone!"):
            await page.add_script_tag(content=source, type="module")


async def test_connect_with_a_plain_websocket(serve: Serve) -> None:
    """The first example of the protocol connects and logs the welcome."""
    server = await serve()
    async with page_of(server) as page, page.expect_console_message(lambda message: message.text == "Connected"):
        await logged(page, "Received:", script(server, snippet("connect with a plain WebSocket")))


async def test_resume_with_a_plain_websocket(serve: Serve) -> None:
    """The example logs new events, and after a reconnect only those that it has missed."""
    server = await serve()

    async def run(last: Any, text: str) -> Any:
        """Run the example with the last id, wait until it logs ``text``, close it and return its last id."""
        source = script(server, snippet("resume with a plain WebSocket"), f"let lastId = {json.dumps(last)};")
        await logged(page, text, f"{{ {source}\nwindow.end = () => (ws.close(), lastId); }}")
        return await page.evaluate("end()")

    async with connect(server, 2, "bob") as bob, page_of(server) as page:
        await bob.join(ROOM)
        last = await run(None, "user_joined")
        assert isinstance(last, str)
        lines: list[str] = []
        page.on("console", lambda message: lines.append(message.text))
        await bob.send("send_message", ROOM, {"content": "missed"})
        await bob.recv_type("message")
        await run(last, "missed")
        types = [line.split(" ")[0] for line in lines]
        assert types[: types.index("message") + 1] == ["connected", "joined_room", "message"]


async def test_automatic_reconnection(serve: Serve) -> None:
    """The example connects again after the server has closed the connection."""
    server = await serve()
    async with page_of(server) as page:
        await page.add_script_tag(content=script(server, snippet("automatic reconnection"), after="connect();"))
        for closed in (False, True):
            await page.wait_for_function("ws.readyState === WebSocket.OPEN")
            if not closed:
                first = await page.evaluate("() => { window.first = ws; return true; }")
                assert first
                for connection in list(server.gateway.keepalive.connections):
                    connection.close(SERVICE_RESTART)
                await page.wait_for_function("ws !== window.first")


async def test_heartbeat(serve: Serve) -> None:
    """The example sends a ping after 30 seconds."""
    server = await serve()
    before = f"const ws = new WebSocket(`ws://127.0.0.1:{server.port}/api/v1/ws/connect?token=${{token}}`);"
    pong = "ws.onmessage = ({ data }) => console.log(data); ws.onopen = () => console.log('open');"
    async with page_of(server) as page:
        await page.clock.install()
        await logged(page, "open", script(server, snippet("heartbeat"), before, pong))
        async with page.expect_console_message(lambda message: '"pong"' in message.text):
            await page.clock.fast_forward(30_000)


async def test_message_queue_for_offline(serve: Serve) -> None:
    """Messages that are sent before the connection is open are sent as soon as it is, in order."""
    server = await serve()
    before = f"const ws = new WebSocket(`ws://127.0.0.1:{server.port}/api/v1/ws/connect?token=${{token}}`);"
    messages = [
        {"type": "join_room", "room": ROOM},
        {"type": "send_message", "room": ROOM, "data": {"content": "queued"}},
    ]
    after = "".join(f"sendMessage({json.dumps(message)});\n" for message in messages)
    async with connect(server, 2, "bob") as bob, page_of(server) as page:
        await bob.join(ROOM)
        await page.add_script_tag(content=script(server, snippet("message queue for offline"), before, after))
        async with asyncio.timeout(PATIENCE / 1000):
            assert (await bob.recv_type("message"))["data"]["content"] == "queued"


async def test_every_option_of_the_client_is_listed(serve: Serve) -> None:
    """The table of options has the names and defaults of ``DEFAULTS``, in its order."""
    server = await serve()
    async with page_of(server) as page:
        defaults = await page.evaluate(
            """async () => {
                const { DEFAULTS } = await import("/static/roomcast.js");
                const text = (value) => (value === Infinity ? "Infinity" : JSON.stringify(value));
                return Object.entries(DEFAULTS).map(([name, value]) => [name, typeof value, text(value)]);
            }"""
        )
    listed = {code(row[0]): row[1] for row in rows("docs/javascript-client.md", "## Options") if row[0].startswith("`")}
    assert list(listed) == [name for name, *_ in defaults]
    for name, kind, value in defaults:
        if kind in ("number", "boolean") or value == "null":
            assert listed[name] == value
    reconnect = json.loads(next(value for name, _, value in defaults if name == "reconnect"))
    assert listed["reconnect"] == f"`{{ {', '.join(f'{name}: {value}' for name, value in reconnect.items())} }}`"
