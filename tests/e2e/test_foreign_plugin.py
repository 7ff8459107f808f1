"""A package of somebody else's, installed beside roomcast: it loads, works, and harms nobody when it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from paths import TESTS, link_package
from shell import SECRET, Running, environment, roomcast

from roomcast import Refused
from roomcast.auth.identity import make_token
from roomcast.testing import Client

FOREIGN = TESTS / "foreign"
ROOM = "environment:prod"


def run(*command: str, cwd: Path, **variables: str) -> None:
    """Run a module of this Python; its output is the failure's message."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's folder, for what builds and tests leave behind."""
    return shutil.copytree(
        FOREIGN, tmp_path_factory.mktemp("source") / "foreign", ignore=shutil.ignore_patterns("__pycache__")
    )


@pytest.fixture(scope="session")
def site(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder in which pip has installed the package; on ``PYTHONPATH`` it is part of the environment."""
    target = tmp_path_factory.mktemp("site")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run("pip", "install", *options, "--target", str(target), str(source), cwd=source)
    return str(target)


@pytest.fixture
def server(site: str) -> Iterator[Running]:
    """A server in an environment with the package, which cuts handlers off soon."""
    with Running(PYTHONPATH=site, HANDLER_TIMEOUT="0.2", LOG_FORMAT="json") as running:
        yield running


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


class Team:
    """The users of one test."""

    def __init__(self, server: Running, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.users: list[Client] = []

    async def member(self, name: str, *rooms: str) -> Client:
        """Connect a user whose token opens ``rooms``."""
        token = make_token(SECRET, user_id=name, username=name, rooms=rooms)
        self.users.append(await Client.open(self.session, self.server.url, token))
        return self.users[-1]

    async def joined(self, name: str) -> Client:
        """Connect a user of the team, who joins the room."""
        user = await self.member(name, "environment:*")
        await user.join(ROOM)
        return user

    async def leave(self) -> None:
        """Close all connections, for which a server that stops would wait."""
        for user in self.users:
            await user.close()


@pytest_asyncio.fixture
async def team(server: Running, session: aiohttp.ClientSession) -> AsyncIterator[Team]:
    """Users of ``server``, who leave with the test."""
    team = Team(server, session)
    yield team
    await team.leave()


def errors(server: Running) -> list[dict[str, str]]:
    """Stop the server, and return its log's lines of level error."""
    server.stop()
    return [line for line in map(json.loads, server.err) if line["level"] == "error"]


def test_it_is_listed(site):
    """``roomcast plugins`` shows the package, its version, and what it owns."""
    listed = json.loads(roomcast("plugins", "--json", PYTHONPATH=site).stdout)
    assert next(plugin for plugin in listed if plugin["plugin"] == "deploy") == {
        "plugin": "deploy",
        "description": "Deployments and rollbacks",
        "package": "roomcast-deploy 1.2.0",
        "entry_point": "deploy",
        "commands": ["deploy.rollback", "deploy.verify", "deploy.wait"],
        "events": ["deploy.finished"],
        "room_types": ["environment"],
        "routes": ["GET /plugins/deploy/live/{environment}"],
    }
    assert {"core", "chat", "task", "project"} < {plugin["plugin"] for plugin in listed}


def test_without_it_nobody_knows_of_it(site):
    """The folder alone adds the plugin: the environment that runs the tests has it not."""
    listed = json.loads(roomcast("plugins", "--json").stdout)
    assert "deploy" not in {plugin["plugin"] for plugin in listed}


async def test_its_rule_decides_who_joins(team):
    """The team can join; others are refused and closed with 4403, as docs/protocol.md says."""
    alice = await team.member("alice", ROOM)
    assert await alice.join(ROOM) == {"message": f"Joined room {ROOM}"}
    mallory = await team.member("mallory", "environment:test", "channel:*")
    with pytest.raises(Refused) as refused:
        await mallory.join(ROOM)
    assert refused.value.code == "forbidden"
    assert await mallory.closed() == (4403, "Forbidden")


async def test_its_command_publishes_to_the_whole_room(team):
    """Everyone in the room gets the event once, nobody else does, and the caller gets the reply."""
    alice, bob = await team.joined("alice"), await team.joined("bob")
    carol = await team.member("carol", "environment:*")
    await carol.join("environment:test")
    assert await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM) == {"version": "1.1"}
    events = [await user.next("deploy.finished") for user in (alice, bob)]
    assert events[0] == events[1]
    assert events[0].keys() == {"type", "room", "data", "sender", "timestamp", "id"}
    assert (events[0]["room"], events[0]["data"], events[0]["sender"]) == (ROOM, {"version": "1.1"}, "alice")
    for user in (alice, bob, carol):
        await user.nothing("deploy.finished")


