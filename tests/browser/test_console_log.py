"""The console in Chromium: the log, the rooms, and the state of the connection."""

from urllib.parse import quote

import pytest
from console_pages import browser, dev, publish, serving, url, visit
from playwright.async_api import expect

from roomcast.errors import SERVICE_RESTART

__all__ = ["browser", "dev", "visit"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_log_is_filtered_by_room_type_and_text(dev, visit):
    """The filters apply to new frames as well, and clearing them shows every frame again."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await tab.join("channel:2")
    await publish(dev, "one apple", room="channel:1")
    await publish(dev, "two apples", room="channel:2")
    await publish(dev, "two pears", room="channel:2")
    await expect(tab.rows(type="message")).to_have_count(3)
    everything = await tab.rows().count()
    await tab.page.get_by_label("Room", exact=True).select_option("channel:2")
    await tab.page.get_by_label("Type", exact=True).select_option("message")
    await expect(tab.rows()).to_have_count(2)
    await tab.page.get_by_label("Text", exact=True).fill("APPLE")
    await expect(tab.rows()).to_have_count(1)
    await publish(dev, "three apples", room="channel:1")
    await publish(dev, "four apples", room="channel:2")
    await expect(tab.rows()).to_have_count(2)
    await tab.page.get_by_label("Text", exact=True).fill("no such thing")
    await expect(tab.page.locator("#log-empty")).to_contain_text("No frame fits the filter")
    await tab.page.get_by_label("Text", exact=True).fill("")
    await tab.page.get_by_label("Room", exact=True).select_option("")
    await tab.page.get_by_label("Type", exact=True).select_option("")
    await expect(tab.rows()).to_have_count(everything + 2)


async def test_log_pauses_clears_and_is_bounded(dev, visit):
    """A paused log counts the waiting frames, and the log keeps the last 2,000 frames."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await tab.page.get_by_role("button", name="Pause").click()
    await publish(dev, "while paused")
    await expect(tab.page.get_by_role("button", name="Resume (1)")).to_be_visible()
    await expect(tab.rows("while paused")).to_have_count(0)
    await tab.page.get_by_role("button", name="Resume").click()
    await expect(tab.rows("while paused")).to_have_count(1)
    await tab.page.get_by_role("button", name="Clear").click()
    await expect(tab.rows()).to_have_count(0)
    for number in range(2100):
        await publish(dev, f"message {number}")
    await expect(tab.rows("message 2099")).to_be_visible()
    assert await tab.rows().count() == 2000
    await expect(tab.rows().first).to_contain_text("message 100")


async def test_frame_is_copied_to_the_clipboard_and_to_raw_json(dev, visit):
    """The JSON of a frame can be copied, and edited as Raw JSON."""
    tab = await visit(url(dev), permissions=["clipboard-read", "clipboard-write"])
    await tab.connect()
    row = tab.rows(type="connected")
    await row.locator("summary").click()
    shown = await row.locator("pre").inner_text()
    await row.get_by_role("button", name="Copy").click()
    await expect(row.get_by_role("button", name="Copied")).to_be_visible()
    assert await tab.page.evaluate("navigator.clipboard.readText()") == shown
    await row.get_by_role("button", name="To Raw JSON").click()
    await expect(tab.page.locator("#raw")).to_have_value(shown)


async def test_rooms_and_members_are_kept_up_to_date(dev, visit):
    """New members appear by themselves. Kicked and disconnected members disappear, after a confirmation."""
    alice, bob = await visit(url(dev)), await visit(url(dev))
    await alice.connect("alice", 1)
    await alice.join("channel:1")
    members = alice.page.get_by_role("list", name="Members of channel:1")
    await alice.page.get_by_role("button", name="channel:1 1", exact=True).click()
    await expect(members.get_by_text("alice")).to_be_visible()
    await bob.connect("bob", 2)
    await bob.join("channel:1")
    await expect(members.get_by_text("bob")).to_be_visible()
    kick = members.get_by_role("button", name="Kick").nth(1)
    await kick.click()
    await alice.page.get_by_role("button", name="Cancel").click()
    await expect(bob.page.locator("#chips")).to_contain_text("channel:1")
    await kick.click()
    await expect(alice.page.get_by_role("dialog")).to_contain_text("Kick bob from channel:1?")
    await alice.page.get_by_role("dialog").get_by_role("button", name="Kick").click()
    await expect(bob.rows("Removed from room channel:1", type="left_room")).to_be_visible()
    await expect(members.get_by_text("bob")).to_have_count(0)
    await bob.join("channel:1")
    await members.get_by_role("button", name="Disconnect").nth(1).click()
    await alice.page.get_by_role("dialog").get_by_role("button", name="Disconnect").click()
    await expect(bob.page.locator("#ended")).to_contain_text("Closed: 4410 Disconnected")
    await expect(members.get_by_text("bob")).to_have_count(0)


@pytest.mark.parametrize("id", ["auth0|5f/7c%1", "CORP\\Ünï ?#", "\u202eאבג"])
async def test_users_with_any_id_can_be_managed(dev, visit, id):
    """The user is listed, gets an event in the suggested room, and is disconnected. The text around the id stays."""
    tab = await visit(url(dev))
    await tab.connect("ann", id)
    await expect(tab.page.locator("#status-more bdi")).to_have_text(id)
    await tab.choose("Event")
    await tab.select("Event", "notification.new")
    await expect(tab.field("room").locator("input")).to_have_value(f"user:{quote(id, safe='')}")
    await tab.fill("title", "Hello")
    await tab.fill("message", "You")
    await tab.submit("Publish")
    await expect(tab.rows("Hello", type="notification.new")).to_be_visible()
    await tab.join("channel:1")
    await tab.page.get_by_role("button", name="channel:1 1", exact=True).click()
    members = tab.page.get_by_role("list", name="Members of channel:1")
    await expect(members.locator(".hint bdi")).to_have_text(id)
    await members.get_by_role("button", name="Disconnect").click()
    await tab.page.get_by_role("dialog").get_by_role("button", name="Disconnect").click()
    await expect(tab.page.locator("#ended")).to_contain_text("Closed: 4410 Disconnected")


async def test_close_codes_are_explained(visit):
    """A forbidden join (4403) and a bad token (4401) are explained. A requested disconnect shows no error."""
    async with serving(dev=True, room_access="claims") as server:
        tab = await visit(url(server))
        await tab.connect(rooms="channel:*")
        await tab.page.get_by_label("Room to join").fill("project:1")
        await tab.page.get_by_label("Room to join").press("Enter")
        ended = tab.page.locator("#ended")
        await expect(ended).to_contain_text("Closed: 4403 Forbidden")
        await expect(ended).to_contain_text("no access to the room")
        await expect(ended).to_contain_text("The last request was join_room project:1.")
        await expect(tab.page.locator("#join-problem")).to_have_text("You have no access to project:1.")
        await expect(tab.page.locator("#status")).to_contain_text("Not connected")
        await ended.get_by_role("button", name="Connect again").click()
        await expect(tab.page.locator("#status")).to_contain_text("Connected as alice")
        await expect(ended).to_be_hidden()
        await tab.page.get_by_role("button", name="Disconnect", exact=True).click()
        await expect(tab.page.locator("#status")).to_contain_text("Not connected")
        await expect(ended).to_be_hidden()
        await tab.page.get_by_role("tab", name="Token").click()
        await tab.page.get_by_label("Token", exact=True).last.fill("not a token")
        await tab.page.get_by_role("button", name="Connect", exact=True).click()
        await expect(ended).to_contain_text("Closed: 4401 Authentication Failed")
        await tab.page.close()  # it asks for the rooms at intervals, also when the server has ended


async def test_console_reconnects_only_if_switched_on(dev, visit):
    """Without the switch a lost connection stays closed. With it, the console resumes its rooms."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await publish(dev, "before")
    await expect(tab.rows("before")).to_have_count(1)
    everyone = dev.gateway.keepalive.connections
    for connection in list(everyone):
        connection.close(SERVICE_RESTART)
    await expect(tab.page.locator("#ended")).to_contain_text("Closed: 1012 Service Restart")
    await expect(tab.page.locator("#status")).to_have_attribute("data-phase", "off")
    await tab.page.get_by_label("Reconnect", exact=True).check()
    await tab.page.get_by_role("button", name="Connect again").click()
    await expect(tab.page.locator("#chips")).to_contain_text("channel:1")
    for connection in list(everyone):
        connection.close(SERVICE_RESTART)
    await publish(dev, "meanwhile")
    await expect(tab.rows("meanwhile", type="message")).to_have_count(1)
    await expect(tab.rows(type="joined_room")).to_have_count(3)
    await expect(tab.page.locator("#status")).to_have_attribute("data-phase", "on")


async def test_automatic_actions_are_logged(dev, visit):
    """The wait, the reconnect and the resume are rows of the log, in the order in which they happen."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await tab.page.get_by_label("Reconnect", exact=True).check()
    for connection in list(dev.gateway.keepalive.connections):
        connection.close(SERVICE_RESTART)
    await publish(dev, "meanwhile")
    await expect(tab.rows("meanwhile", type="message")).to_have_count(1)
    await expect(tab.rows("Missed events", type="resumed")).to_have_count(1)
    await expect(tab.rows("Attempt 1 in", type="waiting")).to_have_count(1)
    shown = await tab.page.locator(".row .type").all_inner_texts()
    ours = [type for type in shown if type in ("close", "waiting", "connected", "resumed", "message")]
    assert ours == ["connected", "close", "waiting", "connected", "resumed", "message"]
