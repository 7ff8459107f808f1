"""The console in Chromium: connect, and send commands, events and raw JSON."""

import asyncio
import json

import pytest
from console_pages import KEY, SECRET, browser, dev, serving, url, visit
from playwright.async_api import expect

from roomcast.auth.identity import make_token

__all__ = ["browser", "dev", "visit"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_made_up_user_sends_a_message(dev, visit):
    """A made-up user connects, joins a room and sends a message with the generated form."""
    tab = await visit(url(dev))
    await expect(tab.page.locator("#log-empty")).to_contain_text("Nothing was said yet")
    await tab.connect()
    await tab.join("channel:1")
    await tab.fill("content", "Hello everyone!")
    await tab.fill("metadata", '{"reply_to": 789}')
    await tab.submit()
    await expect(tab.outcome()).to_contain_text("sent")
    row = tab.rows("alice: Hello everyone!", type="message")
    await expect(row).to_be_visible()
    await row.locator("summary").click()
    raw = json.loads(await row.locator("pre").inner_text())
    assert raw["data"] == {
        "content": "Hello everyone!",
        "username": "alice",
        "user_id": 1,
        "metadata": {"reply_to": 789},
    }


async def test_token_in_the_address_connects(dev, visit):
    """The link of ``roomcast dev`` connects, and its token is removed from the address and the history."""
    token = make_token(SECRET, user_id=5, username="eve")
    tab = await visit(f"{url(dev)}#token={token}")
    await expect(tab.page.locator("#status")).to_contain_text("Connected as eve user 5 · since")
    assert tab.page.url == url(dev)
    assert await tab.page.evaluate("history.length") <= 2


async def test_errors_are_shown_at_their_fields(dev, visit):
    """An error about a field is shown at the field until the next attempt."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await tab.submit()
    content = tab.field("content")
    await expect(content.locator(".problem")).to_have_text("Missing data for required field.")
    await expect(content.locator("textarea")).to_have_attribute("aria-invalid", "true")
    error = tab.rows(type="error")
    await error.locator("summary").click()
    await expect(error).to_contain_text("data.fields names each bad field")
    await tab.fill("metadata", "{no json")
    await tab.fill("content", "fine")
    await tab.submit()
    await expect(content.locator(".problem")).to_be_empty()
    await expect(tab.field("metadata").locator(".problem")).to_contain_text("This is not JSON")
    await expect(tab.rows("fine")).to_have_count(0)


async def test_form_has_a_control_for_each_field_type(dev, visit):
    """Numbers, choices, lists and nested objects are sent with the types of the schema. Empty fields are not sent."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.select("Command", "deploy.start")
    await expect(tab.page.locator("#command-about")).to_contain_text("Ship a version.</script>")
    await expect(tab.field("version")).to_contain_text("As in 1.2.3.")
    await expect(tab.field("version")).to_contain_text("required")
    await expect(tab.field("instances")).to_contain_text("whole number 1 to 9")
    await tab.fill("version", "1.2.3")
    await tab.fill("instances", "12")
    await tab.fill("labels", '["a", "b"]')
    await tab.field("force").locator("select").select_option("true")
    await tab.field("note").get_by_label("null").check()
    await tab.field("where.region").locator("select").select_option("eu")
    await tab.fill("where.zone", "one")
    await tab.submit()
    await expect(tab.field("instances").locator(".problem")).to_contain_text("Must be greater than or equal to 1")
    await expect(tab.field("where.zone").locator(".problem")).to_have_text("Not a valid integer.")
    await tab.fill("instances", "3")
    await tab.fill("where.zone", "4")
    await tab.submit()
    await expect(tab.outcome()).to_contain_text("reply")
    answer = json.loads((await tab.outcome().inner_text()).split("reply ")[1])
    assert answer["got"] == {
        "version": "1.2.3",
        "instances": 3,
        "force": True,
        "strategy": "rolling",
        "labels": ["a", "b"],
        "where": {"region": "eu", "zone": 4},
        "note": None,
    }


async def test_an_event_that_is_not_stored(dev, visit):
    """The event form sends it, says that it is not stored, and the log shows it as it arrives."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:7")
    await tab.choose("Event")
    await tab.select("Event", "typing")
    await tab.fill("user_id", "bot")
    await tab.fill("username", "Bot")
    await tab.submit("Publish")
    await expect(tab.outcome()).to_contain_text("Sent; not stored")
    await expect(tab.rows("Bot", type="typing")).to_have_count(1)


async def test_event_is_published_over_the_http_api(dev, visit):
    """The event form calls the HTTP API, and its errors are shown at the fields."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("project:7")
    await tab.choose("Event")
    await tab.select("Event", "task.created")
    await tab.fill("task_id", "789")
    tab.expected_problems.append("/api/v1/events")
    await tab.submit("Publish")
    await expect(tab.field("title").locator(".problem")).to_have_text("Missing data for required field.")
    await tab.fill("title", "New feature")
    await tab.submit("Publish")
    await expect(tab.outcome()).to_contain_text("Published as")
    row = tab.rows("New feature", type="task.created")
    await row.locator("summary").click()
    assert json.loads(await row.locator("pre").inner_text())["data"] == {"task_id": 789, "title": "New feature"}
    await tab.select("Event", "notification.new")
    await expect(tab.field("room").locator("input")).to_have_value("user:1")
    await tab.select("Event", "task.created")
    await expect(tab.field("room").locator("input")).to_have_value("project:7")
    await tab.fill("room", "nowhere")
    await tab.submit("Publish")
    await expect(tab.field("room").locator(".problem")).to_contain_text("entity_type:entity_id")


async def test_raw_json_is_sent_unchanged(dev, visit):
    """Any text is sent, even if it is invalid, and the answer is shown at the form."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.choose("Raw JSON")
    raw = tab.page.locator("#raw")
    await raw.fill('{"type": "ping", "id": 7}')
    await raw.press("Control+Enter")
    await expect(tab.outcome()).to_contain_text("pong")
    await raw.fill("{broken")
    await tab.submit()
    await expect(tab.field("raw").locator(".problem")).to_contain_text("not valid JSON")
    await expect(tab.rows("{broken", type="not JSON")).to_have_count(1)
    await raw.fill('{"type": "nonsense", "id": "x"}')
    await tab.submit()
    await expect(tab.page.locator("#form-raw")).to_contain_text("There is no command 'nonsense'")


async def test_input_before_the_script_has_loaded_is_kept(visit):
    """A token entered early stays in its field, and submitting it early does not put it into the address."""
    arrived = asyncio.Event()

    async def late(route):
        await arrived.wait()
        await route.continue_()

    async with serving(console=True, api_key=KEY) as server:
        tab = await visit(url(server))
        await tab.page.route("**/console.js", late)
        await tab.page.get_by_label("API key").fill(KEY)
        await tab.page.get_by_role("button", name="Log in").click(no_wait_after=True)
        token = make_token(SECRET, user_id=1, username="alice", rooms=["*"])
        await tab.page.get_by_label("Token", exact=True).fill(token)
        await tab.page.get_by_role("button", name="Connect", exact=True).click(no_wait_after=True)
        assert token not in tab.page.url
        arrived.set()
        await expect(tab.page.locator("#token-hint")).to_contain_text("alice (user 1); opens *")
        assert token not in tab.page.url
        await tab.page.get_by_role("button", name="Connect", exact=True).click()
        await expect(tab.page.locator("#status")).to_contain_text("Connected as alice")
        await tab.page.close()  # it asks for the rooms at intervals, also when the server has ended
