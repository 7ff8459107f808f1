"""The debug console: who gets it, what keeps it safe, and what a developer can do there, in a real Chromium."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio
from browser import PATIENCE, chromium
from marshmallow import Schema, fields, validate
from playwright.async_api import Browser, ConsoleMessage, Page, Route, expect
from wire import Peer

from roomcast import Context, Plugin, registry
from roomcast.auth.identity import make_token
from roomcast.broker.memory import MemoryBroker
from roomcast.builtin_events import COMMANDS
from roomcast.errors import CLOSES, SERVICE_RESTART
from roomcast.gateway.gateway import Gateway
from roomcast.registry import LoadedPlugin, Registry
from roomcast.settings import Settings
from roomcast.specs.catalog import CORE_COMMANDS
from roomcast.web import console_session
from roomcast.web.pages.console import MEANINGS
from roomcast.web.server import Address, Server

SECRET = "correct horse battery staple, twice over"
KEY = "s3cret-key-of-the-operator"
OURS = {console_session.HEADER: "1"}
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
#: One loop for all: the browser is started once.
pytestmark = pytest.mark.asyncio(loop_scope="module")

deploy = Plugin("deploy")
deploy.room("environment", description="</script><script>document.title='hacked'</script>")


class Where(Schema):
    region = fields.String(required=True, validate=validate.OneOf(["eu", "us"]))
    zone = fields.Integer()


class Deploy(Schema):
    """What to ship."""

    version = fields.String(required=True, metadata={"description": "As in 1.2.3."})
    instances = fields.Integer(validate=validate.Range(1, 9))
    weight = fields.Float()
    force = fields.Boolean()
    strategy = fields.String(validate=validate.OneOf(["rolling", "all"]), load_default="rolling")
    labels = fields.List(fields.String())
    where = fields.Nested(Where)
    note = fields.String(allow_none=True)


@deploy.command("deploy.start", Deploy)
async def start(ctx: Context, data: dict) -> dict:
    """Ship a version.</script><script>document.title='hacked'</script>"""
    return {"got": data}


@asynccontextmanager
async def serving(*, dev: bool = False, plugins: Iterable[Plugin] = (), **settings) -> AsyncIterator[Server]:
    """A server with the console as ``settings`` say, and plugins besides the built-in ones."""
    known = Settings(
        **{"jwt_secret": SECRET, "drain_seconds": 0, "room_access": "open" if dev else "claims"} | settings
    )
    loaded = Registry([*list(registry.load())[1:], *(LoadedPlugin(plugin, "test", plugin.name) for plugin in plugins)])
    server = Server(Gateway(known, loaded, MemoryBroker()), Address(port=0), dev=dev)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def url(server: Server, path: str = "/console") -> str:
    """The address of a path."""
    return f"http://127.0.0.1:{server.port}{path}"


# Who gets it.


@pytest.mark.parametrize("path", ["/console", "/console/static/console.js", "/console/login", "/console/token"])
async def test_there_is_no_console_unless_asked_for(path):
    """Without CONSOLE=1 every path of the console is 404, whatever else is set."""
    async with serving(api_key=KEY) as server, aiohttp.ClientSession(headers=OURS) as http:
        for method in ("GET", "POST"):
            async with http.request(method, url(server, path), data={"key": KEY}) as answer:
                assert answer.status == 404


async def test_without_a_key_it_says_to_set_one(caplog):
    """CONSOLE=1 without API_KEY lets nobody in, and tells the operator what to do, at the start and on the page."""
    async with serving(console=True) as server, aiohttp.ClientSession() as http:
        assert "set that, too" in caplog.text
        for method in ("GET", "POST"):
            path = "/console" if method == "GET" else "/console/login"
            async with http.request(method, url(server, path), data={"key": ""}) as answer:
                text = await answer.text()
                assert answer.status == 503
                assert "Set <code>API_KEY</code>" in text
                assert "<form" not in text


async def test_the_key_opens_it_and_nothing_else_does():
    """The wrong key is told so; the right one gives a cookie, with which the page is the console."""
    async with serving(console=True, api_key=KEY) as server, aiohttp.ClientSession(cookie_jar=jar()) as http:
        async with http.post(url(server, "/console/login"), data={"key": KEY[:-1]}) as answer:
            assert answer.status == 403
            assert "not this server's API_KEY" in await answer.text()
            assert not answer.cookies
        async with http.get(url(server)) as answer:
            assert 'name="key"' in await answer.text()
        async with http.post(url(server, "/console/login"), data={"key": KEY}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/console")
        async with http.get(url(server)) as answer:
            assert 'id="log-rows"' in await answer.text()


async def test_keys_are_not_found_by_trying():
    """After five wrong keys from an address even the right one has to wait; the page says how long."""
    async with serving(console=True, api_key=KEY, trust_proxy=True) as server, aiohttp.ClientSession() as http:
        login, here = url(server, "/console/login"), {"X-Forwarded-For": "10.0.0.1"}
        statuses = []
        for key in [*("wrong" * n for n in range(6)), KEY]:
            async with http.post(login, data={"key": key}, headers=here, allow_redirects=False) as answer:
                statuses.append(answer.status)
                text, wait = await answer.text(), answer.headers.get("Retry-After")
        assert statuses == [403] * 5 + [429] * 2
        assert 0 < int(wait) <= 60
        assert f"try again in {wait} s" in text
        there = {"X-Forwarded-For": "10.0.0.2"}
        async with http.post(login, data={"key": KEY}, headers=there, allow_redirects=False) as answer:
            assert answer.status == 303


async def test_a_form_that_does_not_come_is_not_waited_for():
    """Who sends half of one is hung up on, and the server is free of it."""
    async with serving(console=True, api_key=KEY, handshake_timeout=0.1) as server:
        peer = await Peer.connect(("127.0.0.1", server.port))
        head = "POST /console/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        await peer.send(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nkey=".encode())
        assert (await peer.head()).startswith(b"HTTP/1.1 408 ")
        await peer.cut_off()
        peer.close()


async def test_only_the_consoles_own_page_can_use_the_cookie():
    """A call with the cookie needs the console's header, and an Origin that is this host, if there is one."""
    async with serving(console=True, api_key=KEY) as server, aiohttp.ClientSession(cookie_jar=jar()) as http:
        logout = url(server, "/console/logout")
        async with http.post(logout, headers=OURS) as answer:
            assert answer.status == 403
        await http.post(url(server, "/console/login"), data={"key": KEY})
        for headers in ({}, OURS | {"Origin": "https://evil.example"}, OURS | {"Origin": "null"}):
            async with http.post(logout, headers=headers) as answer:
                assert answer.status == 403
        async with http.post(logout, headers=OURS | {"Origin": f"http://127.0.0.1:{server.port}"}) as answer:
            assert answer.status == 204
        async with http.get(url(server)) as answer:
            assert 'name="key"' in await answer.text()


