"""What a newcomer meets at the root, and where nothing is."""

from __future__ import annotations

import pytest
from serving import Serve, answer


@pytest.mark.parametrize("options", [{"dev": True}, {"console": True}])
async def test_the_root_leads_to_the_console(serve: Serve, options: dict[str, bool]):
    """Where there is a console, that is what a browser wants."""
    async with answer(await serve(**options), "GET", "/", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/console")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_says_what_this_is(serve: Serve, method: str):
    """Without a console it names the way in and the way to the console, and nothing of versions."""
    async with answer(await serve(), method, "/", key=None) as response:
        assert (response.status, response.content_type) == (200, "text/plain")
        text = await response.text()
    if method == "GET":
        for word in ("This is roomcast", "/api/v1/ws/connect", "/api/v1/events", "roomcast dev", "CONSOLE=1"):
            assert word in text


@pytest.mark.parametrize("path", ["/index.html", "/ws", "/health", "/console", "/plugins/none", "//x", "/%3Cb%3E"])
async def test_an_unknown_path_is_told_where_it_is(serve: Serve, path: str):
    """404 in plain text, with the address that was most likely meant."""
    async with answer(await serve(), "GET", path, key=None) as response:
        assert (response.status, response.content_type) == (404, "text/plain")
        text = await response.text()
    assert text.startswith("There is no /") and "/api/v1/ws/connect" in text
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(("method", "path", "allowed"), [("POST", "/", "GET, HEAD"), ("PUT", "/metrics", "GET, HEAD")])
async def test_a_wrong_method_is_told_the_right_one(serve: Serve, method: str, path: str, allowed: str):
    """405 with Allow, for what is there in another way."""
    async with answer(await serve(), method, path, key=None) as response:
        assert (response.status, response.headers["Allow"]) == (405, allowed)
        assert await response.text() == f"{path} takes {allowed}, not {method}.\n"
