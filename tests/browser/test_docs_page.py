"""The page ``/docs`` in a real Chromium."""

from __future__ import annotations

import pytest
from browser import PATIENCE, chromium
from playwright.async_api import expect
from serving import Serve, connect, url


@pytest.mark.browser
async def test_an_example_opens_in_the_console(serve: Serve) -> None:
    """A link of the page opens the console with the form filled in. The page fits on a small screen."""
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
