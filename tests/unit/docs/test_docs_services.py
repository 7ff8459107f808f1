"""The examples of what plugins can do with their services work."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from docs_pages import module_of, snippet

from roomcast.errors import SettingsError
from roomcast.testing import running


async def test_the_rooms_of_a_user_example_works() -> None:
    """The connection moves to production, and another one of the user stays where it is."""
    module = module_of(snippet("a complete plugin"), snippet("rooms of a user"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:test"])
        tab = await gateway.connect("alice", rooms=["environment:test"])
        for user in (alice, tab):
            await user.join("environment:test")
        assert await alice.command("deploy.watch_all") == {}
        await alice.next("left_room", room="environment:test")
        await alice.next("joined_room", room="environment:prod")
        assert (await alice.next("deploy.hint"))["data"] == {"text": "You watch production now."}
        for type in ("left_room", "joined_room", "deploy.hint"):
            await tab.nothing(type)


async def test_the_state_example_works() -> None:
    """The command uses the session that the lifespan has opened."""
    versions: list[str] = []

    async def build(request: web.Request) -> web.Response:
        versions.append((await request.json())["version"])
        return web.Response(status=202)

    app = web.Application()
    app.router.add_post("/", build)
    async with TestServer(app) as builds:
        code = snippet("state").replace("https://builds.example.com/", str(builds.make_url("/")))
        module = module_of(snippet("a complete plugin"), code)
        async with running([module["deploy"]]) as gateway:
            alice = await gateway.connect("alice", rooms=["environment:*"])
            await alice.join("environment:prod")
            reply = await alice.command("deploy.build", {"version": "7"}, room="environment:prod")
    assert (reply, versions) == ({"status": 202}, ["7"])


async def test_the_settings_example_works(capsys: pytest.CaptureFixture[str]) -> None:
    """The lifespan uses the value of the variable, and the server does not start without it."""
    module = module_of(snippet("settings of a plugin"))
    with pytest.raises(SettingsError, match="DEPLOY_BUILDS_URL is not set"):
        async with running([module["deploy"]]):
            pass
    async with running([module["deploy"]], plugin_variables={"DEPLOY_BUILDS_URL": "https://b.example"}) as gateway:
        settings = gateway.services["deploy"].settings
    assert capsys.readouterr().out == "builds on https://b.example\n"
    assert settings == module["DeploySettings"]("https://b.example")


async def test_the_periodic_function_example_works() -> None:
    """The members receive the newest version again."""
    module = module_of(snippet("a complete plugin"), snippet("a periodic function").replace("60", "0.1"))
    async with running([module["deploy"]]) as gateway:
        alice = await gateway.connect("alice", rooms=["environment:*"])
        await alice.join("environment:prod")
        await gateway.service.publish("deploy.finished", "environment:prod", {"version": "7"})
        for _ in range(3):
            assert (await alice.next("deploy.finished"))["data"] == {"version": "7"}


async def test_the_route_for_users_works() -> None:
    """A user whose token covers the room cancels the build; another one gets 403."""
    module = module_of(snippet("a complete plugin"), "from roomcast import Service", snippet("a route for users"))
    async with running([module["deploy"]]) as gateway:
        for rooms, status in ((["environment:test"], 403), (["environment:prod"], 200)):
            headers = {"Authorization": f"Bearer {gateway.token('alice', rooms=rooms)}"}
            async with gateway.session.delete("/plugins/deploy/builds/prod", headers=headers) as response:
                assert response.status == status
        (event,) = await gateway.service.history("environment:prod")
        assert (event["data"], event["sender"]) == ({"version": "cancelled"}, "alice")
