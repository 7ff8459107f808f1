"""The complete chat of docs/javascript-client.md, unchanged, in Chromium and with the URL that it names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from browser import PATIENCE, chromium
from client_pages import page_server, publish
from docs_pages import snippet
from playwright.async_api import Browser, Page
from serving import running, token_for

from roomcast.web.server import Server

pytestmark = pytest.mark.browser

CHAT = snippet("a chat")
#: A page with an icon, so that the browser requests none.
PAGE = CHAT.replace("<!doctype html>", '<!doctype html><link rel="icon" href="data:," />')


@asynccontextmanager
async def chat() -> AsyncIterator[tuple[Server, Browser, str]]:
    """Serve the page. Yield the server, a browser that finds it at localhost:8000, and the origin of the page."""
    async with (
        page_server(PAGE) as origin,
        running(allowed_origins=(origin,)) as server,
        chromium(f"--host-resolver-rules=MAP localhost:8000 127.0.0.1:{server.port}") as browser,
    ):
        yield server, browser, origin


async def visit(browser: Browser, origin: str, user_id: int, username: str) -> tuple[Page, list[str]]:
    """Open the page as a user. Return it and its uncaught errors."""
    page = await (await browser.new_context()).new_page()
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept("edited text"))
    await page.route("**/my/token", lambda route: route.fulfill(body=token_for(user_id, username)))
    await page.goto(origin)
    return page, errors


def test_chat_needs_fewer_than_30_lines():
    """Of the script, without blank lines: the same page needed 137 lines without room objects."""
    script = re.search(r"<script[^>]*>(.*)</script>", CHAT, re.DOTALL)
    assert script is not None
    lines = [line for line in script[1].splitlines() if line.strip()]
    assert len(lines) < 30
    assert max(len(line) for line in lines) <= 120


async def test_chat_works():
    """Members, older messages, typing, unread messages, edits, and messages that could not be sent."""
    async with chat() as (server, browser, origin):
        await publish(server, *(f"old {n}" for n in range(60)))
        alice, alice_errors = await visit(browser, origin, 1, "alice")
        lines = alice.locator("#messages li")
        await alice.wait_for_function("document.querySelectorAll('#messages li').length === 50")
        await alice.get_by_text("60 new").wait_for()
        await alice.locator("#messages").hover()
        await alice.wait_for_function("document.getElementById('unread').textContent === ''")
        await alice.get_by_role("button", name="Older").click()
        await alice.wait_for_function("document.querySelectorAll('#messages li').length === 60")
        assert await lines.first.text_content() == "bob: old 0"
        await alice.wait_for_function("document.getElementById('older').hidden")
        bob, bob_errors = await visit(browser, origin, 2, "bob")
        await alice.get_by_text("Here: alice, bob").wait_for()
        await bob.locator("#input").press_sequentially("Hello")
        await alice.get_by_text("bob typing").wait_for()
        await bob.keyboard.press("Enter")
        await alice.get_by_text("bob: Hello").wait_for()
        await alice.wait_for_function("document.getElementById('typers').textContent === ''")
        await alice.get_by_text("1 new").wait_for()
        await bob.get_by_text("bob: Hello").click()
        await alice.get_by_text("bob: edited text (edited)").wait_for()
        await alice.locator("#input").fill("x" * 10_001)
        await alice.keyboard.press("Enter")
        await alice.get_by_text("(failed)").wait_for()
        await bob.close()
        await alice.get_by_text("Here: alice", exact=True).wait_for()
        assert alice_errors == bob_errors == []
