"""For tests of roomcast.js: a page of the server's own origin in a real Chromium, with a client on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from browser import PATIENCE
from playwright.async_api import BrowserContext, Page
from serving import token_for

#: What the page does before a test: `heard` has every frame in order, `said` the texts of the messages among them.
START = """async ([token, options]) => {
    const { ChatClient } = await import("/static/roomcast.js");
    window.heard = [];
    window.said = [];
    window.types = (type) => heard.filter((message) => message.type === type);
    window.states = () => types("state").map((message) => message.data.state);
    window.outcomes = (promises) => Promise.allSettled(promises).then((all) => all.map(
        ({ value, reason }) => value ? { value } : { ...reason, message: reason.message }));
    const bring = token ?? (async (about) => window.bringToken(about));
    window.client = new ChatClient(bring, options);
    client.on("*", (message) => heard.push(message));
    client.on("message", (message) => said.push(message.data.content));
}"""
Token = str | Callable[[dict[str, Any]], str | None] | None
#: Comes back at once, so that a test need not wait for it.
QUICK = {"reconnect": {"base": 10, "max": 50, "drain": 10}, "rate": 0}


class Client:
    """A page with a client. ``complaints`` are its uncaught errors, ``asked`` is what its token function was told."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self._bring: Callable[[dict[str, Any]], str | None] | None = None
        page.on("pageerror", self.complain)

    def complain(self, error: Any) -> None:
        """Keep an error of the page's."""
        self.complaints.append(str(error))

    def bring(self, about: dict[str, Any]) -> str | None:
        """Bring a token, for the page's function."""
        assert self._bring is not None
        self.asked.append(about)
        return self._bring(about)

    async def start(self, token: Token = None, *, join: str | None = None, **options: Any) -> Client:
        """Make a client with ``options``, connected and in the room ``join`` if one is named.

        ``token`` is a token, by default alice's, or a function that brings one, which is given what the client says.
        """
        if callable(token):
            self._bring = token
        fixed = None if callable(token) else token or token_for()
        await self.page.evaluate(START, [fixed, {**QUICK, **options}])
        if join is not None:
            await self.js(f"client.connect(), await client.joinRoom({join!r}), null")
        return self

    async def js(self, expression: str, argument: Any = None) -> Any:
        """The value of an expression in the page, in which ``argument`` is called so; it may await."""
        return await self.page.evaluate(f"async (argument) => ({expression})", argument)

    async def until(self, condition: str) -> None:
        """Wait until the condition holds in the page."""
        await self.page.wait_for_function(condition, polling=20, timeout=PATIENCE)

    async def said(self, count: int) -> list[str]:
        """What was said in the rooms, once it is at least ``count`` messages."""
        await self.until(f"said.length >= {count}")
        said: list[str] = await self.js("said")
        return said


class Pool:
    """The tabs of one browser window, used again from test to test: opening one takes ten times as long."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(PATIENCE)
        self._context = context
        self._free: list[Page] = []
        self._used: dict[Page, Client] = {}

    async def visit(self, port: int) -> Client:
        """A page of the server at ``port``, as yet without a client."""
        page = self._free.pop() if self._free else await self._open()
        client = self._used[page] = Client(page)
        await page.goto(f"http://127.0.0.1:{port}/health/live")
        return client

    async def _open(self) -> Page:
        page = await self._context.new_page()
        await page.expose_function("bringToken", lambda about: self._used[page].bring(about))
        page.on("crash", lambda page: self._used.pop(page, None))
        return page

    async def clear(self) -> None:
        """Leave all pages, and look that none has complained."""
        used, self._used = self._used, {}
        for page, client in used.items():
            page.remove_listener("pageerror", client.complain)
            if not page.is_closed():
                await page.goto("about:blank")
                self._free.append(page)
        assert [client.complaints for client in used.values()] == [[] for _ in used]


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds in this process."""
    async with asyncio.timeout(PATIENCE / 1000):
        while not condition():
            await asyncio.sleep(0.01)
