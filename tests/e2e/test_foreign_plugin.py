"""Tests of a plugin in another package: it loads and works, and its failures do not affect other requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from paths import TESTS, link_package
from shell import SECRET, Running, roomcast
from shell import run_module as run

from roomcast import Refused
from roomcast.auth.identity import make_token
from roomcast.testing import Client

FOREIGN = TESTS / "foreign"
ROOM = "environment:prod"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package's folder, for files that builds and tests create."""
    return shutil.copytree(
        FOREIGN, tmp_path_factory.mktemp("source") / "foreign", ignore=shutil.ignore_patterns("__pycache__")
    )


@pytest.fixture(scope="session")
def site(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder in which pip installed the package; PYTHONPATH adds it to an environment."""
    target = tmp_path_factory.mktemp("site")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run("pip", "install", *options, "--target", str(target), str(source), cwd=source)
    return str(target)


@pytest.fixture
def server(site: str) -> Iterator[Running]:
    """Run a server with the package and a short handler timeout."""
    with Running(PYTHONPATH=site, HANDLER_TIMEOUT="0.2", LOG_FORMAT="json") as running:
        yield running


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Return an HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


class Team:
    """The users of one test."""

    def __init__(self, server: Running, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.users: list[Client] = []

    async def member(self, name: str, *rooms: str) -> Client:
        """Connect a user whose token allows ``rooms``."""
        token = make_token(SECRET, user_id=name, username=name, rooms=rooms)
        self.users.append(await Client.open(self.session, self.server.url, token))
        return self.users[-1]

    async def connect_member(self, name: str) -> Client:
        """Connect a user of the team, who joins the room."""
        user = await self.member(name, "environment:*")
        await user.join(ROOM)
        return user

    async def leave(self) -> None:
        """Close all connections, because a server that stops waits for them."""
        for user in self.users:
            await user.close()


@pytest_asyncio.fixture
async def team(server: Running, session: aiohttp.ClientSession) -> AsyncIterator[Team]:
    """Return the users of ``server``; close their connections at the end."""
    team = Team(server, session)
    yield team
    await team.leave()


def errors(server: Running) -> list[dict[str, str]]:
    """Stop the server, and return the log lines of level error."""
    server.stop()
    return [line for line in map(json.loads, server.err) if line["level"] == "error"]


def test_the_plugin_is_listed(site) -> None:
    """``roomcast plugins`` shows the package, its version, and its declarations."""
    listed = json.loads(roomcast("plugins", "--json", PYTHONPATH=site).stdout)
    assert next(plugin for plugin in listed if plugin["plugin"] == "deploy") == {
        "plugin": "deploy",
        "description": "Deployments and rollbacks",
        "package": "roomcast-deploy 1.2.0",
        "entry_point": "deploy",
        "commands": ["deploy.rollback", "deploy.verify", "deploy.wait", "deploy.environments"],
        "commands_for_anyone": ["deploy.environments"],
        "events": ["deploy.finished"],
        "events_not_stored": [],
        "room_types": ["environment"],
        "room_options": {},
        "periodic_functions": ["prune (3600 s, once per cluster)"],
        "settings": [
            {
                "variable": "DEPLOY_FIRST_VERSION",
                "default": "1.0",
                "unit": "",
                "meaning": "Version of the environment build at the start",
                "required": False,
                "secret": False,
            }
        ],
        "routes": ["GET /plugins/deploy/live/{environment} (public)", "GET /plugins/deploy/mine (user)"],
        "hooks": [],
    }
    assert {"core", "chat", "task", "project"} < {plugin["plugin"] for plugin in listed}


def test_the_plugin_is_not_listed_without_the_package(site) -> None:
    """The environment of the tests does not have the package."""
    listed = json.loads(roomcast("plugins", "--json").stdout)
    assert "deploy" not in {plugin["plugin"] for plugin in listed}


async def test_its_rule_decides_about_joins(team) -> None:
    """The team can join; others are refused and closed with 4403."""
    alice = await team.member("alice", ROOM)
    assert await alice.join(ROOM) == {"message": f"Joined room {ROOM}"}
    mallory = await team.member("mallory", "environment:test", "channel:*")
    with pytest.raises(Refused) as refused:
        await mallory.join(ROOM)
    assert refused.value.code == "forbidden"
    assert await mallory.closed() == (4403, "Forbidden")


async def test_who_may_use_its_commands(team) -> None:
    """A user in no room may use the command for anyone, and not those for members."""
    alice = await team.member("alice", "environment:*")
    assert await alice.command("deploy.environments") == {"environments": ["build"]}
    for command, data in (("deploy.rollback", {"version": "1.1"}), ("deploy.verify", {}), ("deploy.wait", {})):
        with pytest.raises(Refused) as refused:
            await alice.command(command, data, room=ROOM)
        assert refused.value.code == "not_joined"


async def test_its_command_publishes_to_the_whole_room(team) -> None:
    """All members get the event once, others do not, and the caller gets the reply."""
    alice, bob = await team.connect_member("alice"), await team.connect_member("bob")
    carol = await team.member("carol", "environment:*")
    await carol.join("environment:test")
    assert await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM) == {"version": "1.1"}
    events = [await user.next("deploy.finished") for user in (alice, bob)]
    assert events[0] == events[1]
    assert events[0].keys() == {"type", "room", "data", "sender", "timestamp", "id"}
    assert (events[0]["room"], events[0]["data"], events[0]["sender"]) == (ROOM, {"version": "1.1"}, "alice")
    for user in (alice, bob, carol):
        await user.nothing("deploy.finished")


async def test_its_schema_validates_data(team) -> None:
    """Invalid data is refused with the name of the field, and nothing is published."""
    alice = await team.connect_member("alice")
    with pytest.raises(Refused) as refused:
        await alice.command("deploy.rollback", {"version": 2}, room=ROOM)
    assert (refused.value.code, refused.value.fields) == ("invalid_data", {"version": ["Not a valid string."]})
    await alice.nothing("deploy.finished")


async def test_a_failing_handler_affects_only_its_caller(team, server) -> None:
    """The caller gets ``internal``, all connections stay open, and the log has the traceback."""
    alice, bob = await team.connect_member("alice"), await team.connect_member("bob")
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
    (line,) = errors(server)
    assert line["message"] == "deploy.verify of user alice failed"
    assert "roomcast_deploy" in line["exception"]
    assert "KeyError: 'prod'" in line["exception"]


async def test_a_handler_that_hangs_is_cancelled(team, server) -> None:
    """The caller gets ``timeout``; other clients are served meanwhile, and then the caller's next command."""
    alice, bob = await team.connect_member("alice"), await team.connect_member("bob")
    await alice.send({"type": "deploy.wait", "room": ROOM, "id": "hangs"})
    await alice.send({"type": "deploy.rollback", "room": ROOM, "id": "next", "data": {"version": "1.1"}})
    assert await bob.command("deploy.rollback", {"version": "1.0"}, room=ROOM) == {"version": "1.0"}
    await bob.nothing("error")
    error = await alice.next("error")
    assert (error["id"], error["data"]["code"]) == ("hangs", "timeout")
    reply = await alice.next("reply")
    assert (reply["id"], reply["data"]) == ("next", {"version": "1.1"})
    assert [(await bob.next("deploy.finished"))["data"]["version"] for _ in range(2)] == ["1.0", "1.1"]


async def test_its_lifespan_and_route(team, server, session) -> None:
    """The route returns the state of the lifespan and of the commands."""
    async with session.get(f"{server.url}/plugins/deploy/live/build") as response:
        assert await response.json() == {"environment": "build", "version": "1.0"}
    alice = await team.connect_member("alice")
    await alice.command("deploy.rollback", {"version": "1.1"}, room=ROOM)
    async with session.get(f"{server.url}/plugins/deploy/live/prod") as response:
        assert await response.json() == {"environment": "prod", "version": "1.1"}


async def test_a_failing_route_affects_only_its_caller(server, session) -> None:
    """The caller gets 500 as JSON without the reason; the log has the traceback."""
    async with session.get(f"{server.url}/plugins/deploy/live/nowhere") as response:
        assert response.status == 500
        body = await response.json()
    assert body.keys() == {"error", "code"}
    assert body["code"] == "internal"
    async with session.get(f"{server.url}/plugins/deploy/live/build") as response:
        assert response.status == 200
    (line,) = errors(server)
    assert "KeyError: 'nowhere'" in line["exception"]
    assert "/plugins/deploy/live/{environment}" in line["message"]


def test_its_own_tests_pass(source, site) -> None:
    """The tests of the package, which use ``roomcast.testing``, pass."""
    run("pytest", "-q", "-p", "no:cacheprovider", cwd=source, PYTHONPATH=site)


def test_it_is_type_checked(site, tmp_path) -> None:
    """The package passes mypy --strict."""
    options = ("--strict", "--cache-dir", str(tmp_path / "cache"))
    package = link_package(tmp_path / "package")
    run("mypy", *options, "-p", "roomcast_deploy", cwd=tmp_path, PYTHONPATH=site, MYPYPATH=str(package))