def jar() -> aiohttp.CookieJar:
    """A jar that takes cookies from an address without a name."""
    return aiohttp.CookieJar(unsafe=True)


async def test_users_are_made_up_in_dev_only():
    """No login gets a made-up user out of a real server."""
    async with serving(console=True, api_key=KEY) as server, aiohttp.ClientSession(cookie_jar=jar()) as http:
        await http.post(url(server, "/console/login"), data={"key": KEY})
        async with http.post(
            url(server, "/console/token"), json={"username": "a", "user_id": 1}, headers=OURS
        ) as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    ("user", "field"),
    [
        ({"username": "", "user_id": 1}, "username"),
        ({"username": "alice", "user_id": "a b"}, "user_id"),
        ({"username": "alice", "user_id": 1, "rooms": "channel:1"}, "rooms"),
        ([], None),
    ],
)
async def test_an_impossible_user_is_refused_by_field(user, field):
    """What cannot be a user is answered with the field that is wrong; what is no JSON, too."""
    async with serving(dev=True) as server, aiohttp.ClientSession() as http:
        async with http.post(url(server, "/console/token"), json=user, headers=OURS) as answer:
            body = await answer.json()
            assert answer.status == 422
            assert list(body["fields"]) == ([field] if field else [])
        async with http.post(url(server, "/console/token"), data=b"{", headers=OURS) as answer:
            assert (answer.status, (await answer.json())["code"]) == (422, "bad_json")
        async with http.post(url(server, "/console/token"), json={"username": "alice", "user_id": 1}) as answer:
            assert answer.status == 403


