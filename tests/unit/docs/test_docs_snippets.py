"""The documentation's examples for shells, backends and plugins do what the text says, run as they are written."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from docs_pages import module_of, snippet
from redis_servers import RedisServer
from serving import KEY, Serve, call, connect, url
from shell import API_KEY, BIN, SECRET, Process, environment, run_curl, shell

from roomcast import Context, Plugin, Refused, registry
from roomcast.registry import LoadedPlugin, Registry
from roomcast.settings import Settings
from roomcast.testing import running
from roomcast.web.server import Server

pytest_plugins = ["certificates"]

LOCAL = "http://localhost:8000"


# Starting servers.


@pytest.mark.slow
def test_start(tmp_path: Path):
    """The README's command installs roomcast and starts a development server, which prints a link to the console."""
    command = snippet("start").strip()
    installing = "python3 -m venv .venv && .venv/bin/pip install . && "
    assert command.startswith(installing), "packaging tests cover the installation of the wheel"
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(BIN)
    started = f"cd {tmp_path} && exec {command.removeprefix(installing)} --port 0"
    with Process("-c", started, command=("bash",)) as dev:
        dev.wait_for(r"http://127\.0\.0\.1:\d+/console#token=", dev.out)


def serve_line(line: str, **changes: str) -> str:
    """Return a line that starts a server, with real values in place of the example's."""
    line = line.strip()
    values = {"JWT_SECRET=…": f"JWT_SECRET='{SECRET}'", "API_KEY=…": f"API_KEY={API_KEY}", **changes}
    for old, new in values.items():
        assert line.count(old) == 1, old
        line = line.replace(old, new)
    return line.replace("roomcast ", f"exec {BIN}/roomcast ")


@pytest.mark.slow
def test_serve(certificate: Path):
    """The line of the operations page serves TLS with the given certificate."""
    files = {"--tls-cert cert.pem": f"--tls-cert {certificate}", "--tls-key key.pem": f"--tls-key {certificate}"}
    line = serve_line(snippet("serve"), **files, **{"--port 8000": "--port 0"})
    with Process("-c", line, command=("bash",)) as server:
        server.wait_for(r"listens on https://", server.err)


@pytest.mark.slow
def test_the_internal_port():
    """The line starts a server with two ports."""
    changes = {"127.0.0.1:9000": "127.0.0.1:0", "--host 0.0.0.0 --port 8000": "--host 0.0.0.0 --port 0"}
    with Process("-c", serve_line(snippet("internal port"), **changes), command=("bash",)) as server:
        server.wait_for(r"listens on http://127\.0\.0\.1:\d+ \(internal: http://127\.0\.0\.1:\d+;", server.err)


async def test_several_machines(redis_server: RedisServer, redis_prefix: str):
    """The line for several machines starts a node on the shared Redis."""
    line = serve_line(
        snippet("several machines"),
        **{
            "REDIS_URL=redis://:password@10.0.0.9:6379/0": f"REDIS_URL={redis_server.url} REDIS_PREFIX={redis_prefix}",
            "--host 10.0.0.1": "--host 127.0.0.1 --port 0",
        },
    )
    with Process("-c", line, command=("bash",)) as server:
        await asyncio.to_thread(server.wait_for, r"listens on http://", server.err)


# Backends.


