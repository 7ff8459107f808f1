"""roomcast behind a proxy that serves it below a path, and removes the path from requests."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
from console_pages import KEY, SECRET, browser, serving, visit
from nginx import Nginx
from playwright.async_api import expect
from yarl import URL

from roomcast.auth.identity import make_token

__all__ = ["browser", "visit"]

pytest_plugins = ["certificates"]
pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

LINKS = "[...document.querySelectorAll('a[href], link[href], script[src], form')].map(e => e.href || e.src || e.action)"


@pytest_asyncio.fixture(loop_scope="module")
async def site(certificate: Path, tmp_path: Path) -> AsyncIterator[str]:
    """Serve roomcast with a console at ``/rt/`` of an nginx; return that URL."""
    async with serving(console=True, api_key=KEY, trust_proxy="1") as server:
        with Nginx([server.port] * 3, certificate, tmp_path, "/rt/") as nginx:
            yield f"https://127.0.0.1:{nginx.port}/rt/"


async def test_console_below_a_path(site: str, visit) -> None:
    """The console logs in, connects, publishes and calls the API below the path."""
    tab = await visit(site, ignore_https_errors=True)
    tab.expected_problems.append("console/login")
    assert tab.page.url == f"{site}console"
    await tab.page.get_by_label("API key").fill("wrong")
    await tab.page.get_by_role("button", name="Log in").click()
    assert tab.page.url == f"{site}console/login"
    await tab.page.get_by_label("API key").fill(KEY)
    await tab.page.get_by_label("API key").press("Enter")
    await expect(tab.page.get_by_role("heading", name="Log", exact=True)).to_be_visible()
    assert tab.page.url == f"{site}console"
    await tab.page.get_by_label("Token", exact=True).fill(make_token(SECRET, user_id=1, username="alice", rooms=["*"]))
    await tab.page.get_by_role("button", name="Connect", exact=True).click()
    await tab.publish_and_log_out()


@pytest.mark.parametrize("user_id", ["a/b", "a/../b", "a//b", "%41", "a%2Fb", "?q", "#f", "a b", "é", "CORP\\ann"])
async def test_user_ids_below_a_path(site: str, user_id: str) -> None:
    """The proxy passes a percent-encoded user id on as it is. A decoded ``a/../b`` would be the user ``b``."""
    path = f"api/v1/users/{quote(user_id, safe='')}/connections"
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as session,
        session.delete(URL(site + path, encoded=True), headers=headers, ssl=False) as answer,
    ):
        assert await answer.json() == {"user_id": user_id, "connections": 0}


@pytest.mark.parametrize("page", ["docs", "console"])
async def test_every_link_of_a_page_is_below_the_path(site: str, visit, page: str) -> None:
    """Links, scripts, style sheets and forms point below the path, and to something that exists."""
    tab = await visit(site + page, ignore_https_errors=True)
    links = {link for link in await tab.page.evaluate(LINKS) if not link.startswith(("data:", f"{site}{page}#"))}
    assert links
    assert all(link.startswith(site) for link in links)
    async with aiohttp.ClientSession() as http:
        for link in links:
            async with http.get(link, ssl=False) as answer:
                assert answer.status == (405 if link.endswith("/login") else 200)


async def test_documents_have_the_public_address(site: str) -> None:
    """Without PUBLIC_URL, documents have the address that the client used, with the proxy's scheme. With it, that."""
    async with aiohttp.ClientSession() as http, http.get(f"{site}openapi.json", ssl=False) as answer:
        assert (await answer.json())["servers"] == [{"url": site.removesuffix("/rt/")}]
    async with serving(public_url="https://example.com/rt/") as server, aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{server.port}/openapi.json") as answer:
            assert (await answer.json())["servers"] == [{"url": "https://example.com/rt"}]
        async with http.get(f"http://127.0.0.1:{server.port}/asyncapi.json") as answer:
            described = json.loads(await answer.text())["servers"]["this"]
        assert (described["protocol"], described["host"], described["pathname"]) == ("wss", "example.com", "/rt")
        async with http.get(f"http://127.0.0.1:{server.port}/docs") as answer:
            text = await answer.text()
        assert "wss://example.com/rt/api/v1/ws/connect" in text
        assert "https://example.com/rt/static/roomcast.js" in text