async def test_a_made_up_users_token_fits_the_settings():
    """The token has the audience and the issuer that this server asks for."""
    async with serving(dev=True, jwt_audience="us", jwt_issuer="them") as server, aiohttp.ClientSession() as http:
        user = {"username": "alice", "user_id": 7, "rooms": ["channel:*"]}
        async with http.post(url(server, "/console/token"), json=user, headers=OURS) as answer:
            identity = server.gateway.authenticator.verify((await answer.json())["token"])
    assert (identity.user_id, identity.username, identity.rooms) == (7, "alice", ("channel:*",))


# What keeps it safe.


@pytest.mark.parametrize("settings", [{"dev": True}, {"console": True, "api_key": KEY}, {"console": True}])
async def test_every_page_has_a_policy_with_a_nonce_of_its_own(settings):
    """Nothing runs but what carries the nonce, which is new each time; nothing is framed, cached or told to others."""
    nonces = set()
    async with serving(**settings) as server, aiohttp.ClientSession() as http:
        for _ in range(2):
            async with http.get(url(server)) as answer:
                page, headers = await answer.text(), answer.headers
            policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
            nonce = policy["script-src"][len("'nonce-") : -1]
            nonces.add(nonce)
            assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == f"'nonce-{nonce}'"
            assert policy["form-action"] == "'self'"
            assert policy["connect-src"] == f"'self' ws://127.0.0.1:{server.port} wss://127.0.0.1:{server.port}"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cache-Control"] == "no-store"
            assert not re.search(r"\s(on[a-z]+|style)=", page)
            for tag in re.findall(r"<script[^>]*>", page):
                assert f'nonce="{nonce}"' in tag or 'type="application/json"' in tag
    assert len(nonces) == 2


async def test_a_strange_host_does_not_get_into_the_policy():
    """A Host header that is no plain name is not repeated."""
    strange = {"Host": "a;script-src *"}
    async with (
        serving(console=True, api_key=KEY) as server,
        aiohttp.ClientSession() as http,
        http.get(url(server), headers=strange) as answer,
    ):
        assert "connect-src 'self';" in answer.headers["Content-Security-Policy"]


async def test_the_pages_data_cannot_end_its_script():
    """Whatever plugins say of their types, it stays JSON."""
    async with (
        serving(dev=True, plugins=[deploy]) as server,
        aiohttp.ClientSession() as http,
        http.get(url(server)) as answer,
    ):
        page = await answer.text()
    assert "<script>document.title" not in page
    data = json.loads(page.split('<script type="application/json" id="page">')[1].split("</script>")[0])
    assert "</script>" in next(room["description"] for room in data["rooms"] if room["type"] == "environment")
    assert {"send_message", "join_room", "ping", "deploy.start"} <= {command["type"] for command in data["commands"]}
    assert not any(event["publishable"] for event in data["events"] if event["type"].startswith("user_"))


