"""roomcast.js in Chromium: the server that a client connects to, with and without the option ``url``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files

import pytest
import pytest_asyncio
from browser import PATIENCE
from client_pages import browser
from playwright.async_api import Browser, Route

__all__ = ["browser"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

CODE = files("roomcast.static").joinpath("roomcast.js").read_text()
#: Connects a client with a socket that does nothing. Returns the address of the socket, or the error.
CONNECT = """async ([script, code]) => {
    if (script === "blob:") script = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    if (script === "data:") script = "data:text/javascript;base64," + btoa(code);
    const { ChatClient } = await import(script);
    return new Promise((resolve) => {
        const WebSocket = function (url) { resolve(url.split("?")[0]); };
        try { new ChatClient("a token", { %s WebSocket }).connect(); } catch (error) { resolve(String(error)); }
    });
}"""
Address = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture(loop_scope="module")
async def address(browser: Browser) -> AsyncIterator[Address]:
    """Return the address that a client from ``script`` connects to, or its error. Every address has roomcast.js."""

    async def respond(route: Route) -> None:
        kind, body = (
            ("text/html", "<title>page</title>") if route.request.is_navigation_request() else ("text/javascript", CODE)
        )
        await route.fulfill(content_type=kind, headers={"Access-Control-Allow-Origin": "*"}, body=body)

    page = await browser.new_page()
    page.set_default_timeout(PATIENCE)
    await page.route("**/*", respond)

    async def address(script: str, options: str = "", before: str = "null") -> str:
        await page.goto("http://app.example/some/page")
        await page.evaluate(before)
        found: str = await page.evaluate(CONNECT % options, [script, CODE])
        return found

    yield address
    await page.close()


@pytest.mark.parametrize(
    ("script", "server"),
    [
        ("http://chat.example:8000/static/roomcast.js", "ws://chat.example:8000"),
        ("https://chat.example/static/roomcast.js?v=2", "wss://chat.example"),
        ("/rt/static/roomcast.js", "ws://app.example/rt"),
        ("/a(b):1:2/static/roomcast.js", "ws://app.example/a(b):1:2"),
    ],
)
async def test_script_of_a_server_connects_to_that_server(address, script, server):
    """A client that was loaded from a server needs no url, also below a prefix or with a query."""
    assert await address(script) == f"{server}/api/v1/ws/connect"
    assert await address(script, "url: undefined,") == f"{server}/api/v1/ws/connect"


@pytest.mark.parametrize(
    "script",
    ["/lib/roomcast.js", "/assets/index-Bd3Ey6oT.js", "/static/js/main.js", "/static/roomcast.js.js", "blob:", "data:"],
)
async def test_copy_needs_a_url(address, script):
    """A copied or bundled client throws an error that names the option, and connects to no guessed address."""
    assert (await address(script)).startswith(
        "TypeError: ChatClient needs the option url: new ChatClient(token, { url:"
    )
    assert await address(script, "url: 'https://chat.example',") == "wss://chat.example/api/v1/ws/connect"
    assert await address(script, "url: '/rt',") == "ws://app.example/rt"


@pytest.mark.parametrize("before", ["Error.stackTraceLimit = 0", "Error.prepareStackTrace = () => []"])
async def test_page_without_stack_traces_needs_a_url(address, before):
    """A page that changes stack traces gets the same error."""
    found = await address("/static/roomcast.js", before=before)
    assert found.startswith("TypeError: ChatClient needs the option url")


@pytest.mark.parametrize("url", ["undefined", "null", "''"])
async def test_empty_url_is_missing(address, url):
    """A url of an environment variable that is not set is not a path of the page."""
    found = await address("/lib/roomcast.js", f"url: {url},")
    assert found.startswith("TypeError: ChatClient needs the option url")


@pytest.mark.parametrize("url", ["ftp://chat.example", "localhost:8000", "//", "http://"])
async def test_wrong_url_is_named(address, url):
    """The error of a url that is not an address of a server repeats it."""
    expected = f"TypeError: The option url must begin with ws, wss, http or https: {url}"
    assert await address("/lib/roomcast.js", f"url: '{url}',") == expected
