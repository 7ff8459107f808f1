"""The tables of the documentation say what the code says."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import re
from importlib.resources import files
from typing import Any

import pytest
from docs_pages import PAGES, code, rows, snippet
from redis.asyncio import Redis
from redis_servers import RedisServer
from serving import Serve, answer, call, connect, token_for

import roomcast
from roomcast import Context, MemberContext, Plugin, Service
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import SCHEMES, parse
from roomcast.cli.checks.redis import RIGHTS
from roomcast.errors import CLOSES, ERROR_CODES
from roomcast.settings import describe, file_variables
from roomcast.testing import Client
from roomcast.web.api import tickets
from roomcast.web.json_errors import STATUS
from roomcast.web.routes import API_ROOT

PROTOCOL = PAGES["docs/protocol.md"]
CONFIGURATION = PAGES["docs/configuration.md"]


@pytest.mark.parametrize("variable", describe(), ids=lambda variable: variable.name)
def test_every_setting_is_listed(variable):
    """Each setting has a row with its default, its unit and its meaning."""
    default = f"`{variable.default}`" if variable.default else ""
    unit = f" {variable.unit}" if variable.unit and variable.default else ""
    assert f"| `{variable.name}` | {default}{unit} | {variable.meaning} |" in CONFIGURATION


def test_no_other_setting_is_listed():
    """Each row with a default is that of a setting, and there is one row for each."""
    listed = [code(name) for name, *_, meaning in rows("docs/configuration.md") if name.startswith("`") and _]
    assert sorted(listed) == sorted(variable.name for variable in describe())


def test_every_variable_of_a_file_is_listed():
    """Each variable that names a file with a secret has a row."""
    listed = [code(row[0]) for row in rows("docs/configuration.md", "## Secrets in files") if row[0].startswith("`")]
    assert listed and set(listed) == set(file_variables())


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_error_code_is_listed(code):
    """Each code of an error frame has a row with its meaning and whether to try again."""
    error = ERROR_CODES[code]
    assert f"| `{code}` | {error.meaning} | {'yes' if error.temporary else 'no'} |" in PROTOCOL


@pytest.mark.parametrize("close", [close for close in CLOSES if close.reason], ids=lambda close: close.reason)
def test_every_close_is_listed(close):
    """Each way in which the server closes has a row with its code and whether to reconnect."""
    assert f"| {close.code} | {close.reason} | {'yes' if close.reconnect else 'no'} |" in PROTOCOL


def test_the_protocol_lists_no_other_code():
    """Each row of the two tables is that of a code."""
    errors = [code(row[0]) for row in rows("docs/protocol.md", "## Errors") if row[0].startswith("`")]
    assert errors == list(ERROR_CODES)
    closes = [row[:2] for row in rows("docs/protocol.md", "## Close codes") if row[2:] in [("yes",), ("no",)]]
    assert closes == [(str(close.code), close.reason) for close in CLOSES if close.reason]


def test_every_status_of_the_http_api_is_listed():
    """The table of HTTP errors has the codes and statuses of ``STATUS``, in its order."""
    listed = [(code(row[0]), int(row[1])) for row in rows("docs/http-api.md", "## Errors") if row[0].startswith("`")]
    assert listed == list(STATUS.items())


async def test_every_call_of_the_http_api_is_listed(serve: Serve):
    """The table of calls has every route that the server serves for backends, probes and Prometheus."""
    server = await serve()
    listed = {code(row[0]) for row in rows("docs/http-api.md", "## Calls") if row[0].startswith("`")}
    served = set()
    for route in server.ports[0].runner.app.router.routes():
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.resource.canonical)
        is_api = path.startswith(f"{API_ROOT}/") and "ws" not in path.split("/") and "rest" not in path
        if (is_api or path.startswith("/health/") or path == "/metrics") and route.method not in ("HEAD", "OPTIONS"):
            served.add(f"{route.method} {path}")
    assert listed == served
    assert f"POST {tickets.PATH}" in listed


async def test_every_metric_is_listed(serve: Serve, redis_server: RedisServer, redis_prefix: str):
    """The table of metrics has the name and type of each metric that a node on Redis returns."""
    server = await serve(broker=RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix)))
    async with answer(server, "GET", "/metrics", key=None) as response:
        served = dict(re.findall(r"^# TYPE (roomcast_\w+) (\w+)$", await response.text(), re.MULTILINE))
    listed = {code(row[0]): row[1] for row in rows("docs/operations.md", "## Metrics") if row[0].startswith("`")}
    assert listed.pop("roomcast_workers_silent") == "gauge"  # with --workers only
    assert listed.pop("roomcast_certificate_expires") == "gauge"  # with --tls-cert only
    assert served.pop("roomcast_info") == "gauge" and listed.pop("roomcast_info") == "info"
    assert listed == served


@pytest.mark.parametrize("point", [name for name in vars(Plugin) if not name.startswith("_")])
def test_every_extension_point_is_in_the_plugin_page(point):
    """What a plugin can declare is in the table of declarations, and has a docstring."""
    listed = " ".join(row[0] for row in rows("docs/plugins.md", "## What a plugin declares"))
    assert f"@deploy.{point}(" in listed or f"`@deploy.{point}`" in listed
    assert getattr(Plugin, point).__doc__


@pytest.mark.parametrize(
    ("kind", "page", "section"),
    [
        (Context, "docs/plugins.md", "## What a handler can do"),
        (Service, "docs/plugins.md", "## What a handler can do"),
        (Client, "docs/testing.md", "### Client"),
    ],
    ids=["Context", "Service", "Client"],
)
def test_every_method_is_listed(kind, page, section):
    """Each public method and property has a row, and no row names one that does not exist."""
    names = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")} - {"open"}
    names |= {name for name in getattr(kind, "__slots__", ()) if not name.startswith("_")}
    listed = {
        name
        for row in rows(page, section)
        for name in re.findall(r"`(?:await )?(\w+)(?:\(|`)", row[0])
        if name not in ("Context", "Service")
    }
    assert names <= listed
    assert kind is Service or listed == names


def key_patterns(prefix: str) -> dict[str, re.Pattern[bytes]]:
    """Return a pattern for each key in the table of keys; some rows have several endings for one key."""
    patterns = {}
    for row in rows("docs/redis.md", "## Keys"):
        for first, *endings in [re.findall(r"`([^`]+)`", row[0])] if "`" in row[0] else []:
            for name in (first, *(first[: first.rindex("}") + 1] + ending for ending in endings)):
                key = re.sub(r"^room", "{prefix:channel:1}", name) if name.startswith("room:") else name
                pattern = re.sub("<.*?>", ".+", re.escape(key.replace("prefix", prefix, 1)))
                patterns[name] = re.compile(pattern.encode())
    return patterns


async def test_every_key_in_redis_is_listed(serve: Serve, redis_server: RedisServer, redis_prefix: str):
    """Each key that a node writes, with and without a user's doing, is in the table of keys, and expires."""
    broker = RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix))
    hooked = Plugin("hooked")  # hooks that do not end keep their keys

    @hooked.on_join("channel")
    async def joined(ctx: MemberContext) -> None:
        await asyncio.Event().wait()

    @hooked.after_publish("message")
    async def published(service: Service, event: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    server = await serve(broker=broker, plugins=[hooked])
    async with connect(server, 7) as alice, connect(server, 9) as bob:
        await alice.join("channel:1")
        await bob.join("channel:1")
        await alice.send("set_presence", "channel:1", {"status": "away"})
        await alice.recv_type("user_updated")
        await bob.send("leave_room", "channel:1")
        await alice.recv_type("user_left")
        await alice.send("send_message", "channel:1", {"content": "Hello"}, id="1", key="a key")
        await alice.recv_type("sent")
        token = {"Authorization": f"Bearer {token_for(7)}"}
        for method, path, options in (
            ("POST", tickets.PATH, {"key": None, "headers": token}),
            ("DELETE", "/api/v1/rooms/channel:1/members/8", {}),
            ("DELETE", "/api/v1/users/8/tokens", {}),
            ("DELETE", "/api/v1/users/8/tokens/a", {}),
        ):
            assert (await call(server, method, path, **options))[0] == 200
        queue = broker.queue("webhooks")
        await queue.acquire(60)
        await queue.append([b"1", b"2"])
        await queue.bury(await queue.read(1, 1) or (), "reason")
        await queue.write_states({"channel:1": "occupied"})
        await broker.take_turn("deploy/remind", "a", 60)
        async with Redis.from_url(redis_server.url) as redis:
            keys = [key async for key in redis.scan_iter(match=f"*{redis_prefix}:*")]
            assert min([await redis.pttl(key) for key in keys]) > 0
    patterns = key_patterns(redis_prefix)
    found = {name: [key for key in keys if pattern.fullmatch(key)] for name, pattern in patterns.items()}
    assert set(keys) == {key for matching in found.values() for key in matching}
    assert [name for name, matching in found.items() if not matching] == []


def test_every_scheme_of_redis_url_is_listed():
    """Each scheme of REDIS_URL is named in the page, with ``redis`` for ``valkey``."""
    for scheme in SCHEMES:
        assert f"`{scheme.replace('valkey', 'redis')}://" in PAGES["docs/redis.md"].replace("unix:///", "unix://")


def test_every_form_of_redis_url_is_accepted():
    """Each form in the table can be parsed, with the password where it has one."""
    forms = [code(row[0]) for row in rows("docs/redis.md", "## REDIS_URL") if "`" in row[0]]
    for form in forms:
        target = parse(form.replace("…", "host"))
        assert (target.password == "password") is ("password" in form)
    assert len(forms) == 5


def test_the_rights_of_the_redis_user_are_those_that_the_doctor_names():
    """The page and ``roomcast doctor`` tell the same rights."""
    assert snippet("rights of the Redis user").strip() == RIGHTS.format(prefix="roomcast")


@pytest.mark.parametrize("page", ["README.md", "docs/javascript-client.md"])
def test_the_size_of_the_client_is_true(page):
    """The size that the page states is that of the compressed file, within 10 percent."""
    stated = re.search(r"file of ([0-9.]+) KB \(gzipped\)", " ".join(PAGES[page].split()))
    assert stated is not None
    size = len(gzip.compress(files("roomcast.static").joinpath("roomcast.js").read_bytes()))
    assert float(stated[1]) * 1000 == pytest.approx(size, rel=0.1)


def test_the_changelog_has_this_version():
    """The version in setup.cfg has a section in the changelog, after the unreleased changes."""
    sections = re.findall(r"^## \[(.+?)\]", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert sections[:2] == ["Unreleased", roomcast.__version__]