async def test_its_schema_guards_its_handler(team):
    """Data that does not fit is refused by the field's name, and nothing is published."""
    alice = await team.joined("alice")
    with pytest.raises(Refused) as refused:
        await alice.command("deploy.rollback", {"version": 2}, room=ROOM)
    assert (refused.value.code, refused.value.fields) == ("invalid_data", {"version": ["Not a valid string."]})
    await alice.nothing("deploy.finished")


async def test_a_handler_that_raises_fails_its_caller_alone(team, server):
    """The caller is told no more than that; its connection and all others live, and the log has the traceback."""
    alice, bob = await team.joined("alice"), await team.joined("bob")
    await alice.next("user_joined")
    await alice.next("user_joined")
    with pytest.raises(Refused) as refused:
        await alice.command("deploy.verify", room=ROOM)
    assert refused.value.code == "internal"
    assert "KeyError" not in refused.value.message
    await alice.nothing("error")
    await bob.nothing("error")
    await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM)
    assert await alice.command("deploy.verify", room=ROOM) == {"version": "1.1"}
    assert (await bob.next("deploy.finished"))["data"] == {"version": "1.1"}
    await team.leave()
    (logged,) = errors(server)
    assert logged["message"] == "deploy.verify of user alice failed"
    assert "roomcast_deploy" in logged["exception"]
    assert "KeyError: 'prod'" in logged["exception"]


async def test_a_handler_that_hangs_is_cut_off(team, server):
    """Its caller gets ``timeout``; meanwhile others are served, and then the caller's next command."""
    alice, bob = await team.joined("alice"), await team.joined("bob")
    await alice.send({"type": "deploy.wait", "room": ROOM, "id": "hangs"})
    await alice.send({"type": "deploy.rollback", "room": ROOM, "id": "next", "data": {"version": "1.1"}})
    assert await bob.command("deploy.rollback", {"version": "1.0"}, room=ROOM) == {"version": "1.0"}
    await bob.nothing("error")
    error = await alice.next("error")
    assert (error["id"], error["data"]["code"]) == ("hangs", "timeout")
    reply = await alice.next("reply")
    assert (reply["id"], reply["data"]) == ("next", {"version": "1.1"})
    assert [(await bob.next("deploy.finished"))["data"]["version"] for _ in range(2)] == ["1.0", "1.1"]


async def test_its_lifespan_and_its_route_are_there(team, server, session):
    """What it began with is to be read over HTTP, and then what its command has done."""
    async with session.get(f"{server.url}/plugins/deploy/live/build") as response:
        assert await response.json() == {"environment": "build", "version": "1.0"}
    alice = await team.joined("alice")
    await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM)
    async with session.get(f"{server.url}/plugins/deploy/live/prod") as response:
        assert await response.json() == {"environment": "prod", "version": "1.1"}


async def test_a_route_that_raises_fails_its_caller_alone(server, session):
    """The caller gets a 500 as JSON, without the reason; the log has that."""
    async with session.get(f"{server.url}/plugins/deploy/live/nowhere") as response:
        assert response.status == 500
        body = await response.json()
    assert body.keys() == {"error", "code"}
    assert body["code"] == "internal"
    async with session.get(f"{server.url}/plugins/deploy/live/build") as response:
        assert response.status == 200
    (logged,) = errors(server)
    assert "KeyError: 'nowhere'" in logged["exception"]
    assert "/plugins/deploy/live/{environment}" in logged["message"]


def test_its_own_tests_pass(source, site):
    """Its author has tested it with ``roomcast.testing``."""
    run("pytest", "-q", "-p", "no:cacheprovider", cwd=source, PYTHONPATH=site)


def test_it_is_strictly_typed(site, tmp_path):
    """What a plugin is written against has types that hold under mypy --strict."""
    options = ("--strict", "--cache-dir", str(tmp_path / "cache"))
    package = link_package(tmp_path / "package")
    run("mypy", *options, "-p", "roomcast_deploy", cwd=tmp_path, PYTHONPATH=site, MYPYPATH=str(package))
