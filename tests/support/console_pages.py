"""The console in a real Chromium, and a server for it, for the tests of the console."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest_asyncio
from browser import PATIENCE
from client_pages import browser, publish
from marshmallow import Schema, fields, validate
from playwright.async_api import ConsoleMessage, Page, expect
from serving import KEY, SECRET, running

from roomcast import Context, Plugin
from roomcast.web.server import Server

__all__ = ["KEY", "SECRET", "browser", "publish"]

#: Markup that sets the title of the page if it is executed.
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


deploy = Plugin("deploy")
deploy.room("environment", description="</script><script>document.title='hacked'</script>")


class Where(Schema):
    region = fields.String(required=True, validate=validate.OneOf(["eu", "us"]))
    zone = fields.Integer()


class Deploy(Schema):
    """The data of a command that ships a version."""

    version = fields.String(required=True, metadata={"description": "As in 1.2.3."})
    instances = fields.Integer(validate=validate.Range(1, 9))
    weight = fields.Float()
    force = fields.Boolean()
    strategy = fields.String(validate=validate.OneOf(["rolling", "all"]), load_default="rolling")
    labels = fields.List(fields.String())
    where = fields.Nested(Where)
    note = fields.String(allow_none=True)


@deploy.command("deploy.start", Deploy, access="anyone")
async def start(ctx: Context, data: dict) -> dict:
    """Ship a version.</script><script>document.title='hacked'</script>"""
    return {"got": data}


@asynccontextmanager
async def serving(*, dev: bool = False, plugins: Iterable[Plugin] = (), **settings) -> AsyncIterator[Server]:
    """Run a server with ``settings``, and with ``plugins`` besides the built-in ones."""
    options = {"api_key": None, "room_access": "open" if dev else "claims"} | settings
    async with running(dev=dev, plugins=plugins, **options) as server:
        yield server


def url(server: Server, path: str = "/console") -> str:
    """Return the address of ``path``."""
    return f"http://127.0.0.1:{server.port}{path}"


class Tab:
    """A page with the console. ``problems`` are errors and warnings without a part in ``expected_problems``."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.expected_problems: list[str] = []
        self.all_problems: list[str] = []
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self.all_problems.append(str(error)))

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.all_problems.append(f"{message.text} {message.location.get('url', '')}")

    @property
    def problems(self) -> list[str]:
        return [one for one in self.all_problems if not any(part in one for part in self.expected_problems)]

    async def connect(self, name: str = "alice", id: int | str = 1, rooms: str = "*") -> None:
        """Connect as a made-up user."""
        await self.page.get_by_label("Name", exact=True).fill(name)
        await self.page.get_by_label("Id", exact=True).fill(str(id))
        await self.page.get_by_label("Rooms the token opens").fill(rooms)
        await self.page.get_by_role("button", name="Connect", exact=True).click()
        await expect(self.page.locator("#status")).to_contain_text(f"Connected as {name}")

    async def join(self, room: str) -> None:
        """Join a room with the form."""
        await self.page.get_by_label("Room to join").fill(room)
        await self.page.get_by_role("button", name="Join", exact=True).click()
        await expect(self.page.locator("#chips")).to_contain_text(room)

    def rows(self, text: str = "", type: str = ""):
        """Return the rows of the log that contain ``text`` and have the frame type ``type``."""
        rows = self.page.locator(".row").filter(has_text=text)
        return rows.filter(has=self.page.locator(".type").get_by_text(type, exact=True)) if type else rows

    async def choose(self, tab: str) -> None:
        """Select a tab of the Send panel."""
        await self.page.get_by_role("tab", name=tab).click()

    async def select(self, kind: str, type: str) -> None:
        """Select a command or an event."""
        await self.page.get_by_role("combobox", name=kind, exact=True).select_option(type)

    def field(self, path: str):
        """Return the field with ``path`` in the visible form."""
        return self.page.locator(f'.compose form:not([hidden]) [data-path="{path}"]')

    async def fill(self, path: str, value: str) -> None:
        """Fill a field of the visible form."""
        await self.field(path).locator("input:not([type=checkbox]), textarea").last.fill(value)

    async def submit(self, name: str = "Send") -> None:
        """Submit the visible form."""
        await self.page.locator(".compose form:not([hidden])").get_by_role("button", name=name, exact=True).click()

    async def publish_and_log_out(self) -> None:
        """Join a room, publish an event in it, see it arrive, and log out."""
        await self.join("project:1")
        await self.choose("Event")
        await self.select("Event", "project.archived")
        await self.fill("project_id", "1")
        await self.submit("Publish")
        await expect(self.rows(type="project.archived")).to_be_visible()
        await self.page.get_by_role("button", name="Log out").click()
        await expect(self.page.get_by_label("API key")).to_be_visible()

    def outcome(self):
        """Return the element with the outcome of the visible form."""
        return self.page.locator(".compose form:not([hidden]) .outcome")


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser):
    """Open pages. At the end of the test, none may have a problem such as a policy violation."""
    tabs = []
    contexts = []

    async def visit(address: str, *, width: int = 1400, height: int = 900, **options) -> Tab:
        context = await browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        tab = Tab(await context.new_page())
        tabs.append(tab)
        await tab.page.goto(address)
        return tab

    expect.set_options(timeout=PATIENCE)
    yield visit
    for context in contexts:
        await context.close()
    found = [tab.problems for tab in tabs]
    assert not any(found), found


@pytest_asyncio.fixture(loop_scope="module")
async def dev() -> AsyncIterator[Server]:
    """Run a server as ``roomcast dev`` does."""
    async with serving(dev=True, plugins=[deploy]) as server:
        yield server