async def run_python(server: Server, source: str) -> None:
    """Run Python in a process of its own, against ``server``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", source.replace(LOCAL, url(server, ""))),
        env=environment(API_KEY=KEY),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def published(server: Server, room: str = "project:123") -> list[str]:
    """Return the types of the events in a room."""
    _, body = await call(server, "GET", f"/api/v1/rooms/{room}/history")
    return [event["type"] for event in body["events"]]


async def test_with_curl(serve: Serve):
    """The command publishes one event, and no second one if it is repeated."""
    server = await serve()
    command = snippet("with curl").replace(LOCAL, url(server, ""))
    first = await asyncio.to_thread(run_curl, command, API_KEY=KEY)
    assert await asyncio.to_thread(run_curl, command, API_KEY=KEY) == first
    assert await published(server) == ["task.created"]


@pytest.mark.slow
async def test_with_requests(serve: Serve) -> None:
    """The lines publish one event, and no second one if they are repeated."""
    server = await serve()
    await run_python(server, snippet("with requests"))
    await run_python(server, snippet("with requests"))
    assert await published(server) == ["task.created"]


@pytest.mark.slow
async def test_with_httpx(serve: Serve) -> None:
    """The lines publish both events."""
    server = await serve()
    await run_python(server, snippet("with httpx"))
    assert await published(server) == await published(server, "task:790") == ["task.status_changed"]


@pytest.mark.slow
async def test_with_celery(serve: Serve) -> None:
    """The task publishes its event once, however often it is run."""
    server = await serve()
    event = '{"type": "task.deleted", "room": "project:123", "data": {"task_id": 1, "deleted_by": "alice"}}'
    used = f"announce.app.conf.task_always_eager = True\nfor _ in '12':\n    announce.delay({event}, 'k').get()\n"
    await run_python(server, snippet("with celery") + used)
    assert await published(server) == ["task.deleted"]


async def test_the_question_of_room_access(serve: Serve):
    """The URL in ROOM_ACCESS is sent the body that the page shows; its status decides."""
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.Response(status=200 if request.path == "/allow" else 403)

    app = web.Application()
    app.router.add_post("/{answer}", answer)
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        where = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for path, reply in (("/allow", "joined_room"), ("/refuse", "error")):
            server = await serve(room_access=where + path)
            async with connect(server, 12345, "alice", rooms=()) as alice:
                await alice.send("join_room", "channel:456")
                assert (await alice.recv())["type"] == reply
    assert asked == [json.loads(snippet("the question of ROOM_ACCESS"))] * 2


async def test_a_receiver_for_room_access(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    """The receiver of the page verifies the request, and decides; a wrong signature is a failed check."""
    secret, other = (f"whsec_{base64.b64encode(byte * 32).decode()}" for byte in (b"a", b"b"))
    monkeypatch.setenv("ROOM_ACCESS_SECRET", secret)
    app = module_of(snippet("a receiver for ROOM_ACCESS"))["app"]
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        where = f"http://127.0.0.1:{runner.addresses[0][1]}/may-join"
        for secrets, user_id, outcome in (
            ((secret,), 12345, "joined_room"),
            ((other, secret), 12345, "joined_room"),
            ((secret,), 54321, "forbidden"),
            ((other,), 12345, "unavailable"),
            ((), 12345, "unavailable"),
        ):
            server = await serve(room_access=where, room_access_secret=secrets)
            async with connect(server, user_id, "alice", rooms=()) as alice:
                await alice.send("join_room", "channel:456")
                frame = await alice.recv()
                assert frame["data"].get("code", frame["type"]) == outcome


# The command line.


@pytest.mark.slow
def test_types_of_this_server(tmp_path: Path):
    """The line writes a file of types, in which the events of plugins are typed."""
    shell(snippet("types of this server"), tmp_path)
    assert '"task.created"' in (tmp_path / "roomcast-types.d.ts").read_text()


@pytest.mark.slow
def test_compare_schemas(tmp_path: Path):
    """A version breaks nothing for clients of itself."""
    assert shell(snippet("compare schemas"), tmp_path) == "Nothing breaks for clients made for released.json.\n"


# Plugins.


async def test_the_complete_plugin_works() -> None:
    """Copied as it is written it is a plugin, whose command reaches the room."""
    module = module_of(snippet("a complete plugin"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:prod"])
        with pytest.raises(Refused) as refused:
            await alice.command("deploy.rollback", {"version": "1"}, room="environment:prod")
        assert refused.value.code == "not_joined"
        await alice.join("environment:prod")
        reply = await alice.command("deploy.rollback", {"version": "1"}, room="environment:prod")
        assert reply == (await alice.next("deploy.finished"))["data"] == {"version": "1"}


async def test_the_rule_that_cannot_decide_works() -> None:
    """It allows the team, and raises Unavailable if the directory does not answer."""

    class Directory:
        is_up = True

        async def team(self, environment: str) -> set[str]:
            if not self.is_up:
                raise ConnectionError
            return {"alice"}

    directory = Directory()
    plugin = Plugin("deploy")
    names = {"deploy": plugin, "directory": directory, "Context": Context}
    exec(snippet("a rule that cannot decide"), names)
    async with running([plugin]) as gateway:
        alice, mallory = await gateway.connect("alice"), await gateway.connect("mallory")
        directory.is_up = False
        with pytest.raises(Refused, match="The directory of teams does not answer") as refused:
            await alice.join("environment:prod")
        assert refused.value.code == "unavailable"
        directory.is_up = True
        await alice.join("environment:prod")
        with pytest.raises(Refused) as refused:
            await mallory.join("environment:prod")
        assert refused.value.code == "forbidden"


async def test_the_command_for_anyone_works() -> None:
    """It publishes for a user outside the room whose token covers it, and for no other user."""
    module = module_of(snippet("a complete plugin"), snippet("a command for anyone"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:*"])
        bob = await gateway.connect("bob", rooms=["environment:*"])
        mallory = await gateway.connect("mallory", rooms=["channel:*"])
        await alice.join("environment:prod")
        for user, is_member in ((alice, True), (bob, False)):
            await user.command("deploy.request", {"version": "1"}, room="environment:prod")
            event = await alice.next("deploy.requested")
            assert event["data"] == {"version": "1", "from_member": is_member}
        for user, room in ((mallory, "environment:prod"), (alice, None)):
            with pytest.raises(Refused) as refused:
                await user.command("deploy.request", {"version": "1"}, room=room)
            assert refused.value.code == "forbidden"


def test_the_options_of_a_room_type() -> None:
    """The declaration is accepted, and the variable of the page overrides it."""
    module = module_of(snippet("a complete plugin"), snippet("options of a room type"))
    loaded = Registry([*registry.installed(), LoadedPlugin(module["deploy"], "roomcast-deploy 1.0", "deploy")])
    settings = Settings(jwt_secret="x" * 32, room_variables={"ROOM_FLEET_HISTORY_SIZE": "70"})
    options = loaded.room_options(settings)["fleet"]
    assert options[:5] == (70, 600.0, True, 100, frozenset({"deploy.rollback"}))


async def test_mark_read_works() -> None:
    """The message of the protocol page marks a room; the reply has the fields of that page."""
    async with running() as gateway:
        alice = await gateway.connect("alice", rooms=["channel:*"])
        await alice.join("channel:456")
        sent = await alice.command("send_message", {"content": "x"}, room="channel:456")
        command = json.loads(snippet("mark_read"))
        await alice.send(command | {"data": sent})
        reply = json.loads(snippet("marked_read"))
        marked = await alice.next("marked_read")
        assert marked == reply | {"data": sent | {"unread": 0}, "timestamp": marked["timestamp"]}
        assert command["data"].keys() == sent.keys() and reply["data"].keys() == marked["data"].keys()


async def test_typing_works() -> None:
    """The message of the protocol page becomes the event of that page, for the other members."""
    async with running() as gateway:
        alice = await gateway.connect("alice", user_id=12345, rooms=["channel:*"])
        bob = await gateway.connect("bob", rooms=["channel:*"])
        for user in (alice, bob):
            await user.join("channel:456")
        await alice.send(json.loads(snippet("typing")))
        event = await bob.next("typing")
        assert event == json.loads(snippet("typing event")) | {"timestamp": event["timestamp"]}


async def test_the_hook_after_events_works() -> None:
    """The example repeats an event in the room of production, once."""
    hooks = (snippet("hooks of a plugin"), snippet("a hook that is called at least once"))
    module = module_of(snippet("a complete plugin"), snippet("a command for anyone"), *hooks)
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["*"])
        await alice.join("environment:prod")
        await alice.next("deploy.finished")
        await gateway.service.publish("deploy.finished", "environment:test", {"version": "2.0"})
        assert (await alice.next("deploy.finished"))["data"] == {"version": "2.0"}
        assert len(await gateway.service.history("environment:prod")) == 1


async def test_hooks_of_a_plugin() -> None:
    """The example's hooks refuse and shorten messages, and send the version to a user who joins."""
    module = module_of(snippet("a complete plugin"), snippet("a command for anyone"), snippet("hooks of a plugin"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["*"])
        await alice.join("environment:prod")
        assert (await alice.next("deploy.finished"))["data"] == {"version": "1.0"}
        await alice.join("channel:1")
        await alice.command("send_message", {"content": "x" * 1001}, room="channel:1")
        assert (await alice.next("message"))["data"]["content"] == "x" * 1000
        with pytest.raises(Refused, match="keys") as refused:
            await alice.command("send_message", {"content": "-----BEGIN PRIVATE KEY"}, room="channel:1")
        assert refused.value.code == "secret"


async def test_the_live_event_works() -> None:
    """Others see the newest step that a user looks at, and that the user has left; the user sees neither."""
    module = module_of(snippet("a complete plugin"), snippet("a live event"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:*"])
        bob = await gateway.connect("bob", rooms=["environment:*"])
        for user in (alice, bob):
            await user.join("environment:prod")
        for step in ("build", "test", "push"):
            assert await alice.command("deploy.watch", {"step": step}, room="environment:prod") == {}
        steps = [(await bob.next("deploy.watching"))["data"]["step"] for _ in range(2)]
        assert steps == ["build", "push"]
        await alice.leave("environment:prod")
        event = await bob.next("deploy.watching")
        assert event["data"] == {"username": "alice", "step": None}
        assert "id" not in event
        await alice.nothing("deploy.watching")
        assert await gateway.service.history("environment:prod") == []


async def test_the_small_plugin_works() -> None:
    """The plugin of the README publishes to the room, and only for its members."""
    module = module_of(snippet("a small plugin"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:*"])
        with pytest.raises(Refused) as refused:
            await alice.command("deploy.rollback", {"version": "1"}, room="environment:prod")
        assert refused.value.code == "not_joined"
        await alice.join("environment:prod")
        reply = await alice.command("deploy.rollback", {"version": "1"}, room="environment:prod")
        event = await alice.next("deploy.finished")
        assert (reply, event["data"]) == ({"event_id": event["id"]}, {"version": "1"})


async def test_the_lifespan_and_the_route_work() -> None:
    """The lifespan publishes while the gateway runs, and the route tells who is there."""
    module = module_of(snippet("a complete plugin"), snippet("a lifespan"), snippet("a route"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:*"])
        await alice.join("environment:prod")
        assert len(await gateway.service.history("environment:prod")) >= 1
        async with gateway.session.get("/plugins/deploy/members/prod") as response:
            assert await response.json() == {"users": 1}


async def test_the_plain_handler_and_the_call_in_a_thread_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs its program in a thread and publishes, and the check reports what is on disk."""
    module = module_of(
        snippet("a complete plugin"),
        snippet("a plain handler"),
        snippet("a call in a thread"),
    )
    calls: list[tuple[str, list[str]]] = []
    record = SimpleNamespace(run=lambda line, *, check: calls.append((threading.current_thread().name, line)))
    monkeypatch.setitem(module, "subprocess", record)
    monkeypatch.setitem(module, "os", SimpleNamespace(listdir=lambda folder: {"/srv/artifacts": ["8"]}[folder]))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:*"])
        await alice.join("environment:prod")
        assert await alice.command("deploy.run", {"version": "7"}, room="environment:prod") == {"version": "7"}
        assert (await alice.next("deploy.finished"))["data"] == {"version": "7"}
        for version, exists in (("7", False), ("8", True)):
            reply = await alice.command("deploy.check", {"version": version}, room="environment:prod")
            assert reply == {"exists": exists}
    ((thread, line),) = calls
    assert thread.startswith("roomcast plugin thread")
    assert line == ["deployctl", "rollback", "--", "7"]


@pytest.mark.slow
def test_a_test_of_a_plugin_passes(tmp_path: Path) -> None:
    """The example test passes for the example plugin, which pip installs from the files on the page."""
    source, site, tests = tmp_path / "source", tmp_path / "site", tmp_path / "tests"
    for folder in (source, tests):
        folder.mkdir()
    (source / "roomcast_deploy.py").write_text(snippet("a complete plugin"))
    (source / "pyproject.toml").write_text(snippet("the package of a plugin"))
    # Without an index, and not into the environment of the tests.
    options = f"--no-index --no-deps --no-build-isolation --disable-pip-version-check --quiet --target {site}"
    shell(f"python -m pip install {options} .", source)
    (tests / "conftest.py").write_text(snippet("conftest of a plugin"))
    parts = (snippet("a test of a plugin"), snippet("a test of a lost connection"), snippet("a test on all brokers"))
    (tests / "test_deploy.py").write_text("\n".join(parts))
    (tests / "all").mkdir()
    (tests / "all" / "conftest.py").write_text(snippet("a fixture for all brokers"))
    (tests / "all" / "test_again.py").write_text(snippet("a test of a plugin"))
    (tests / "pyproject.toml").write_text(snippet("the configuration of pytest"))
    said = shell("python -W error -m pytest -q -p no:cacheprovider", tests, PYTHONPATH=str(site))
    assert re.search("12 passed", said)
