"""Pages with roomcast.js in a real Chromium, and the fixtures of the tests that use them.

A test module imports the fixtures that it needs, and runs with ``pytest.mark.asyncio(loop_scope="module")``, because
the browser is started once for each module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import web
from browser import PATIENCE, chromium
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page
from serving import running, token_for
from tcp_proxy import Proxy

from roomcast.errors import SERVICE_RESTART, Close
from roomcast.web.server import Server

ROOM = "channel:1"
SCRIPT = "/static/roomcast.js"
#: Creates the client. `frames` has every frame in order, and `contents` the content of each message.
START = """async ([script, token, options]) => {
    const { ChatClient } = await import(script);
    window.frames = [];
    window.contents = [];
    window.framesOf = (type) => frames.filter((frame) => frame.type === type);
    window.states = () => framesOf("state").map((frame) => frame.data.state);
    window.outcomes = (promises) => Promise.allSettled(promises).then((all) => all.map(
        ({ value, reason }) => value ? { value } : { ...reason, message: reason.message }));
    const getToken = token ?? (async (about) => window.requestToken(about));
    window.client = new ChatClient(getToken, options);
    client.on("*", (frame) => frames.push(frame));
    client.on("message", (frame) => contents.push(frame.data.content));
}"""
Token = str | Callable[[dict[str, Any]], str | None] | None
#: Short delays between reconnects, and no rate limit.
QUICK = {"reconnect": {"base": 10, "max": 50}, "rate": 0}


class Client:
    """A page with a client.

    ``errors`` has the uncaught errors of the page, ``warnings`` its warnings in the console, and ``token_requests`` the
    arguments of the calls of its token function.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.token_requests: list[dict[str, Any]] = []
        self._token_function: Callable[[dict[str, Any]], str | None] | None = None
        page.on("pageerror", self.add_error)
        page.on("console", self.add_warning)

    def add_error(self, error: Any) -> None:
        """Record an uncaught error of the page."""
        self.errors.append(str(error))

    def add_warning(self, logged: ConsoleMessage) -> None:
        """Record a message of the console if it is a warning."""
        if logged.type == "warning":
            self.warnings.append(logged.text)

    def get_token(self, about: dict[str, Any]) -> str | None:
        """Answer a call of the page's token function."""
        assert self._token_function is not None
        self.token_requests.append(about)
        return self._token_function(about)

    async def start(
        self, token: Token = None, *, join: str | None = None, script: str = SCRIPT, **options: Any
    ) -> Client:
        """Create a client with ``options``. If ``join`` is given, connect it and join that room.

        ``token`` is a token (by default of alice) or a token function. ``script`` is the address of roomcast.js.
        """
        if callable(token):
            self._token_function = token
        fixed = None if callable(token) else token or token_for()
        await self.page.evaluate(START, [script, fixed, {**QUICK, **options}])
        if join is not None:
            await self.js(f"client.connect(), await client.joinRoom({join!r}), null")
        return self

    async def js(self, expression: str, argument: Any = None) -> Any:
        """Return the value of an expression in the page. It may use ``await`` and ``argument``."""
        return await self.page.evaluate(f"async (argument) => ({expression})", argument)

    async def until(self, condition: str) -> None:
        """Wait until the condition is true in the page."""
        await self.page.wait_for_function(condition, polling=20, timeout=PATIENCE)

    async def contents(self, count: int) -> list[str]:
        """Wait for ``count`` messages, and return the contents of all messages so far."""
        await self.until(f"contents.length >= {count}")
        contents: list[str] = await self.js("contents")
        return contents


class Pool:
    """The tabs of one browser context. Tests reuse them, because opening a tab takes ten times as long."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(PATIENCE)
        self._context = context
        self._free: list[Page] = []
        self._used: dict[Page, Client] = {}

    async def visit(self, port: int) -> Client:
        """Return a page of the server at ``port``, without a client."""
        page = self._free.pop() if self._free else await self._open()
        client = self._used[page] = Client(page)
        await page.goto(f"http://127.0.0.1:{port}/health/live")
        return client

    async def _open(self) -> Page:
        page = await self._context.new_page()
        await page.expose_function("requestToken", lambda about: self._used[page].get_token(about))
        page.on("crash", lambda page: self._used.pop(page, None))
        return page

    async def clear(self) -> None:
        """Leave all pages, and check that none had an uncaught error."""
        used, self._used = self._used, {}
        for page, client in used.items():
            page.remove_listener("pageerror", client.add_error)
            page.remove_listener("console", client.add_warning)
            if not page.is_closed():
                await page.goto("about:blank")
                self._free.append(page)
        assert [client.errors for client in used.values()] == [[] for _ in used]


async def publish(server: Server, *contents: str, room: str = ROOM) -> None:
    """Publish messages of bob in ``room``, through the gateway of ``server``."""
    for content in contents:
        data = {"content": content, "username": "bob", "user_id": 2}
        await server.gateway.publishing.publish("message", room, data, "bob", None)


def close_all(server: Server, close: Close = SERVICE_RESTART) -> None:
    """Close every connection of ``server`` with ``close``."""
    for connection in list(server.gateway.keepalive.connections):
        connection.close(close)


@asynccontextmanager
async def page_server(html: str) -> AsyncIterator[str]:
    """Serve ``html`` at an origin of its own, and yield the origin."""

    async def respond(request: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", respond)
    async with _serve(app) as origin:
        yield origin


@asynccontextmanager
async def folder_server(folder: Path) -> AsyncIterator[str]:
    """Serve the files of ``folder`` at an origin of its own, and yield the origin."""
    app = web.Application()
    app.router.add_static("/", folder)
    async with _serve(app) as origin:
        yield origin


@asynccontextmanager
async def _serve(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


Start = Callable[..., Awaitable[Client]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Start one browser for the module."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Close what the other fixtures open, in reverse order."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def server(stack: AsyncExitStack) -> Server:
    """Start a server without a rate limit."""
    return await stack.enter_async_context(running(ws_message_rate=0, history_size=5000))


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(stack: AsyncExitStack, server: Server) -> Proxy:
    """Put a proxy between the pages and the server, to break connections."""
    return await stack.enter_async_context(Proxy("127.0.0.1", server.port))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(browser: Browser) -> Pool:
    """Share the tabs between the tests of the module."""
    return Pool(await browser.new_context())


@pytest_asyncio.fixture(loop_scope="module")
async def start(pool: Pool, proxy: Proxy) -> AsyncIterator[Start]:
    """Start clients, each on its own page, through the proxy or at another ``port``. See ``Client.start``."""

    async def start(*args: Any, port: int | None = None, **options: Any) -> Client:
        return await (await pool.visit(port or proxy.port)).start(*args, **options)

    yield start
    await pool.clear()
