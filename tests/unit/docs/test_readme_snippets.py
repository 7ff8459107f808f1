"""The README's lines for pages and backends do what it says, run as they stand."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest
from browser import PATIENCE, chromium
from paths import ROOT
from serving import KEY, Serve, answer, call, connect, token_for, url
from shell import environment

from roomcast.web.server import Server

README = (ROOT / "README.md").read_text()
LOCAL = "http://localhost:8000"


def snippet(mark: str) -> str:
    """The block that follows the comment ``mark``."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"the README has no block marked {mark!r}"
    return found[1]


async def run(server: Server, source: str) -> None:
    """Run Python in a process of its own, against ``server``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", source.replace(LOCAL, url(server, ""))),
        env=environment(API_KEY=KEY),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def published(server: Server, room: str = "project:123") -> list[str]:
    """The types of the events in a room."""
    _, body = await call(server, "GET", f"/api/v1/rooms/{room}/history")
    return [event["type"] for event in body["events"]]


async def test_with_requests(serve: Serve) -> None:
    """The lines publish one event, and repeated no other."""
    server = await serve()
    await run(server, snippet("with requests"))
    await run(server, snippet("with requests"))
    assert await published(server) == ["task.created"]


async def test_with_httpx(serve: Serve) -> None:
    """The lines publish both events."""
    server = await serve()
    await run(server, snippet("with httpx"))
    assert await published(server) == await published(server, "task:790") == ["task.status_changed"]


async def test_with_celery(serve: Serve) -> None:
    """The task publishes its event, once however often it is run."""
    server = await serve()
    event = '{"type": "task.deleted", "room": "project:123", "data": {"task_id": 1, "deleted_by": "alice"}}'
    used = f"announce.app.conf.task_always_eager = True\nfor _ in '12':\n    announce.delay({event}, 'k').get()\n"
    await run(server, snippet("with celery") + used)
    assert await published(server) == ["task.deleted"]


@pytest.mark.browser
async def test_from_a_page(serve: Serve) -> None:
    """The module's lines, in a page of the server's, join the room and say hello to it."""
    server = await serve()
    lines = snippet("from a page").replace(LOCAL, url(server, ""))
    head, _, body = lines.partition("\n")
    token = f"const token = {token_for(1, 'alice')!r};"
    async with connect(server, 2, "bob") as bob, chromium() as browser:
        await bob.join("channel:456")
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE)
        await page.goto(url(server, "/health/live"))
        async with page.expect_console_message(lambda message: message.type == "log") as said:
            await page.add_script_tag(content=f"{head}\n{token}\n{body}", type="module")
        assert (await said.value).text == "alice: Hello everyone!"
        assert (await bob.recv_type("message"))["data"]["content"] == "Hello everyone!"


async def test_the_module_is_where_it_says(serve: Serve) -> None:
    """The address in the import is one that pages of other origins may import from."""
    server = await serve()
    async with answer(server, "GET", "/static/roomcast.js", key=None) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
