"""The dead letters of webhooks in the console."""

from __future__ import annotations

import orjson
import pytest
from console_pages import browser, serving, url, visit
from playwright.async_api import expect

from roomcast.broker.memory import MemoryBroker

__all__ = ["browser", "visit"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_dead_letters_are_shown_retried_and_deleted(visit):
    """The panel is hidden without dead letters. Each can be retried or deleted, and all after a confirmation."""
    broker = MemoryBroker()
    async with serving(dev=True, broker=broker) as server:
        tab = await visit(url(server))
        panel = tab.page.locator("#dead-letters-panel")
        await expect(tab.page.get_by_role("heading", name="On the server")).to_be_visible()
        await expect(panel).to_be_hidden()
        queue = broker.queue("webhook")
        await queue.acquire(60)
        events = [{"event": {"type": "<b>message</b>", "room": f"channel:{i}", "id": f"e-{i}"}} for i in range(4)]
        await queue.append([orjson.dumps(event) for event in events])
        await queue.bury(await queue.read(10, 10**6) or (), "it answered 500")
        await tab.page.locator("#refresh").click()
        rows = panel.locator("li")
        await expect(rows).to_have_count(4)
        await expect(rows.first).to_contain_text("<b>message</b> in channel:0")
        await expect(rows.first).to_contain_text("it answered 500")
        await rows.first.get_by_role("button", name="Retry").click()
        await expect(rows).to_have_count(3)
        assert (await queue.info()).entries == 1
        await rows.first.get_by_role("button", name="Delete").click()
        await expect(rows).to_have_count(2)
        await panel.get_by_role("button", name="Delete all").click()
        await tab.page.locator("#confirm-yes").click()
        await expect(panel).to_contain_text("There are no dead letters.")
        assert (await queue.info())[3] == 0