async def test_its_files_are_kept_by_browsers_while_they_are_the_same():
    """Scripts and styles come with an ETag, and are not sent to those who have them."""
    async with serving(dev=True) as server, aiohttp.ClientSession() as http:
        for name, type in (("console.js", "text/javascript"), ("console.css", "text/css")):
            async with http.get(url(server, f"/console/static/{name}")) as answer:
                assert (answer.status, answer.content_type) == (200, type)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                tag = answer.headers["ETag"]
            async with http.get(url(server, f"/console/static/{name}"), headers={"If-None-Match": tag}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
        for name in ("console.html", "__init__.py", "..%2Fconsole.html"):
            async with http.get(url(server, f"/console/static/{name}")) as answer:
                assert answer.status == 404


async def test_every_close_is_explained():
    """The console has words for each code that the server closes with."""
    assert set(MEANINGS) == set(CLOSES)
    assert all(meaning.endswith(".") for meaning in MEANINGS.values())


async def test_every_command_of_the_core_has_a_form():
    """The commands that no plugin declares can be sent from the console, too."""
    assert set(CORE_COMMANDS) == set(COMMANDS)


# In a browser.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each has its own cookies and storage."""
    async with chromium() as browser:
        yield browser


class Tab:
    """A page at the console, and all it complains about; ``expected`` are parts of complaints that are meant to be."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.expected: list[str] = []
        self._complaints: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complaints.append(f"{message.text} {message.location.get('url', '')}")

    @property
    def complaints(self) -> list[str]:
        return [one for one in self._complaints if not any(part in one for part in self.expected)]

    async def connect(self, name: str = "alice", id: int = 1, rooms: str = "*") -> None:
        """Connect as a made-up user."""
        await self.page.get_by_label("Name", exact=True).fill(name)
        await self.page.get_by_label("Id", exact=True).fill(str(id))
        await self.page.get_by_label("Rooms the token opens").fill(rooms)
        await self.page.get_by_role("button", name="Connect", exact=True).click()
        await expect(self.page.locator("#status")).to_contain_text(f"Connected as {name}")

    async def join(self, room: str) -> None:
        """Join a room by its form."""
        await self.page.get_by_label("Room to join").fill(room)
        await self.page.get_by_role("button", name="Join", exact=True).click()
        await expect(self.page.locator("#chips")).to_contain_text(room)

    def rows(self, text: str = "", type: str = ""):
        """The rows of the log with ``text``, of ``type``."""
        rows = self.page.locator(".row").filter(has_text=text)
        return rows.filter(has=self.page.locator(".type").get_by_text(type, exact=True)) if type else rows

    async def choose(self, tab: str) -> None:
        """Choose one of the tabs of what to send."""
        await self.page.get_by_role("tab", name=tab).click()

    async def select(self, kind: str, type: str) -> None:
        """Choose a command or an event."""
        await self.page.get_by_role("combobox", name=kind, exact=True).select_option(type)

    def field(self, path: str):
        """The field of a path in the form that is shown."""
        return self.page.locator(f'.compose form:not([hidden]) [data-path="{path}"]')

    async def fill(self, path: str, value: str) -> None:
        """Fill a field of the form that is shown."""
        await self.field(path).locator("input:not([type=checkbox]), textarea").last.fill(value)

    async def submit(self, name: str = "Send") -> None:
        """Send what the form says."""
        await self.page.locator(".compose form:not([hidden])").get_by_role("button", name=name, exact=True).click()

    def outcome(self):
        """What became of what was sent."""
        return self.page.locator(".compose form:not([hidden]) .outcome")


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser):
    """Opens pages; when the test is over, none of them may have complained: of a violated policy, or anything else."""
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
    assert [tab.complaints for tab in tabs] == [[] for _ in tabs]


@pytest_asyncio.fixture(loop_scope="module")
async def dev() -> AsyncIterator[Server]:
    """``roomcast dev``, as far as the console is concerned."""
    async with serving(dev=True, plugins=[deploy]) as server:
        yield server


in_browser = pytest.mark.browser


async def say(server: Server, content: str, room: str = "channel:1") -> None:
    """Let bob say something."""
    data = {"content": content, "username": "bob", "user_id": 2}
    await server.gateway.publishing.publish("message", room, data, "bob", None)


@in_browser
async def test_a_made_up_user_connects_joins_and_says_something(dev, visit):
    """The way from an empty page to a message in the log, by the form that is made from the command's schema."""
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


@in_browser
async def test_a_token_in_the_address_connects_at_once(dev, visit):
    """The link of ``roomcast dev`` connects, and its token is gone from the address bar and the history."""
    token = make_token(SECRET, user_id=5, username="eve")
    tab = await visit(f"{url(dev)}#token={token}")
    await expect(tab.page.locator("#status")).to_contain_text("Connected as eve user 5 · since")
    assert tab.page.url == url(dev)
    assert await tab.page.evaluate("history.length") <= 2


@in_browser
async def test_errors_stand_beside_their_fields(dev, visit):
    """The server's complaint about a field is at the field, and goes away with the next attempt."""
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


@in_browser
async def test_a_form_has_a_control_for_each_kind_of_field(dev, visit):
    """Numbers, choices, lists and nested objects arrive as what the schema says; nothing left empty is sent."""
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


@in_browser
async def test_an_event_is_published_as_a_backend_would(dev, visit):
    """An event's form goes to the HTTP API; its complaints stand beside the fields, too."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("project:7")
    await tab.choose("Event")
    await tab.select("Event", "task.created")
    await tab.fill("task_id", "789")
    tab.expected.append("/api/v1/events")
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


@in_browser
async def test_any_text_can_be_sent(dev, visit):
    """Raw JSON goes out as it stands, and what the server says of it is shown there."""
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


@in_browser
async def test_the_log_is_filtered_by_room_type_and_text(dev, visit):
    """What does not fit is not shown, what comes later neither, and nothing is lost."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await tab.join("channel:2")
    await say(dev, "one apple", "channel:1")
    await say(dev, "two apples", "channel:2")
    await say(dev, "two pears", "channel:2")
    await expect(tab.rows(type="message")).to_have_count(3)
    everything = await tab.rows().count()
    await tab.page.get_by_label("Room", exact=True).select_option("channel:2")
    await tab.page.get_by_label("Type", exact=True).select_option("message")
    await expect(tab.rows()).to_have_count(2)
    await tab.page.get_by_label("Text", exact=True).fill("APPLE")
    await expect(tab.rows()).to_have_count(1)
    await say(dev, "three apples", "channel:1")
    await say(dev, "four apples", "channel:2")
    await expect(tab.rows()).to_have_count(2)
    await tab.page.get_by_label("Text", exact=True).fill("no such thing")
    await expect(tab.page.locator("#log-empty")).to_contain_text("No frame fits the filter")
    await tab.page.get_by_label("Text", exact=True).fill("")
    await tab.page.get_by_label("Room", exact=True).select_option("")
    await tab.page.get_by_label("Type", exact=True).select_option("")
    await expect(tab.rows()).to_have_count(everything + 2)


@in_browser
async def test_the_log_pauses_clears_and_is_bounded(dev, visit):
    """Paused, it stands still and counts what waits; cleared, it is empty; it keeps the last 2,000 frames."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await tab.page.get_by_role("button", name="Pause").click()
    await say(dev, "while paused")
    await expect(tab.page.get_by_role("button", name="Resume (1)")).to_be_visible()
    await expect(tab.rows("while paused")).to_have_count(0)
    await tab.page.get_by_role("button", name="Resume").click()
    await expect(tab.rows("while paused")).to_have_count(1)
    await tab.page.get_by_role("button", name="Clear").click()
    await expect(tab.rows()).to_have_count(0)
    for number in range(2100):
        await say(dev, f"message {number}")
    await expect(tab.rows("message 2099")).to_be_visible()
    assert await tab.rows().count() == 2000
    await expect(tab.rows().first).to_contain_text("message 100")


@in_browser
async def test_an_opened_frame_is_copied_and_sent_again(dev, visit):
    """The raw JSON of a frame can be copied, and taken over into Raw JSON."""
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


@in_browser
async def test_rooms_and_members_are_shown_and_follow(dev, visit):
    """Who comes into a room appears there by itself, and who is kicked or disconnected goes, once it was confirmed."""
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


@in_browser
async def test_a_close_is_told_in_words(visit):
    """A forbidden join ends with 4403, in words; a bad token with 4401; leaving is no alarm."""
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


@in_browser
async def test_it_comes_back_only_if_told_to(dev, visit):
    """Off, a lost connection stays lost; on, it comes back to its rooms and hears what was said meanwhile."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await say(dev, "before")
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
    await say(dev, "meanwhile")
    await expect(tab.rows("meanwhile", type="message")).to_have_count(1)
    await expect(tab.rows(type="joined_room")).to_have_count(3)
    await expect(tab.page.locator("#status")).to_have_attribute("data-phase", "on")


@in_browser
async def test_what_the_client_does_by_itself_is_shown(dev, visit):
    """The wait, the resume with its missed events, and the way on are rows of the log, in the order of happening."""
    tab = await visit(url(dev))
    await tab.connect()
    await tab.join("channel:1")
    await tab.page.get_by_label("Reconnect", exact=True).check()
    for connection in list(dev.gateway.keepalive.connections):
        connection.close(SERVICE_RESTART)
    await say(dev, "meanwhile")
    await expect(tab.rows("meanwhile", type="message")).to_have_count(1)
    await expect(tab.rows("Missed events", type="resumed")).to_have_count(1)
    await expect(tab.rows("Attempt 1 in", type="waiting")).to_have_count(1)
    shown = await tab.page.locator(".row .type").all_inner_texts()
    ours = [type for type in shown if type in ("close", "waiting", "connected", "resumed", "message")]
    assert ours == ["connected", "close", "waiting", "connected", "resumed", "message"]


@in_browser
async def test_what_users_write_is_text(dev, visit):
    """Names, messages, ids and errors full of markup are shown letter by letter, and run nowhere."""
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


@in_browser
async def test_the_policy_stops_what_should_never_get_in(dev, visit):
    """If markup ever got into the page, it would still not run, and could not be made from a string."""
    tab = await visit(url(dev))
    tab.expected += ["TrustedHTML", "TrustedScript", "Content Security Policy"]
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
    assert tab._complaints


@in_browser
async def test_whoever_has_the_key_logs_in_and_out(visit):
    """With CONSOLE=1 the key opens the console, whose cookie then stands for the key in its calls."""
    async with serving(console=True, api_key=KEY) as server:
        tab = await visit(url(server))
        tab.expected.append("/console/login")
        await tab.page.get_by_label("API key").fill("wrong")
        await tab.page.get_by_role("button", name="Log in").click()
        await expect(tab.page.get_by_role("alert")).to_have_text("That is not this server's API_KEY.")
        await tab.page.get_by_label("API key").fill(KEY)
        await tab.page.get_by_label("API key").press("Enter")
        await expect(tab.page.get_by_role("heading", name="Log", exact=True)).to_be_visible()
        await expect(tab.page.get_by_role("tab", name="Made-up user")).to_have_count(0)
        await tab.page.get_by_label("Token", exact=True).fill(
            make_token(SECRET, user_id=1, username="alice", rooms=["*"])
        )
        await expect(tab.page.locator("#token-hint")).to_contain_text("alice (user 1); opens *")
        await tab.page.get_by_role("button", name="Connect", exact=True).click()
        await tab.join("project:1")
        await tab.choose("Event")
        await tab.select("Event", "project.archived")
        await tab.fill("project_id", "1")
        await tab.submit("Publish")
        await expect(tab.rows(type="project.archived")).to_be_visible()
        await tab.page.get_by_role("button", name="Log out").click()
        await expect(tab.page.get_by_label("API key")).to_be_visible()


@in_browser
async def test_what_is_done_before_the_script_is_there_does_no_harm(visit):
    """On a slow line a token that was typed meanwhile stays, and sending it too early puts it into no address."""
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


@in_browser
@pytest.mark.parametrize(("width", "scheme"), [(380, "light"), (760, "dark"), (1024, "light"), (1600, "dark")])
async def test_nothing_is_wider_than_the_window(dev, visit, width, scheme):
    """From a telephone to a wide screen there is no scrolling sideways, however long a word is."""
    tab = await visit(url(dev), width=width, height=844, color_scheme=scheme)
    await tab.connect("w" * 64)
    await tab.join("channel:" + "x" * 128)
    await say(dev, "y" * 500, "channel:" + "x" * 128)
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


@in_browser
async def test_keys_do_what_a_mouse_does(dev, visit):
    """Arrows change the tab, a slash goes to the filter, Enter opens a frame."""
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


@in_browser
async def test_every_control_has_a_name(dev, visit):
    """Each button and field can be named by a screen reader, and no id is given twice."""
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


@in_browser
async def test_an_api_that_fails_is_said_where_it_was_asked(dev, visit):
    """When the server does not answer, the panel says so, and the next refresh makes it good."""
    tab = await visit(url(dev))

    async def fail(route: Route) -> None:
        await route.abort()

    tab.expected.append("/api/v1/rooms")
    await tab.page.route("**/api/v1/rooms", fail)
    await tab.page.get_by_role("button", name="Refresh").click()
    await expect(tab.page.locator("#people-problem")).to_contain_text("The server does not answer")
    await tab.page.unroute("**/api/v1/rooms", fail)
    await tab.page.get_by_role("button", name="Refresh").click()
    await expect(tab.page.locator("#people-problem")).to_be_empty()
    await expect(tab.page.locator("#people-empty")).to_contain_text("Nobody is in any room")
