"""The console in Chromium: the options of a join, and the view of a joined room."""

from __future__ import annotations

import pytest
from console_pages import HOSTILE, Tab, browser, dev, publish, url, visit
from playwright.async_api import expect
from serving import connect

__all__ = ["browser", "dev", "visit"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def open_room(tab: Tab, room: str) -> None:
    """Join a room, and show it."""
    await tab.join(room)
    await tab.page.locator(".chip-name").get_by_text(room, exact=True).click()
    await expect(tab.page.get_by_role("heading", name=room)).to_be_visible()


async def test_join_with_the_newest_events(dev, visit):
    """The option is sent with the join, and the events follow. Text that is no number shows the server's answer."""
    await publish(dev, *[f"message {number}" for number in range(5)], room="channel:newest")
    tab = await visit(url(dev))
    await tab.connect()
    await tab.page.get_by_text("Options", exact=True).click()
    await tab.page.get_by_label("Newest events to receive").fill("many")
    await tab.page.get_by_label("Room to join").fill("channel:newest")
    await tab.page.get_by_role("button", name="Join", exact=True).click()
    await expect(tab.page.locator("#join-problem")).to_contain_text("last")
    await tab.page.get_by_label("Newest events to receive").fill("2")
    await tab.page.get_by_role("button", name="Join", exact=True).click()
    await expect(tab.page.locator("#chips")).to_contain_text("channel:newest")
    await expect(tab.rows("message 4", type="message")).to_be_visible()
    await expect(tab.rows("message 3", type="message")).to_be_visible()
    await expect(tab.rows("message 2", type="message")).to_have_count(0)
    await expect(tab.page.locator("#join-problem")).to_be_empty()


async def test_older_events(dev, visit):
    """Each press loads the events before those received, until there are no older ones."""
    await publish(dev, *[f"old {number}" for number in range(30)], room="channel:older")
    tab = await visit(url(dev))
    await tab.connect()
    await open_room(tab, "channel:older")
    older = tab.page.get_by_role("button", name="Load older")
    await older.click()
    await expect(tab.page.locator("#room-outcome")).to_have_text("20 events in the reply, see the log.")
    await older.click()
    await expect(tab.page.locator("#room-outcome")).to_have_text(
        "10 events in the reply, see the log. There are no older ones."
    )
    await expect(older).to_be_disabled()
    await expect(tab.rows("old 0", type="history")).to_have_count(1)
    await publish(dev, "new", room="channel:older")
    await expect(tab.rows("new", type="message")).to_be_visible()
    await expect(older).to_be_disabled()


async def test_users_who_type(dev, visit):
    """Users who type are named until they stop, send a message or leave."""
    tab = await visit(url(dev))
    await tab.connect()
    await open_room(tab, "channel:typing")
    typing = tab.page.locator("#room-typing")
    async with connect(dev, 2, "bob") as bob, connect(dev, 3, HOSTILE[:20]) as other:
        for user in (bob, other):
            await user.join("channel:typing")
            await user.send("typing", "channel:typing")
            await user.settled()
        await expect(typing).to_have_text(f"bob and {HOSTILE[:20]} are typing…")
        await bob.send("send_message", "channel:typing", {"content": "done"})
        await expect(typing).to_have_text(f"{HOSTILE[:20]} is typing…")
    await expect(typing).to_be_empty()


async def test_members(dev, visit):
    """Members are listed with their status, and come, change and go as the room's events tell."""
    tab = await visit(url(dev))
    await tab.connect()
    room = "channel:members"
    await open_room(tab, room)
    members = tab.page.get_by_role("list", name="Members", exact=True).get_by_role("listitem")
    await expect(members).to_have_text(["alice user 1"])
    async with connect(dev, 2, HOSTILE[:20]) as bob:
        await bob.join(room)
        await expect(members).to_have_count(2)
        await bob.send("set_presence", room, {"status": "<b>away", "data": {"mood": "tea"}})
        await expect(members.last).to_contain_text('<b>away {"mood":"tea"}')
        await expect(tab.page.locator("#room-member-count")).to_have_text("2 members")
        await tab.page.get_by_label("My status in this room").fill("here")
        await tab.page.get_by_role("button", name="Set", exact=True).click()
        await expect(tab.page.locator("#room-outcome")).to_have_text("The status is set.")
        await expect(members.first).to_contain_text("here")
        await bob.send("leave_room", room)
        await expect(members).to_have_count(1)
    await expect(tab.page.locator("#room-member-count")).to_have_text("1 member")


async def test_join_with_the_members(dev, visit):
    """With the option, the reply to the join has the members, and no further request is needed."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.page.get_by_text("Options", exact=True).click()
    await tab.page.get_by_label("List the members").check()
    async with connect(dev, 2, "bob") as bob:
        await bob.join("channel:listed")
        await open_room(tab, "channel:listed")
        await expect(tab.page.locator("#room-members")).to_contain_text("bob")
        await expect(tab.rows(type="members")).to_have_count(0)


async def test_unread_messages(dev, visit):
    """The view counts messages that others send, those before the join included, until they are marked as read."""
    room = "channel:unread"
    await publish(dev, "one", "two", "three", room=room)
    tab = await visit(url(dev))
    await tab.connect()
    await tab.page.get_by_text("Options", exact=True).click()
    await tab.page.get_by_label("Newest events to receive").fill("2")
    await open_room(tab, room)
    await expect(tab.page.locator("#room-unread")).to_have_text("3 unread")
    await publish(dev, "four", room=room)
    await expect(tab.page.locator("#room-unread")).to_have_text("4 unread")
    await tab.page.get_by_role("button", name="Mark as read").click()
    await expect(tab.page.locator("#room-outcome")).to_have_text("All messages are marked as read.")
    await expect(tab.page.locator("#room-unread")).to_be_empty()
    await expect(tab.page.get_by_role("button", name="Mark as read")).to_be_disabled()


async def test_a_room_that_is_left(dev, visit):
    """The view closes when the room is left, and when its name is pressed again."""
    tab = await visit(url(dev))
    await tab.connect()
    await open_room(tab, "channel:left")
    await tab.page.get_by_role("button", name="Leave channel:left").click()
    await expect(tab.page.locator("#room-view")).to_be_hidden()
    await open_room(tab, "channel:other")
    name = tab.page.locator(".chip-name")
    await expect(name).to_have_attribute("aria-expanded", "true")
    await name.click()
    await expect(tab.page.locator("#room-view")).to_be_hidden()
    await expect(name).to_have_attribute("aria-expanded", "false")
    await name.click()
    await tab.page.get_by_role("button", name="Disconnect", exact=True).first.click()
    await expect(tab.page.locator("#room-view")).to_be_hidden()


@pytest.mark.parametrize("width", [380, 1024])
async def test_the_view_never_scrolls_sideways(dev, visit, width):
    """Long names do not cause horizontal scrolling."""
    tab = await visit(url(dev), width=width, height=844)
    await tab.connect("w" * 64)
    room = "channel:" + "x" * 128
    await open_room(tab, room)
    async with connect(dev, "u" * 255, "v" * 200) as user:
        await user.join(room)
        await user.send("typing", room)
        await expect(tab.page.locator("#room-typing")).to_contain_text("is typing…")
        assert await tab.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        column = "document.querySelector('.column')"
        assert await tab.page.evaluate(f"{column}.scrollWidth <= {column}.clientWidth")
