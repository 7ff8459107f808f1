"""The console in Chromium: security, login, layout and accessibility."""

import json

import pytest
from console_pages import HOSTILE, KEY, SECRET, browser, dev, publish, serving, url, visit
from playwright.async_api import Route, expect

from roomcast.auth.identity import make_token

__all__ = ["browser", "dev", "visit"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_markup_in_user_input_is_shown_as_text(dev, visit):
    """Markup in names, messages, ids and errors is shown as text and not executed."""
    tab = await visit(url(dev))
    await tab.connect(HOSTILE[:64])
    await tab.join("channel:img.src-x_onerror")
    await tab.fill("content", HOSTILE)
    await tab.submit()
    row = tab.rows(f"{HOSTILE[:64]}: {HOSTILE}", type="message")
    await expect(row).to_be_visible()
    await row.locator("summary").click()
    await expect(row.locator("pre")).to_contain_text("<img src=x")
    await tab.page.locator(".room-line").click()
    await expect(tab.page.locator(".member")).to_contain_text("<img src=x")
    await tab.page.locator(".member").get_by_role("button", name="Kick").click()
    await expect(tab.page.get_by_role("dialog")).to_contain_text("<img src=x")
    await tab.page.get_by_role("button", name="Cancel").click()
    await tab.page.get_by_label("Room to join").fill(HOSTILE)
    await tab.page.get_by_role("button", name="Join", exact=True).click()
    await expect(tab.page.locator("#join-problem")).to_contain_text("<img src=x")
    await tab.choose("Raw JSON")
    await tab.page.locator("#raw").fill(json.dumps({"type": HOSTILE, "room": HOSTILE, "data": {}}))
    await tab.submit()
    await expect(tab.field("raw").locator(".problem")).to_contain_text("<img src=x")
    await expect(tab.page.get_by_label("Type", exact=True)).to_contain_text("<img src=x")
    assert await tab.page.locator("img, main script").count() == 0
    assert await tab.page.title() == "roomcast console"


async def test_policy_blocks_injected_markup(dev, visit):
    """The content security policy blocks injected scripts, and markup from strings."""
    tab = await visit(url(dev))
    tab.expected_problems += ["TrustedHTML", "TrustedScript", "Content Security Policy"]
    made = """() => { try { document.body.innerHTML = "<p>"; return "made"; } catch (error) { return error.name; } }"""
    assert await tab.page.evaluate(made) == "TypeError"
    await tab.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.append("document.title = 'hacked'");
            document.body.append(script);
        }"""
    )
    assert await tab.page.title() == "roomcast console"
    assert tab.all_problems


async def test_login_with_the_api_key(visit):
    """With CONSOLE=1 the key opens the console, and its cookie authorizes API calls until the logout."""
    async with serving(console=True, api_key=KEY) as server:
        tab = await visit(url(server))
        tab.expected_problems.append("/console/login")
        await tab.page.get_by_label("API key").fill("wrong")
        await tab.page.get_by_role("button", name="Log in").click()
        await expect(tab.page.get_by_role("alert")).to_have_text("That is not a key of this server.")
        await tab.page.get_by_label("API key").fill(KEY)
        await tab.page.get_by_label("API key").press("Enter")
        await expect(tab.page.get_by_role("heading", name="Log", exact=True)).to_be_visible()
        await expect(tab.page.get_by_role("tab", name="Made-up user")).to_have_count(0)
        await tab.page.get_by_label("Token", exact=True).fill(
            make_token(SECRET, user_id=1, username="alice", rooms=["*"])
        )
        await expect(tab.page.locator("#token-hint")).to_contain_text("alice (user 1); opens *")
        await tab.page.get_by_role("button", name="Connect", exact=True).click()
        await tab.publish_and_log_out()


@pytest.mark.parametrize(("width", "scheme"), [(380, "light"), (760, "dark"), (1024, "light"), (1600, "dark")])
async def test_page_never_scrolls_sideways(dev, visit, width, scheme):
    """From 380 to 1600 pixels, long words do not cause horizontal scrolling."""
    tab = await visit(url(dev), width=width, height=844, color_scheme=scheme)
    await tab.connect("w" * 64)
    await tab.join("channel:" + "x" * 128)
    await publish(dev, "y" * 500, room="channel:" + "x" * 128)
    for name in ("Rooms", "Log", "Send"):
        button = tab.page.get_by_role("navigation", name="Views").get_by_role("button", name=name)
        if await button.is_visible():
            await button.click()
        if name == "Log":
            row = tab.rows("y" * 100)
            await row.locator("summary").click()
            await expect(row.locator("pre")).to_be_visible()
        assert await tab.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        sideways = (
            "[...document.querySelectorAll('.panel, .column, .scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        )
        assert await tab.page.evaluate(f"{sideways}.map(e => e.className)") == []


async def test_console_can_be_used_with_the_keyboard(dev, visit):
    """Arrow keys change the tab, a slash focuses the filter, and Enter opens a frame."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.page.get_by_role("tab", name="Command").focus()
    await tab.page.keyboard.press("ArrowRight")
    await expect(tab.page.get_by_role("tab", name="Event")).to_be_focused()
    await expect(tab.page.get_by_role("tabpanel", name="Event")).to_be_visible()
    await tab.page.keyboard.press("ArrowLeft")
    await expect(tab.page.get_by_role("tabpanel", name="Command")).to_be_visible()
    await tab.page.keyboard.press("/")
    await expect(tab.page.get_by_label("Text", exact=True)).to_be_focused()
    await tab.rows(type="connected").locator("summary").press("Enter")
    await expect(tab.rows(type="connected").locator("pre")).to_be_visible()


async def test_each_control_has_an_accessible_name(dev, visit):
    """Each button and field has a name for screen readers, and ids are unique."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    nameless = await tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea")]
            .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    ids = await tab.page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


async def test_failed_api_call_is_shown_in_its_panel(dev, visit):
    """If the server does not answer, the panel shows an error, which the next successful refresh removes."""
    tab = await visit(url(dev))

    async def fail(route: Route) -> None:
        await route.abort()

    tab.expected_problems.append("/api/v1/rooms")
    await tab.page.route("**/api/v1/rooms", fail)
    await tab.page.get_by_role("button", name="Refresh").click()
    await expect(tab.page.locator("#people-problem")).to_contain_text("The server does not answer")
    await tab.page.unroute("**/api/v1/rooms", fail)
    await tab.page.get_by_role("button", name="Refresh").click()
    await expect(tab.page.locator("#people-problem")).to_be_empty()
    await expect(tab.page.locator("#people-empty")).to_contain_text("No user is in a room")
