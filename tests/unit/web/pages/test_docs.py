"""The documents as a server gives them, and the page that shows them, in a real Chromium."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from aiohttp import web
from browser import PATIENCE, chromium
from jsonschema import Draft202012Validator
from playwright.async_api import expect
from serving import Serve, answer, call, connect, url

from roomcast.web import routes


async def test_the_documents_are_of_this_server(serve: Serve) -> None:
    """AsyncAPI and OpenAPI are there without a key, name the host that was asked, and may be read by other pages."""
    server = await serve()
    for path, named in (("/asyncapi.json", f"127.0.0.1:{server.port}"), ("/openapi.json", url(server, ""))):
        async with answer(server, "GET", path, key=None) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert f'"{named}"' in json.dumps(await response.json())


OF_ROOM = "/api/v1/rooms/{room}"
OF_USER = "/api/v1/users/{user_id}"
EVENT = {"type": "task.created", "room": "project:1", "data": {"task_id": 1, "title": "Ship"}, "sender": "alice"}
#: Calls of the API: method, path as the document has it, what stands in its braces, body, status.
ANSWERS: list[tuple[str, str, dict[str, Any], Any, int]] = [
    ("post", "/api/v1/events", {}, EVENT, 200),
    ("post", "/api/v1/events", {}, [EVENT, EVENT], 200),
    ("post", "/api/v1/events", {}, 7, 422),
    ("post", "/api/v1/events", {}, [EVENT, {**EVENT, "data": {"title": 1}}, {}], 422),
    ("get", "/api/v1/rooms", {}, None, 200),
    ("get", f"{OF_ROOM}/members", {"room": "project:1"}, None, 200),
    ("get", f"{OF_ROOM}/members", {"room": "nowhere"}, None, 422),
    ("get", f"{OF_ROOM}/history", {"room": "project:1"}, None, 200),
    ("get", f"{OF_ROOM}/history", {"room": "planet:1"}, None, 422),
    ("delete", f"{OF_ROOM}/members/{{user_id}}", {"room": "project:1", "user_id": 2}, None, 200),
    ("delete", f"{OF_ROOM}/members/{{user_id}}", {"room": "project:1", "user_id": "a b"}, None, 422),
    ("delete", f"{OF_USER}/connections", {"user_id": 2}, None, 200),
    ("delete", f"{OF_USER}/tokens", {"user_id": 2}, None, 200),
    ("delete", f"{OF_USER}/tokens", {"user_id": "a b"}, None, 422),
    ("delete", f"{OF_USER}/tokens/{{jti}}", {"user_id": "bob", "jti": "7"}, None, 200),
    ("delete", f"{OF_USER}/tokens/{{jti}}", {"user_id": "a b", "jti": "7"}, None, 422),
    ("post", "/api/v1/tickets", {}, None, 401),
]


async def test_the_api_answers_as_documented(serve: Serve) -> None:
    """Each call has its answer in /openapi.json, with its status and schema, also when it is refused."""
    server = await serve()
    _, document = await call(server, "GET", "/openapi.json", key=None)
    async with connect(server) as alice:
        await alice.join("project:1")
        for method, path, values, body, expected in ANSWERS:
            status, given = await call(server, method.upper(), path.format(**values), body)
            assert status == expected, (method, path, given)
            described = document["paths"][path][method]["responses"][str(status)]
            schema = described["content"]["application/json"]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(given)
    tried = {(method, path) for method, path, *_ in ANSWERS}
    assert tried == {(m, p) for p, kinds in document["paths"].items() if p.startswith("/api/") for m in kinds}


def test_every_call_of_the_api_is_tried() -> None:
    """There is no route of the API but its answers are held against the document."""
    app = web.Application()
    routes.add_api_routes(app.router)
    paths = {(route.method.lower(), route.resource.canonical) for route in app.router.routes() if route.resource}
    tried = {(method, path) for method, path, *_ in ANSWERS}
    assert {(method, path) for method, path in paths if method not in ("*", "head")} <= tried


async def test_the_page_is_safe(serve: Serve) -> None:
    """The page runs no script, loads nothing, and says so in a policy; without a console it has no links to it."""
    server = await serve()
    async with answer(server, "GET", "/docs", key=None) as response:
        text = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert "script" not in policy
    assert policy.startswith("default-src 'none'; style-src 'nonce-")
    assert "<script" not in text
    assert "/console#" not in text
    for name in ("send_message", "task.created", "joined_room", "rate_limited", "4410"):
        assert name in text


async def test_what_the_page_shows_is_accepted(serve: Serve) -> None:
    """The page's example of an event, posted as it stands, is published."""
    server = await serve()
    async with answer(server, "GET", "/docs", key=None) as response:
        text = (await response.text()).replace("&#34;", '"')
    found = re.search(r'id="event-task\.created".*?<pre>(.*?)</pre>', text, re.DOTALL)
    assert found is not None
    event = json.loads(found[1])
    posted = {name: event[name] for name in ("type", "room", "data", "sender")}
    status, _ = await call(server, "POST", "/api/v1/events", posted)
    assert status < 300


@pytest.mark.browser
async def test_an_example_opens_in_the_console(serve: Serve) -> None:
    """A link of the page opens the console with the form chosen and filled, ready to be published; nothing is wide."""
    server = await serve(dev=True)
    async with chromium() as browser:
        page = await browser.new_page(viewport={"width": 390, "height": 800})
        page.set_default_timeout(PATIENCE)
        await page.goto(url(server, "/docs"))
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.set_viewport_size({"width": 1300, "height": 900})
        await page.click("#event-task\\.created h3 a")
        await expect(page.locator("#event")).to_have_value("task.created")
        await expect(page.locator("#event-room")).to_have_value("channel:456")
        await expect(page.locator('#event-fields [data-path="task_id"] input')).to_have_value("789")
        async with connect(server) as alice:
            await alice.join("channel:456")
            await page.get_by_role("button", name="Publish").click()
            assert (await alice.recv_type("task.created"))["data"]["task_id"] == 789
        await page.goto(url(server, "/docs"))
        await page.click("#command-send_message h3 a")
        await expect(page.locator("#command")).to_have_value("send_message")
        await expect(page.locator('#command-fields [data-path="content"] :is(input, textarea)')).to_have_value("Hello")
