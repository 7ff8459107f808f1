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
#: Comes back at once, so that a test need not wait for it.
QUICK = {"reconnect": {"base": 10, "max": 50, "drain": 10}, "rate": 0}


class Client:
    """A page with a client. ``complaints`` are the page's uncaught errors; a test's end looks that there are none."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[dict[str, Any]] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def start(
        self,
        token: str | Callable[[dict[str, Any]], str | None] | None = None,
        *,
        join: str | None = None,
        **options: Any,
    ) -> Client:
        """Make a client with ``options``, connected and in the room ``join`` if one is named.

        ``token`` is a token, by default alice's, or a function that brings one; it is given what the client says of it,
        which is kept in ``asked``.
        """
        if callable(token):
            bring = token

            def brought(about: dict[str, Any]) -> str | None:
                self.asked.append(about)
                return bring(about)

            await self.page.expose_function("bringToken", brought)
            token = None
        elif token is None:
            token = token_for()
        await self.page.evaluate(START, [token, {**QUICK, **options}])
        if join is not None:
            await self.js(f"client.connect(), await client.joinRoom({join!r})")
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


async def visit(context: BrowserContext, port: int) -> Client:
    """A page of the server at ``port``, as yet without a client."""
    context.set_default_timeout(PATIENCE)
    client = Client(await context.new_page())
    await client.page.goto(f"http://127.0.0.1:{port}/health/live")
    return client


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds in this process."""
    async with asyncio.timeout(PATIENCE / 1000):
        while not condition():
            await asyncio.sleep(0.01)
